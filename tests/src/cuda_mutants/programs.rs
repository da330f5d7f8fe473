//! The programs that are mutated: small ones that reach every family of kernels, with odd sizes and large numbers.

use crate::cuda::shapes::Shapes;
use crate::fuzz::Case;
use crate::values::Rng;
use torsh_codegen::cuda::Options;
use torsh_ir::interp::HostTensor;
use torsh_ir::{Attr, DType, Scalar};

/// A program of a family.
pub struct Entry {
    /// Its family, a row of the table.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// The graph with its first inputs.
    pub case: Case,
    /// How it is compiled.
    pub options: Options,
    /// Further inputs.
    pub more: Vec<Vec<HostTensor>>,
    /// Small integers, on which every order of computation gives the same, where the program only adds and multiplies.
    pub exact: Option<Vec<HostTensor>>,
}

/// Makes further inputs of the first ones.
type Further = fn(&[HostTensor]) -> Vec<HostTensor>;

/// Small integers, if sums and products of them are all that a graph computes.
fn exact(case: &Case) -> Option<Vec<HostTensor>> {
    let adds = |name: &str| {
        [
            "input",
            "dot_general",
            "sum",
            "amax",
            "cumsum",
            "cummax",
            "index_put",
            "scatter",
            "reshape",
            "permute",
            "full",
        ]
        .contains(&name)
    };
    if !case.graph.ids().all(|id| adds(case.graph.node(id).op.name)) {
        return None;
    }
    let mut inputs = case.inputs.clone();
    for (n, t) in inputs.iter_mut().enumerate().filter(|(_, t)| t.ty.dtype.is_float()) {
        (0..t.len()).for_each(|i| t.set(i, Scalar::Float(((i * (5 + n) + i / 7) % 13) as f64 - 5.0)));
    }
    Some(inputs)
}

/// Infinities, NaN, zeros of both signs and numbers near the largest, a few among the others.
fn extremes(inputs: &[HostTensor]) -> Vec<HostTensor> {
    const STRANGE: [f64; 6] = [f64::INFINITY, -0.0, 3e4, f64::NEG_INFINITY, -3e4, f64::NAN];
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype.is_float()) {
        for (n, i) in (3..t.len()).step_by(29).enumerate() {
            t.set(i, Scalar::Float(STRANGE[n % STRANGE.len()]));
        }
    }
    inputs
}

/// Few different numbers: ties, and rows that are constant.
fn ties(inputs: &[HostTensor]) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype.is_float()) {
        let last = t.ty.shape.last().copied().unwrap_or(1).max(1);
        for i in 0..t.len() {
            let constant = (i / last).is_multiple_of(2);
            t.set(i, Scalar::Float(if constant { 3.25 } else { (Rng::new(i as u64).next() % 3) as f64 - 1.0 }));
        }
    }
    inputs
}

/// No number above -300: exponentials of them are 0.
fn negatives(inputs: &[HostTensor]) -> Vec<HostTensor> {
    each_float(inputs, |x| -300.0 - x.abs())
}

/// NaN at several places of every row.
fn nans(inputs: &[HostTensor]) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype.is_float()) {
        for i in (4..t.len()).step_by(13) {
            t.set(i, Scalar::Float(f64::NAN));
        }
    }
    inputs
}

fn each_float(inputs: &[HostTensor], f: impl Fn(f64) -> f64) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype.is_float()) {
        for i in 0..t.len() {
            if let Scalar::Float(x) = t.get(i) {
                t.set(i, Scalar::Float(f(x)));
            }
        }
    }
    inputs
}

/// One number of each row is by far the largest, in another place each time: what misses it overflows. `ROUND` of
/// `ROUNDS` such inputs have it in the part of a row that no other has.
fn peaks<const ROUND: usize, const ROUNDS: usize, const DIM: usize>(inputs: &[HostTensor]) -> Vec<HostTensor> {
    // Far enough apart for exponentials of f64 too.
    let far = if inputs.iter().any(|t| t.ty.dtype == DType::F64) { 2000.0 } else { 500.0 };
    let mut inputs = each_float(inputs, |x| -far - x.abs());
    if let Some(t) = inputs.first_mut().filter(|t| t.ty.dtype.is_float() && t.ty.shape.len() == 2) {
        let (rows, len) = (t.ty.shape[1 - DIM], t.ty.shape[DIM]);
        for row in 0..rows {
            let part = row + rows * ROUND;
            let mut at = part * len / (rows * ROUNDS);
            // In long rows in another warp of a block each time.
            if len > 1024 {
                at = at - at % 256 + 32 * (part % 8) + 5 * part % 32;
            }
            let at = at.min(len - 1);
            t.set(if DIM == 1 { row * len + at } else { at * rows + row }, Scalar::Float(far));
        }
    }
    inputs
}

/// The largest number several times in each row: at the place of a lane that the first one meets in an exchange, or of
/// the first lane of another warp, and where the first lane of all comes later, whatever the number of threads.
fn twins<const ROUND: usize>(inputs: &[HostTensor]) -> Vec<HostTensor> {
    const EARLY: [usize; 7] = [16, 8, 4, 2, 1, 32, 64];
    at_the_top(inputs, |row, _| {
        let early = EARLY[(row + 2 * ROUND) % EARLY.len()];
        let late = [32, 64, 128, 256, 512].into_iter().filter(|&at| at > early);
        std::iter::once(early).chain(late).collect()
    })
}

/// The largest number at the end of each row.
fn last(inputs: &[HostTensor]) -> Vec<HostTensor> {
    at_the_top(inputs, |_, len| vec![len - 1])
}

/// The same number, larger than all others, at the places of each row that are given for its number and length.
fn at_the_top(inputs: &[HostTensor], places: impl Fn(usize, usize) -> Vec<usize>) -> Vec<HostTensor> {
    let mut inputs = each_float(inputs, |x| -1.0 - x.abs().min(9.0));
    if let Some(t) = inputs.first_mut().filter(|t| t.ty.dtype.is_float() && t.ty.shape.len() == 2) {
        let len = t.ty.shape[1].max(1);
        for (row, start) in (0..t.len()).step_by(len).enumerate() {
            for at in places(row, len).into_iter().filter(|&at| at < len) {
                t.set(start + at, Scalar::Float(7.5));
            }
        }
    }
    inputs
}

/// Every index of the `i64` inputs at its largest or smallest, by turns.
fn edges(inputs: &[HostTensor]) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype == DType::I64) {
        for i in 0..t.len() {
            t.set(i, Scalar::Int(if i % 3 == 0 { 0 } else { 16 }));
        }
    }
    inputs
}

/// The `i64` inputs counted from the end.
fn from_the_end(inputs: &[HostTensor]) -> Vec<HostTensor> {
    indices(inputs, |i, x| if i == 2 { -17 } else { x - 17 })
}

/// One index just beyond the end, a later one far beyond.
fn past(inputs: &[HostTensor]) -> Vec<HostTensor> {
    indices(inputs, |i, x| match i {
        5 => 17,
        9 => 1 << 40,
        _ => x,
    })
}

/// One index just before the first, a later one beyond the end.
fn before(inputs: &[HostTensor]) -> Vec<HostTensor> {
    indices(inputs, |i, x| match i {
        5 => -18,
        9 => 40,
        _ => x,
    })
}

/// An index all of whose bits the error must show.
fn far(inputs: &[HostTensor]) -> Vec<HostTensor> {
    indices(inputs, |i, x| if i == 4 { 0x1234_5678_9abc_def1 } else { x })
}

fn indices(inputs: &[HostTensor], f: impl Fn(usize, i64) -> i64) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype == DType::I64) {
        for i in 0..t.len() {
            if let Scalar::Int(x) = t.get(i) {
                t.set(i, Scalar::Int(f(i, x)));
            }
        }
    }
    inputs
}

/// Large arguments, and small ones.
fn wide(inputs: &[HostTensor]) -> Vec<HostTensor> {
    each_float(inputs, |x| x * 37.0)
}
/// Numbers up to the largest of f32, and such as lose all their digits when multiples of pi are taken off.
fn huge(inputs: &[HostTensor]) -> Vec<HostTensor> {
    let mut inputs = inputs.to_vec();
    for t in inputs.iter_mut().filter(|t| t.ty.dtype == DType::F32) {
        for i in 0..t.len() {
            let x = t.get(i).as_f64() * 2f64.powi(20 + (i % 105) as i32);
            t.set(i, Scalar::Float(x));
        }
        // The number of f32 that is nearest to a multiple of pi / 2, and multiples of it.
        let hard = 16_367_173.0 * 2f64.powi(72);
        // The nearest to even multiples among those whose reduction needs all bits of the last word of 2 / pi, for each
        // choice of words; and the border between the two ways.
        let last = [(10_838_702.0, 1), (16_720_799.0, 33), (10_057_457.0, 65), (9_860_544.0, 97)];
        let last = last.into_iter().map(|(m, e)| m * 2f64.powi(e));
        let border = 2f64.powi(20);
        let all = [hard, -hard, hard * 2.0, hard * 4.0, border, -border].into_iter().chain(last);
        for (i, x) in all.enumerate().take(t.len()) {
            t.set(i, Scalar::Float(x));
        }
    }
    inputs
}
fn tiny_numbers(inputs: &[HostTensor]) -> Vec<HostTensor> {
    each_float(inputs, |x| x * 1e-39)
}

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
}

impl List {
    /// Adds the cases that `fill` makes and `keep` names.
    fn add(
        &mut self,
        family: &'static str,
        options: &Options,
        keep: &[&str],
        further: &[Further],
        fill: impl FnOnce(&mut Shapes),
    ) {
        let mut shapes = Shapes::default();
        fill(&mut shapes);
        for (name, case) in shapes.cases {
            if keep.is_empty() || keep.iter().any(|k| name.starts_with(k)) {
                let more = further.iter().map(|f| f(&case.inputs)).collect();
                let exact = exact(&case);
                self.entries.push(Entry { family, name, case, options: options.clone(), more, exact });
            }
        }
    }
}

/// The programs.
pub fn programs() -> Vec<Entry> {
    let mut l = List::default();
    let small = Options { processors: 2, ..Options::default() };
    let middle = Options { processors: 8, ..Options::default() };
    let tiny = Options { processors: 4, ..Options::default() };
    let (f, h, i64s) = (DType::F32, DType::F16, Some(DType::I64));
    let one = |attrs: &[i64]| attrs.iter().map(|&d| Attr::Int(d)).collect::<Vec<_>>();
    let places: &[Further] = &[edges, from_the_end, past, before, far];
    l.add("map", &small, &[], &[extremes, wide, huge, tiny_numbers], |s| {
        s.add("functions", f, &[(&[700], None)], &|_, x| {
            vec![x[0].exp(), x[0].log(), x[0].sin(), x[0].tanh(), x[0].erf(), x[0].rsqrt()]
        });
        s.add("map", f, &[(&[2503], None), (&[2503], None)], &|_, x| vec![x[0] * x[1] - x[0], x[0].maximum(x[1])]);
        s.add("map of a slice", f, &[(&[72, 30], None)], &|_, x| vec![x[0].slice(&[1, 2], &[70, 29], &[2, 3]).exp()]);
    });
    l.add("vector map", &small, &[], &[extremes], |s| {
        s.add("vector map", f, &[(&[1028], None), (&[1028], None)], &|_, x| vec![x[0] - x[1]]);
        s.add("vector map", h, &[(&[2056], None), (&[2056], None)], &|_, x| vec![x[0] / x[1]]);
    });
    l.add("broadcast", &small, &[], &[extremes], |s| {
        s.add("broadcast", f, &[(&[19, 23], None), (&[23], None), (&[19, 1], None)], &|_, x| {
            vec![x[0] * x[1].broadcast_to(&[19, 23]) - x[2].broadcast_to(&[19, 23])]
        });
        s.add("vector broadcast", f, &[(&[9, 5, 12], None), (&[5, 12], None), (&[9, 1, 1], None)], &|_, x| {
            vec![x[0] - x[1].broadcast_to(&[9, 5, 12]) * x[2].broadcast_to(&[9, 5, 12])]
        });
    });
    let kinds: &[Further] =
        &[extremes, ties, twins::<0>, negatives, nans, peaks::<0, 3, 1>, peaks::<1, 3, 1>, peaks::<2, 3, 1>];
    let columns: &[Further] = &[extremes, ties, negatives, nans, peaks::<0, 2, 0>, peaks::<1, 2, 0>];
    let long: &[Further] = &[
        negatives,
        ties,
        twins::<0>,
        twins::<1>,
        twins::<2>,
        last,
        nans,
        peaks::<0, 4, 1>,
        peaks::<1, 4, 1>,
        peaks::<2, 4, 1>,
        peaks::<3, 4, 1>,
    ];
    l.add("softmax, row of a warp", &small, &["softmax"], kinds, |s| s.rows(f, 37, 45));
    l.add("layer norm, row of a warp", &small, &["layer_norm"], kinds, |s| s.rows(f, 21, 76));
    l.add("sums, row of a warp", &small, &["sums"], kinds, |s| s.rows(f, 37, 45));
    l.add("argmax", &small, &["argmax"], kinds, |s| s.rows(f, 37, 45));
    l.add("argmax", &small, &["argmax"], kinds, |s| s.rows(f, 7, 301));
    l.add("softmax, row of a block", &small, &["softmax"], kinds, |s| s.rows(f, 7, 301));
    l.add("layer norm, row of a block", &small, &["layer_norm"], kinds, |s| s.rows(h, 3, 1304));
    l.add("sums, row of a block", &small, &["sums"], kinds, |s| s.rows(f, 7, 301));
    l.add("rows kept in shared memory", &small, &["softmax"], &[negatives, peaks::<0, 2, 1>, peaks::<1, 2, 1>], |s| {
        s.rows(DType::F64, 8, 9001)
    });
    l.add("split rows", &middle, &["softmax", "argmax"], long, |s| s.rows(f, 2, 16_387));
    l.add("column reduction", &small, &[], columns, |s| {
        s.add("columns", f, &[(&[75, 37], None)], &|_, x| vec![x[0].sum(&[0]), x[0].reduce("amax", &[0])]);
        s.add("softmax of columns", f, &[(&[43, 35], None)], &|b, x| vec![b.op("softmax", &[x[0]], &one(&[0]))]);
        s.add("middle", f, &[(&[3, 50, 11], None)], &|_, x| vec![x[0].sum(&[1]), x[0].sum(&[0, 2])]);
    });
    l.add("split columns", &tiny, &[], &[], |s| {
        s.add("long columns", f, &[(&[16_500, 3], None)], &|_, x| vec![x[0].sum(&[0])]);
    });
    l.add(
        "cross entropy",
        &small,
        &[],
        &[ties, edges, past, before, far, negatives, peaks::<0, 2, 1>, peaks::<1, 2, 1>],
        |s| {
            let attrs = |r: &str| [Attr::from(r), Attr::Int(3), Attr::Scalar(Scalar::Float(0.1))];
            s.add("cross_entropy", f, &[(&[21, 17], None), (&[21], i64s)], &|b, x| {
                vec![
                    b.op("cross_entropy", &[x[0], x[1]], &attrs("none")),
                    b.op("cross_entropy", &[x[0], x[1]], &attrs("mean")),
                ]
            });
        },
    );
    l.add("transpose", &small, &[], &[extremes], |s| {
        s.add("transpose", f, &[(&[37, 70], None)], &|_, x| vec![x[0].permute(&[1, 0]).neg()]);
        s.add("transposes", h, &[(&[2, 37, 35], None), (&[2, 35, 37], None)], &|_, x| {
            vec![x[0].permute(&[0, 2, 1]) - x[1]]
        });
    });
    l.add("take and gather", &small, &[], places, |s| {
        s.add("take", f, &[(&[17, 12], None), (&[30], i64s)], &|b, x| vec![b.op("take", &[x[0], x[1]], &one(&[0]))]);
        s.add("take of columns", f, &[(&[5, 17], None), (&[21], i64s)], &|b, x| {
            vec![b.op("take", &[x[0], x[1]], &one(&[1]))]
        });
        s.add("gather", f, &[(&[17, 9], None), (&[40, 7], i64s)], &|b, x| {
            vec![b.op("gather", &[x[0], x[1]], &one(&[0]))]
        });
    });
    for (mode, family) in
        [("set", "scatter and index_put"), ("add", "scatter and index_put"), ("amax", "scatter and index_put")]
    {
        l.add(family, &small, &[], places, |s| {
            let attrs = || [Attr::Int(0), Attr::from(mode)];
            for n in [30, 150] {
                let (rows, each) = ([n], [n, 9]);
                s.add(
                    &format!("index_put {mode} {n}"),
                    f,
                    &[(&[17, 9], None), (&rows, i64s), (&each, None)],
                    &|b, x| vec![b.op("index_put", &[x[0], x[1], x[2]], &attrs())],
                );
            }
            s.add(&format!("scatter {mode}"), f, &[(&[17, 9], None), (&[70, 8], i64s), (&[70, 8], None)], &|b, x| {
                vec![b.op("scatter", &[x[0], x[1], x[2]], &attrs())]
            });
        });
    }
    l.add("scan", &small, &[], kinds, |s| {
        s.add("cumsum", f, &[(&[2, 4999], None)], &|b, x| vec![b.op("cumsum", &[x[0]], &one(&[1]))]);
        s.add("cummax", f, &[(&[2, 4500], None)], &|b, x| vec![b.op("cummax", &[x[0]], &one(&[1]))]);
        s.add("cummin of columns", f, &[(&[2, 300, 3], None)], &|b, x| vec![b.op("cummin", &[x[0]], &one(&[1]))]);
    });
    l.add("scan in parts", &middle, &[], kinds, |s| {
        s.add("cumsum", f, &[(&[2, 13_001], None)], &|b, x| vec![b.op("cumsum", &[x[0]], &one(&[1]))]);
        s.add("cummax of columns", f, &[(&[3, 131, 20], None)], &|b, x| vec![b.op("cummax", &[x[0]], &one(&[1]))]);
    });
    l.add("sort", &small, &[], kinds, |s| {
        let sort = |d: i64, down: bool| [Attr::Int(d), Attr::Bool(down)];
        s.add("argsort", f, &[(&[2, 1300], None)], &|b, x| vec![b.op("argsort", &[x[0]], &sort(1, false))]);
        s.add("argsort of columns", h, &[(&[2, 50, 3], None)], &|b, x| vec![b.op("argsort", &[x[0]], &sort(1, true))]);
    });
    // Equal kernels are run on all of these: last tiles of every kind, and contractions within one tile.
    l.add("dot, tiles", &tiny, &[], &[extremes], |s| {
        s.products(f, [67, 70, 19]);
        s.products(f, [37, 41, 7]);
        s.products(DType::I64, [131, 19, 35]);
        s.products(DType::I64, [17, 9, 6]);
        s.products(DType::I64, [17, 9, 35]);
        s.products(DType::I64, [140, 9, 20]);
    });
    l.add("dot, tiles", &small, &["batches"], &[], |s| s.batches(f));
    l.add("dot, skinny", &tiny, &["dot"], &[extremes], |s| {
        s.products(f, [1, 131, 130]);
        s.products(f, [1, 70, 9]);
        s.products(f, [131, 1, 130]);
        s.products(f, [70, 1, 9]);
    });
    l.add("dot, split contraction", &tiny, &["dot 7", "dot 20", "dot 140"], &[], |s| {
        s.products(f, [7, 9, 600]);
        s.products(f, [20, 33, 777]);
        s.products(f, [140, 9, 600]);
    });
    l.add("mma", &tiny, &[], &[extremes], |s| {
        s.products(h, [70, 67, 41]);
        s.products(h, [37, 35, 10]);
        s.products(h, [66, 70, 34]);
    });
    l.add("mma pipeline", &tiny, &[], &[extremes], |s| {
        s.products(h, [72, 88, 136]);
        s.products(h, [72, 40, 24]);
        s.products(h, [40, 72, 64]);
    });
    l.add("dot, f64", &tiny, &[], &[extremes], |s| {
        s.products(DType::F64, [67, 70, 19]);
        s.products(DType::F64, [37, 41, 7]);
    });
    l.add("mma, bf16", &tiny, &[], &[extremes], |s| {
        s.products(DType::BF16, [70, 67, 41]);
        s.products(DType::BF16, [37, 35, 10]);
        s.products(DType::BF16, [72, 40, 136]);
        s.products(DType::BF16, [72, 40, 24]);
    });
    l.add("mma, TF32", &Options { tf32: true, ..tiny.clone() }, &[], &[extremes], |s| {
        s.products(f, [70, 67, 41]);
        s.products(f, [72, 40, 136]);
    });
    let atomic = Options { deterministic: false, ..small.clone() };
    l.add("atomic additions", &atomic, &[], places, |s| {
        let attrs = || [Attr::Int(0), Attr::from("add")];
        s.add("index_put add", f, &[(&[17, 9], None), (&[150], i64s), (&[150, 9], None)], &|b, x| {
            vec![b.op("index_put", &[x[0], x[1], x[2]], &attrs())]
        });
        s.add("scatter add", f, &[(&[17, 9], None), (&[70, 8], i64s), (&[70, 8], None)], &|b, x| {
            vec![b.op("scatter", &[x[0], x[1], x[2]], &attrs())]
        });
    });
    // Of 34 parts of a row 33 have elements: more than a warp has lanes.
    let many = Options { processors: 17, ..Options::default() };
    let ends: &[Further] = &[
        negatives,
        nans,
        peaks::<0, 1, 1>,
        peaks::<1, 2, 1>,
        last,
        twins::<0>,
        twins::<4>,
        twins::<1>,
        twins::<5>,
        twins::<2>,
        twins::<6>,
    ];
    l.add("rows in many parts", &many, &["softmax", "argmax"], ends, |s| s.rows(f, 1, 33 * 17 * 256 - 5));
    l.add("attention", &tiny, &[], &[], |s| s.attention(69, 20));
    // Several blocks of keys, rows of a warp that is half empty, rows shorter than their fragments. Finite numbers: what is
    // computed again takes more instructions than a mutant may.
    let kinds = ["causal half", "added half", "masked half", "dropped half", "views in half"];
    l.add("attention, mma", &tiny, &kinds, &[], |s| s.half_attention(h, [70, 85, 40, 24]));
    l.add("attention, mma", &tiny, &["all half", "logarithms"], &[], |s| {
        s.half_attention(DType::BF16, [66, 130, 24, 20]);
    });
    let two = Options { processors: 1, ..Options::default() };
    l.add("attention, mma", &two, &["causal half"], &[], |s| s.half_attention(h, [140, 70, 24, 16]));
    l.add("fills and copies", &small, &[], &[], |s| {
        s.add("fill and concat", f, &[(&[7, 13], None), (&[7, 5], None)], &|b, x| {
            let full = x[0].full_like(2.5);
            vec![full, b.concat(&[x[0], x[1]], 1)]
        });
        s.add("copy", f, &[(&[7, 13], None)], &|_, x| vec![x[0].reshape(&[91]), x[0].broadcast_to(&[3, 7, 13])]);
    });
    l.entries
}
