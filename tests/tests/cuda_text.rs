//! The text of CUDA sources: a closed list of intrinsics, the same text for the same program, and golden files of some
//! kernels (`TORSH_BLESS=1` rewrites them).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use torsh_codegen::cuda::{Compute, MatmulPlan, MatrixLayout, Module, Options, generate};
use torsh_ir::op::Op;
use torsh_ir::{DType, env, ops};
use torsh_tests::cuda::passes;
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::fuzz::Case;
use torsh_tests::matrix::{case, layouts};

/// Everything of CUDA and C++ that a source may call. A row of a table in the interpreter of PTX stands behind each.
const ALLOWED: &[&str] = &[
    // Of the language.
    "asm",
    "volatile",
    "if",
    "for",
    "while",
    "return",
    "__launch_bounds__",
    "__align__",
    // Rounded arithmetic.
    "__fadd_rn",
    "__fsub_rn",
    "__fmul_rn",
    "__fdiv_rn",
    "__fmaf_rn",
    "__fsqrt_rn",
    "__dadd_rn",
    "__dsub_rn",
    "__dmul_rn",
    "__ddiv_rn",
    "__fma_rn",
    "__dsqrt_rn",
    "__umulhi",
    // Whole numbers near a float, magnitudes and remainders: exact.
    "floorf",
    "floor",
    "ceilf",
    "ceil",
    "rintf",
    "rint",
    "truncf",
    "trunc",
    "fabsf",
    "fabs",
    "fmaxf",
    "fmodf",
    "fmod",
    // Functions of f64.
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "pow",
    "atan2",
    // Conversions and bits.
    "__int_as_float",
    "__float_as_int",
    "__longlong_as_double",
    "__double_as_longlong",
    "__int2float_rn",
    "__uint2float_rn",
    "__ll2float_rn",
    "__ll2double_rn",
    "__double2float_rn",
    "__float2int_rz",
    "__float2ll_rz",
    "__double2int_rz",
    "__double2ll_rz",
    // Memory, warps and blocks.
    "__ldg",
    "make_uint4",
    "make_float2",
    "__cvta_generic_to_shared",
    "__shfl_xor_sync",
    "__shfl_up_sync",
    "__syncwarp",
    "__syncthreads",
    "atomicMin",
    "atomicAdd",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

fn module(case: &Case, options: &Options) -> Module {
    let program = torsh_passes::compile(&case.graph, &passes()).unwrap_or_else(|e| panic!("{e}"));
    generate(&program, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Identifiers that stand before a parenthesis.
fn calls(source: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut rest = source;
    while let Some(at) = rest.find('(') {
        let before = &rest[..at];
        let name: String = before
            .chars()
            .rev()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert(name);
        }
        rest = &rest[at + 1..];
    }
    out
}

/// Programs that use everything: a sample of every op in every dtype, and every schedule.
fn sources() -> Vec<String> {
    let options = Options { processors: 4, ..Options::default() };
    let mut out = Vec::new();
    for def in ops::OPS {
        for dtype in def.dtypes.iter() {
            for (i, sample) in (def.samples)().iter().enumerate().filter(|(i, _)| i % 3 == 0) {
                if let Ok(case) = case(Op(def), sample, dtype, layouts(def, i)[0]) {
                    out.push(module(&case, &options).source);
                }
            }
        }
    }
    let mut shapes = Shapes::default();
    for dtype in [DType::F32, DType::F16] {
        shapes.rows(dtype, 3, 17_000);
        shapes.layouts(dtype);
        shapes.products(dtype, [7, 9, 600]);
        shapes.orders(dtype);
    }
    shapes.half_attention(DType::BF16, [64, 64, 64, 64]);
    shapes.half_attention(DType::F16, [64, 64, 40, 20]);
    for atomics in [false, true] {
        let options = Options { deterministic: !atomics, tf32: atomics, ..options.clone() };
        out.extend(shapes.cases.iter().map(|(_, c)| module(c, &options).source));
    }
    out
}

#[test]
fn sources_call_nothing_else() {
    let allowed: BTreeSet<&str> = ALLOWED.iter().copied().collect();
    let mut strange = BTreeSet::new();
    for source in sources() {
        assert!(!source.contains("#include"), "a source includes something");
        let own = |name: &str| {
            name.starts_with("t_") || (name.starts_with('k') && name[1..].starts_with(|c: char| c.is_ascii_digit()))
        };
        strange.extend(calls(&source).into_iter().filter(|c| !allowed.contains(&c[..]) && !own(c)));
    }
    assert!(strange.is_empty(), "not on the list: {strange:?}");
}

#[test]
fn the_same_program_has_the_same_source() {
    let mut shapes = Shapes::default();
    shapes.rows(DType::F32, 9, 3000);
    for (name, case) in &shapes.cases {
        let (a, b) = (module(case, &Options::default()), module(case, &Options::default()));
        assert_eq!(a, b, "{name}");
    }
}

/// Cases whose sources are kept as files.
fn golden() -> Vec<(&'static str, Case)> {
    let mut s = Shapes::default();
    let mut out = Vec::new();
    let mut take = |s: &mut Shapes, names: &[&'static str]| {
        for name in names {
            let found = s.cases.iter().find(|(n, _)| n.replace(' ', "_").starts_with(name));
            let (_, case) = found.unwrap_or_else(|| panic!("no case {name}"));
            out.push((*name, case.clone()));
        }
        s.cases.clear();
    };
    s.rows(DType::F32, 50, 1500);
    take(&mut s, &["softmax_50x1500", "layer_norm_50x1500", "argmax_50x1500"]);
    s.rows(DType::F32, 1, 17_001);
    take(&mut s, &["sums_1x17001"]);
    s.layouts(DType::BF16);
    take(&mut s, &["columns", "transposes", "map", "broadcast_map"]);
    s.products(DType::F16, [150, 140, 40]);
    take(&mut s, &["dot_150_140_40"]);
    s.products(DType::F32, [7, 9, 600]);
    take(&mut s, &["dot_7_9_600"]);
    s.orders(DType::F32);
    take(&mut s, &["argsort", "cumsum", "take"]);
    s.half_attention(DType::BF16, [130, 150, 80, 64]);
    take(&mut s, &["causal_half_attention", "dropped_half_attention"]);
    out
}

#[test]
fn golden_files() {
    let mut wrong = Vec::new();
    for (name, case) in golden() {
        let module = module(&case, &Options { processors: 4, ..Options::default() });
        let launches: Vec<String> = module
            .steps
            .iter()
            .flat_map(|s| &s.launches)
            .map(|l| {
                format!(
                    "// {} grid {:?} block {:?} dynamic shared {} {:?}\n",
                    module.kernels[l.kernel].name, l.grid, l.block, l.dynamic_shared, l.args
                )
            })
            .collect();
        let text = format!("{}\n{}", launches.concat(), module.source);
        let path = root().join("golden").join(format!("{name}.cu"));
        if env::bless() {
            std::fs::write(&path, &text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "other text than in tests/cuda/golden; TORSH_BLESS=1 rewrites it: {wrong:?}");
}

#[test]
fn plain_products_may_go_to_a_library() {
    let mut s = Shapes::default();
    s.products(DType::F32, [300, 200, 100]);
    s.products(DType::I32, [300, 200, 100]);
    s.batches(DType::BF16);
    let plans: Vec<Option<MatmulPlan>> = s
        .cases
        .iter()
        .map(|(_, case)| module(case, &Options::default()).steps.iter().find_map(|step| step.library.clone()))
        .collect();
    let [plain, transposed, ints, ints_transposed, batches, _] = &plans[..] else { panic!("{} plans", plans.len()) };
    let strides = |plan: &Option<MatmulPlan>| {
        let plan = plan.as_ref().expect("a plan");
        let side = |m: &MatrixLayout| (m.row_stride, m.col_stride);
        ((plan.batch, plan.m, plan.n, plan.k), side(&plan.lhs), side(&plan.rhs), side(&plan.out))
    };
    assert_eq!(strides(plain), ((1, 300, 200, 100), (100, 1), (200, 1), (200, 1)));
    assert_eq!(strides(transposed), ((1, 300, 200, 100), (1, 300), (1, 100), (200, 1)));
    assert_eq!((ints, ints_transposed), (&None, &None));
    assert_eq!(strides(batches), ((6, 40, 50, 30), (30, 1), (50, 1), (50, 1)));
    let plan = batches.as_ref().expect("a plan");
    assert_eq!((plan.dtype, plan.compute), (DType::BF16, Compute::F32));
    assert_eq!([plan.lhs.batch_stride, plan.rhs.batch_stride, plan.out.batch_stride], [1200, 1500, 2000]);
}
