//! The programs that are mutated: small ones that reach every family of kernels, with odd sizes and large numbers.

use crate::cuda::shapes::Shapes;
use crate::fuzz::Case;
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
            t.set(i, Scalar::Float(if constant { 3.25 } else { (i * 7 % 5) as f64 - 2.0 }));
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
        further: &[fn(&[HostTensor]) -> Vec<HostTensor>],
        fill: impl FnOnce(&mut Shapes),
    ) {
        let mut shapes = Shapes::default();
        fill(&mut shapes);
        for (name, case) in shapes.cases {
            if keep.is_empty() || keep.iter().any(|k| name.starts_with(k)) {
                let more = further.iter().map(|f| f(&case.inputs)).collect();
                self.entries.push(Entry { family, name, case, options: options.clone(), more });
            }
        }
    }
}

/// The programs.
pub fn programs() -> Vec<Entry> {
    let mut l = List::default();
    let small = Options { processors: 2, ..Options::default() };
    let tiny = Options { processors: 4, ..Options::default() };
    let (f, h, i64s) = (DType::F32, DType::F16, Some(DType::I64));
    let one = |attrs: &[i64]| attrs.iter().map(|&d| Attr::Int(d)).collect::<Vec<_>>();
    l.add("map", &small, &[], &[extremes], |s| {
        s.add("map", f, &[(&[1003], None), (&[1003], None)], &|_, x| vec![x[0] * x[1] - x[0], x[0].maximum(x[1])]);
        s.add("map of a slice", f, &[(&[41, 30], None)], &|_, x| vec![x[0].slice(&[1, 2], &[40, 29], &[2, 3]).exp()]);
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
    let kinds: &[fn(&[HostTensor]) -> Vec<HostTensor>] = &[extremes, ties];
    l.add("softmax, row of a warp", &small, &["softmax"], kinds, |s| s.rows(f, 37, 45));
    l.add("layer norm, row of a warp", &small, &["layer_norm"], kinds, |s| s.rows(f, 21, 76));
    l.add("sums, row of a warp", &small, &["sums"], kinds, |s| s.rows(f, 37, 45));
    l.add("argmax", &small, &["argmax"], kinds, |s| s.rows(f, 37, 45));
    l.add("argmax", &small, &["argmax"], kinds, |s| s.rows(f, 3, 301));
    l.add("softmax, row of a block", &small, &["softmax"], kinds, |s| s.rows(f, 3, 301));
    l.add("layer norm, row of a block", &small, &["layer_norm"], kinds, |s| s.rows(h, 3, 1304));
    l.add("sums, row of a block", &small, &["sums"], kinds, |s| s.rows(f, 3, 301));
    l.add("rows kept in shared memory", &small, &["softmax"], &[], |s| s.rows(DType::F64, 8, 9001));
    l.add("split rows", &tiny, &["softmax", "argmax"], &[], |s| s.rows(f, 1, 16_387));
    l.add("column reduction", &small, &[], kinds, |s| {
        s.add("columns", f, &[(&[75, 37], None)], &|_, x| vec![x[0].sum(&[0]), x[0].reduce("amax", &[0])]);
        s.add("softmax of columns", f, &[(&[43, 35], None)], &|b, x| vec![b.op("softmax", &[x[0]], &one(&[0]))]);
        s.add("middle", f, &[(&[3, 50, 11], None)], &|_, x| vec![x[0].sum(&[1]), x[0].sum(&[0, 2])]);
    });
    l.add("split columns", &tiny, &[], &[], |s| {
        s.add("long columns", f, &[(&[16_500, 3], None)], &|_, x| vec![x[0].sum(&[0])]);
    });
    l.add("cross entropy", &small, &[], &[ties, edges], |s| {
        let attrs = |r: &str| [Attr::from(r), Attr::Int(3), Attr::Scalar(Scalar::Float(0.1))];
        s.add("cross_entropy", f, &[(&[21, 17], None), (&[21], i64s)], &|b, x| {
            vec![
                b.op("cross_entropy", &[x[0], x[1]], &attrs("none")),
                b.op("cross_entropy", &[x[0], x[1]], &attrs("mean")),
            ]
        });
    });
    l.add("transpose", &small, &[], &[extremes], |s| {
        s.add("transpose", f, &[(&[37, 70], None)], &|_, x| vec![x[0].permute(&[1, 0]).neg()]);
        s.add("transposes", h, &[(&[2, 37, 35], None), (&[2, 35, 37], None)], &|_, x| {
            vec![x[0].permute(&[0, 2, 1]) - x[1]]
        });
    });
    l.add("take and gather", &small, &[], &[edges], |s| {
        s.add("take", f, &[(&[17, 12], None), (&[30], i64s)], &|b, x| vec![b.op("take", &[x[0], x[1]], &one(&[0]))]);
        s.add("take of columns", f, &[(&[5, 17], None), (&[21], i64s)], &|b, x| {
            vec![b.op("take", &[x[0], x[1]], &one(&[1]))]
        });
        s.add("gather", f, &[(&[17, 9], None), (&[40, 7], i64s)], &|b, x| {
            vec![b.op("gather", &[x[0], x[1]], &one(&[0]))]
        });
        s.add("take beyond", f, &[(&[9, 5], None), (&[40], i64s)], &|b, x| {
            vec![b.op("take", &[x[0], x[1]], &one(&[0]))]
        });
    });
    for (mode, family) in
        [("set", "scatter and index_put"), ("add", "scatter and index_put"), ("amax", "scatter and index_put")]
    {
        l.add(family, &small, &[], &[edges], |s| {
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
        s.add("cumsum", f, &[(&[2, 1301], None)], &|b, x| vec![b.op("cumsum", &[x[0]], &one(&[1]))]);
        s.add("cummax of columns", f, &[(&[45, 7], None)], &|b, x| vec![b.op("cummax", &[x[0]], &one(&[0]))]);
    });
    l.add("sort", &small, &[], kinds, |s| {
        let sort = |d: i64, down: bool| [Attr::Int(d), Attr::Bool(down)];
        s.add("argsort", f, &[(&[1, 2500], None)], &|b, x| vec![b.op("argsort", &[x[0]], &sort(1, false))]);
        s.add("argsort of columns", h, &[(&[50, 3], None)], &|b, x| vec![b.op("argsort", &[x[0]], &sort(0, true))]);
    });
    l.add("dot, tiles", &tiny, &[], &[extremes], |s| {
        s.products(f, [37, 41, 19]);
        s.products(DType::I64, [17, 9, 33]);
    });
    l.add("dot, tiles", &small, &["batches"], &[], |s| s.batches(f));
    l.add("dot, skinny", &tiny, &["dot 1"], &[extremes], |s| s.products(f, [1, 70, 130]));
    l.add("dot, skinny", &tiny, &["dot 70"], &[extremes], |s| s.products(f, [70, 1, 130]));
    l.add("dot, split contraction", &tiny, &["dot 7"], &[], |s| s.products(f, [7, 9, 600]));
    l.add("mma", &tiny, &[], &[extremes], |s| s.products(h, [70, 67, 41]));
    l.add("mma pipeline", &tiny, &[], &[extremes], |s| s.products(h, [72, 88, 136]));
    l.add("attention", &tiny, &[], &[], |s| s.attention(37, 20));
    l.add("fills and copies", &small, &[], &[], |s| {
        s.add("fill and concat", f, &[(&[7, 13], None), (&[7, 5], None)], &|b, x| {
            let full = x[0].full_like(2.5);
            vec![full, b.concat(&[x[0], x[1]], 1)]
        });
        s.add("copy", f, &[(&[7, 13], None)], &|_, x| vec![x[0].reshape(&[91]), x[0].broadcast_to(&[3, 7, 13])]);
    });
    l.entries
}
