//! Mutants that no test can tell from the generator's text, and why.

use super::Mutant;
use super::trial::Outcome;

/// A group of mutants that are equivalent.
struct Reason {
    /// Parts of their families; any when empty.
    family: &'static str,
    /// Their kind; any when empty.
    kind: &'static str,
    /// Parts of the place or of the change as the list of survivors shows them, all of which it has.
    what: &'static [&'static str],
    /// Why nothing changes.
    why: &'static str,
}

const fn reason_for(
    family: &'static str,
    kind: &'static str,
    what: &'static [&'static str],
    why: &'static str,
) -> Reason {
    Reason { family, kind, what, why }
}

const ONCE: &str = "A loop over the single element of a vector, or of steps whose loads are clamped and whose results are \
    predicated: a further pass does the last one again, or nothing.";
const EVERY_LANE: &str = "All lanes of the group hold the total; which of them stores it does not matter.";
const BY_ELEMENTS: &str = "The other branch moves the same elements one at a time.";
const FAILED: &str = "The index stands for no row, the step fails, and its result is shown to nobody: any row will do.";
const ZERO_BATCH: &str = "One product that is not cut: the part and the batch of every block are 0 whatever the number of \
    tiles or the stride of a batch.";
const ALIGNED: &str = "The array stands at a multiple of 16 bytes anyway, because of its size and those before it.";
const FEW_PARTS: &str = "The four parts of a row lie in the first lanes of the first warp: exchanges between other lanes \
    and other warps, which are there for more than 4 and 32 parts, find initial values.";
const ONE_CHUNK: &str = "A line that one pass of the block covers: what carries over to the next pass, and the barrier \
    before it, are emitted nevertheless. (The same of longer lines is noticed.)";
const ONE_BLOCK: &str = "One block covers everything: a further pass is beyond the end, which loads and stores check.";
const EXPAND: &str =
    "The bound of a load that begins again with the first element, which exists; the store has a bound.";
const UNDEFINED: &str = "The further element of an array in registers does not exist, and the compiler drops what is done \
    with it.";
const ONE_SIDE: &str =
    "The other operand is 0 where the contraction has ended, and rows beyond the end are not stored.";
const SIZE_ONE: &str = "An axis of size 1 has stride 0: positions beyond it are the same element, and are not stored.";
const ZEROS: &str = "A further step of the contraction adds products of zeros, which all loads beyond it give.";

const REASONS: &[Reason] = &[
    reason_for("", "comparison off by one", &["for (int e = 0; e < 1; ++e)"], ONCE),
    reason_for("", "constant off by one", &["for (int e = 0; e < 1; ++e)"], ONCE),
    reason_for("", "comparison off by one", &["for (int j = 0; j <"], ONCE),
    reason_for("", "constant off by one", &["for (int j = 0; j <"], ONCE),
    reason_for("", "", &["if (lane == 0", "if (lane == 1"], EVERY_LANE),
    reason_for("", "", &["if ((threadIdx.x & 31u) == 0u)", "if ((threadIdx.x & 31u) == 1u)"], EVERY_LANE),
    reason_for("", "branch never taken", &["if (at + ", "} else {"], BY_ELEMENTS),
    reason_for("", "comparison off by one", &["if (at + ", "u <= ", "} else {"], BY_ELEMENTS),
    reason_for(
        "map",
        "predicate dropped",
        &["=> if (true || (at < 2503u)) {"],
        "The loads and stores inside have bounds of their own; this one saves work only.",
    ),
    reason_for("", "initial value changed", &["raw); r = 0; }", "raw); r = 1; }"], FAILED),
    reason_for("dot", "plan: number off by one", &["argument 7,"], ZERO_BATCH),
    reason_for("dot", "plan: number off by one", &["argument 8,"], ZERO_BATCH),
    reason_for("dot", "plan: number off by one", &["argument 9, 1 plus 1"], ZERO_BATCH),
    reason_for("dot", "plan: number off by one", &["argument 14,"], ZERO_BATCH),
    reason_for("dot", "plan: number off by one", &["argument 15,"], ZERO_BATCH),
    reason_for("mma", "plan: number off by one", &["argument 7,"], ZERO_BATCH),
    reason_for("mma", "plan: number off by one", &["argument 14,"], ZERO_BATCH),
    reason_for("mma", "plan: number off by one", &["argument 15,"], ZERO_BATCH),
    reason_for("", "plus for minus", &["p0 += (int)(batch) * ab"], "The only batch is 0."),
    reason_for("", "plus for minus", &["p1 += (int)(batch) * bb"], "The only batch is 0."),
    reason_for("", "alignment or volatile removed", &["__shared__ __align__(16)"], ALIGNED),
    reason_for("split rows", "", &["_part1", "t_max_f32(lo, hi)"], FEW_PARTS),
    reason_for("split rows", "", &["_part1", "t_max_f32(a1, o)"], FEW_PARTS),
    reason_for("split rows", "", &["_part1", "((threadIdx.x & 16u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part1", "((threadIdx.x & 8u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part1", "((threadIdx.x & 4u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part1", "for (int w = 1; w < 8; ++w)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "t_max_f32(lo, hi)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "t_max_f32(a1, o)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "((threadIdx.x & 16u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "((threadIdx.x & 8u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "((threadIdx.x & 4u)"], FEW_PARTS),
    reason_for("split rows", "", &["_part2", "for (int w = 1; w < 8; ++w)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "t_max_f32(lo, hi)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "t_max_f32(a1, o)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "((threadIdx.x & 16u)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "((threadIdx.x & 8u)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "((threadIdx.x & 4u)"], FEW_PARTS),
    reason_for("split rows", "", &["_rest", "for (int w = 1; w < 8; ++w)"], FEW_PARTS),
    reason_for("split rows", "branch never taken", &["_rest", "op < a1p))) { a1 = o; a1p = op; }"], FEW_PARTS),
    reason_for("split rows", "predicate dropped", &["_rest", "op < a1p)) { a1 = o; a1p = op; }"], FEW_PARTS),
    reason_for("split rows", "plus for minus", &["256u - (unsigned)lane"], "The same elements in another order."),
    reason_for("dot", "comparison off by one", &["for (int q = 0; q < "], UNDEFINED),
    reason_for("dot", "constant off by one", &["for (int q = 0; q < "], UNDEFINED),
    reason_for("dot", "comparison off by one", &["for (int s = 0; s < "], UNDEFINED),
    reason_for("dot", "constant off by one", &["for (int s = 0; s < "], UNDEFINED),
    reason_for("dot", "initial value changed", &[" v = 0;", " v = 1;"], ONE_SIDE),
    reason_for(
        "dot, skinny",
        "predicate dropped",
        &["if (x < m && y < k1)", "if (x < m && false || y < k1)"],
        SIZE_ONE,
    ),
    reason_for(
        "dot, skinny",
        "predicate dropped",
        &["if (x < n && y < k1)", "if (x < n && false || y < k1)"],
        SIZE_ONE,
    ),
    reason_for("dot, skinny", "comparison off by one", &["if (x <= n && y < k1)"], SIZE_ONE),
    reason_for("dot, skinny", "comparison off by one", &["if (x <= m && y < k1)"], SIZE_ONE),
    reason_for("dot, skinny", "plan: number off by one", &["argument 10, 0 plus 1"], SIZE_ONE),
    reason_for("dot, skinny", "plan: number off by one", &["argument 13, 0 plus 1"], SIZE_ONE),
    reason_for("dot, skinny", "plus for minus", &["p2[((int)batch * m + x) * n - y]"], "The only column is 0."),
    reason_for(
        "attention",
        "constant off by one",
        &["float* const vs = ks + "],
        "The place that is given up is padding.",
    ),
    reason_for(
        "attention",
        "select swapped",
        &["for (int k0 = 0; k0 < (q0 + "],
        "Tiles of keys that a causal mask hides as a whole add nothing; leaving them out saves work.",
    ),
    reason_for(
        "attention",
        "float constant zeroed",
        &["float lse = real ? __ldg(lses + row)"],
        "Points of rows beyond the last are outside and have no weight, whatever the row's logarithm is.",
    ),
    reason_for(
        "attention",
        "predicate dropped",
        &["_attention_dq", "const bool inside = real &&", "real && false || key <"],
        "Rows beyond the last are not stored, and no other row of the gradient of the queries is made of them.",
    ),
    reason_for("fills", "comparison off by one", &["for (int u = 0; u < 1; ++u)"], ONE_BLOCK),
    reason_for("fills", "constant off by one", &["for (int u = 0; u < 1; ++u)"], ONE_BLOCK),
    reason_for("fills", "comparison off by one", &["if (at + ", "u <= n)"], BY_ELEMENTS),
    reason_for("fills", "predicate dropped", &["_expand", "if (at < 273u)"], EXPAND),
    reason_for("fills", "comparison off by one", &["_expand", "if (at < 273u)"], EXPAND),
    reason_for("fills", "constant off by one", &["_expand", "if (at < 273u)"], EXPAND),
    reason_for("mma", "comparison off by one", &["for (int q = 0; q < "], UNDEFINED),
    reason_for("mma", "constant off by one", &["for (int q = 0; q < "], UNDEFINED),
    reason_for("mma", "initial value changed", &["unsigned short v"], ONE_SIDE),
    reason_for("mma", "plan: number off by one", &["argument 8,"], ZERO_BATCH),
    reason_for(
        "mma",
        "stride or tile off by one",
        &["for (int kt = k0; kt < k1; kt += 32)"],
        "It counts the tiles, as many of 33 as of 32 here; what they hold has a position of its own.",
    ),
    reason_for(
        "helper functions",
        "comparison off by one",
        &["const bool m"],
        "At the border between two formulas both are within the tolerance.",
    ),
    reason_for(
        "helper functions",
        "float constant zeroed",
        &["double p = 2.0876756987868098e-09"],
        "The last term of a series in f64 is less than what rounding to f32 may do.",
    ),
    reason_for("", "comparison off by one", &["o != a1 ? o > a1", "o != a1 ? o >= a1"], "They differ there."),
    reason_for(
        "cross entropy",
        "stride or tile off by one",
        &["row0 = (int)blockIdx.x * "],
        "One block: its number is 0.",
    ),
    reason_for("mma", "plan: number off by one", &["argument 9, 1 plus 1"], ZERO_BATCH),
    reason_for(
        "dot",
        "plan: number off by one",
        &["argument 6,"],
        "The contraction is cut elsewhere, into as many parts.",
    ),
    reason_for("scan", "constant off by one", &["for (int e = 0; e < 4; ++e)"], UNDEFINED),
    reason_for("broadcast", "comparison off by one", &["vector broadcast", "for (int u = 0; u < 1; ++u)"], ONE_BLOCK),
    reason_for("broadcast", "constant off by one", &["vector broadcast", "for (int u = 0; u < 1; ++u)"], ONE_BLOCK),
    reason_for(
        "map",
        "comparison off by one",
        &["map float32", "if (at < 2503u) { => if (at <= 2503u) {"],
        "The loads and stores inside have bounds of their own; this one saves work only.",
    ),
    reason_for("map", "constant off by one", &["if (at + 5u <= "], BY_ELEMENTS),
    reason_for(
        "attention",
        "constant off by one",
        &["for (int k0 = 0; k0 < (q0 + "],
        "Tiles of keys that a causal mask hides as a whole add nothing; leaving them out saves work.",
    ),
    reason_for("mma", "comparison off by one", &["for (int at = k0; at < k1;"], ZEROS),
    reason_for("mma", "comparison off by one", &["for (int kt = k0; kt < k1;"], ZEROS),
    reason_for("dot", "comparison off by one", &["for (int kt = k0; kt < k1;"], ZEROS),
    reason_for(
        "dot",
        "",
        &["if (kt + ", " < k1) {"],
        "It saves the loads of a further tile, which are predicated and not used.",
    ),
    reason_for(
        "mma pipeline",
        "cp.async wait or commit deleted",
        &["t_wait_0();"],
        "The groups under way after the last step copy nothing (their sizes are 0) and nobody reads what they fill: this \
         wait is there so that no copy outlives its block.",
    ),
    reason_for("layer norm", "operands swapped", &["const float v5 = __fsub_rn(v4, v3)"], "The difference is squared."),
    reason_for(
        "helper functions",
        "comparison off by one",
        &["return a != a || a "],
        "Equal numbers; zeros of either sign may come from a maximum.",
    ),
    reason_for("helper functions", "comparison off by one", &["? f"], "A choice between two equal numbers."),
    reason_for(
        "argmax",
        "comparison off by one",
        &["op < a1p", "op <= a1p"],
        "Two lanes never hold the same position, but for the one that both have taken, which is then the same result.",
    ),
    reason_for(
        "rows in many parts",
        "comparison off by one",
        &["op < a1p", "op <= a1p"],
        "Two lanes never hold the same position, but for the one that both have taken, which is then the same result.",
    ),
    reason_for(
        "argmax",
        "predicate dropped",
        &["argmax 7x301", "if (true || (ok &&"],
        "Each lane has one element; those beyond the end of the row have its last one, with its position.",
    ),
    reason_for(
        "argmax",
        "predicate dropped",
        &["argmax 7x301", "o == o && o != a1 ? o > a1", "o == o || false && o != a1 ? o > a1"],
        "Each lane has one element, so that of equal ones the lane that stores has the first already.",
    ),
    reason_for(
        "rows in many parts",
        "stride or tile off by one",
        &["row * 34 + s + lane", "row * 35 + s + lane"],
        "The only row is 0.",
    ),
    reason_for(
        "",
        "predicate dropped",
        &["v0 == v0 && v0 != a1 ? v0 > a1", "v0 == v0 || false && v0 != a1 ? v0 > a1"],
        "A lane meets its elements in order: of equal ones it has the first already, and the place of a row that is \
         -inf all over is 0 where none was taken.",
    ),
    reason_for(
        "helper functions",
        "constant off by one",
        &["t_fail", "(at << 16);", "(at << 17);"],
        "Positions in these programs are small, so that the bit between them and the index is to spare; large ones \
         are tried by `the_error_record_of_far_positions`.",
    ),
    reason_for(
        "mma, bf16",
        "cp.async wait or commit deleted",
        &["t_wait_0();"],
        "The groups under way after the last step copy nothing (their sizes are 0) and nobody reads what they fill: this \
         wait is there so that no copy outlives its block.",
    ),
    reason_for(
        "split rows",
        "comparison off by one",
        &["op < a1p", "op <= a1p"],
        "Two lanes never hold the same position, but for the one that both have taken, which is then the same result.",
    ),
    reason_for(
        "",
        "mask changed",
        &["const float hi = ((threadIdx.x & 1u) != 0u) ? a1 : o;", "(threadIdx.x & 2u)"],
        "After the last exchange the result of lane 0 is used, where both give the same.",
    ),
    reason_for(
        "",
        "mask changed",
        &["const double hi = ((threadIdx.x & 1u) != 0u) ? a1 : o;", "(threadIdx.x & 2u)"],
        "After the last exchange the result of lane 0 is used, where both give the same.",
    ),
    reason_for(
        "scan",
        "constant off by one",
        &["for (int d = 1; d < 32; d <<= 1)"],
        "A distance of 32 reaches no lane.",
    ),
    reason_for(
        "scan",
        "comparison off by one",
        &["for (int d = 1; d < 32; d <<= 1)"],
        "A distance of 32 reaches no lane.",
    ),
    reason_for(
        "sort",
        "stride or tile off by one",
        &["const unsigned mid = lo + (hi - lo) / 2u"],
        "A search that cuts its range in other parts finds the same place.",
    ),
    reason_for("sort", "comparison off by one", &["u - lo < run ?"], "Where both are equal either may be taken."),
    reason_for("scatter", "comparison off by one", &["ka != kb ? ka > kb"], "The keys differ there."),
    reason_for(
        "scan",
        "float constant zeroed",
        &["float v = __int_as_float(0x"],
        "The value of places beyond the end of a line, which come after all that is stored.",
    ),
    reason_for("scan", "", &["cummin of columns", "carry = "], ONE_CHUNK),
    reason_for("scan", "barrier deleted", &["cummin of columns"], ONE_CHUNK),
    reason_for("sort", "comparison off by one", &["p1[m] < place", "p1[m] <= place"], "No two places are equal."),
    reason_for("", "constant off by one", &["for (int k = 2; k <= "], "The next power of two is larger still."),
    reason_for("scatter", "stride or tile off by one", &["q < 128; q += 128"], "One pass."),
    reason_for(
        "scatter",
        "stride or tile off by one",
        &["const long long first = line / 1ll *"],
        "The sort of destinations has one line, whose number is 0.",
    ),
];

/// Why a mutant that survived is equivalent, if it is.
pub fn reason(m: &Mutant) -> Option<&'static str> {
    let fits = |r: &&Reason| {
        (r.family.is_empty() || m.family.contains(r.family))
            && (r.kind.is_empty() || r.kind == m.kind)
            && r.what.iter().all(|w| m.place.contains(w) || m.what.contains(w))
    };
    (m.outcome == Outcome::Survived).then(|| REASONS.iter().find(fits).map(|r| r.why)).flatten()
}
