//! Cases whose sizes reach every schedule: rows of a warp, of a block, kept in shared memory, computed again, cut into
//! parts; columns; transpositions; long sorts and scans; updates in order and sorted; products in parts. The device is
//! taken to be small, so that little work fills it.

use crate::fuzz::Case;
use crate::values::Rng;
use torsh_ir::graph::Graph;
use torsh_ir::interp::HostTensor;
use torsh_ir::{Attr, Builder, DType, Scalar, Shape, Type, Val};

/// What computes the outputs from the inputs.
pub type Formula<'f> = &'f dyn for<'b> Fn(&'b Builder, &[Val<'b>]) -> Vec<Val<'b>>;

/// A growing list of cases.
#[derive(Default)]
pub struct Shapes {
    /// Names and cases.
    pub cases: Vec<(String, Case)>,
}

fn dim(d: i64) -> Attr {
    Attr::Int(d)
}

/// Normal numbers with some large ones among them; small integers; `i64` inputs may serve as indices below 17.
fn values(ty: &Type, rng: &mut Rng) -> HostTensor {
    HostTensor::from_fn(ty.clone(), |i| match ty.dtype {
        DType::I64 => Scalar::Int(rng.below(17) as i64),
        DType::Bool => Scalar::Bool(rng.one_in(2)),
        DType::U8 => Scalar::Int(rng.range(0, 9)),
        d if d.is_int() => Scalar::Int(rng.range(-9, 9)),
        _ if i % 97 == 5 => Scalar::Float(rng.range(-100, 100) as f64),
        _ => Scalar::Float(rng.normal()),
    })
}

impl Shapes {
    /// Adds a case on inputs of the given shapes, of `dtype` where they have no dtype of their own.
    pub fn add(&mut self, name: &str, dtype: DType, shapes: &[(&[usize], Option<DType>)], formula: Formula<'_>) {
        let b = Builder::new(Graph::new());
        let mut rng = Rng::new(7);
        let types: Vec<Type> = shapes.iter().map(|(s, d)| Type::new(d.unwrap_or(dtype), Shape::of(s))).collect();
        let inputs: Vec<Val<'_>> = types.iter().map(|t| b.input(t.clone())).collect();
        let outputs: Vec<_> = formula(&b, &inputs).iter().map(|v| v.id()).collect();
        let Ok(mut graph) = b.finish() else { panic!("{name} is not well typed") };
        graph.set_outputs(outputs);
        let inputs = types.iter().map(|t| values(t, &mut rng)).collect();
        self.cases.push((format!("{name} {dtype}"), Case { graph, inputs, donate: Vec::new() }));
    }

    /// Row kernels: statistics and normalisations of `rows` x `len`.
    pub fn rows(&mut self, dtype: DType, rows: usize, len: usize) {
        let (shape, row) = ([rows, len], [len]);
        let one: [(&[usize], _); 1] = [(&shape, None)];
        let at = format!("{rows}x{len}");
        self.add(&format!("softmax {at}"), dtype, &one, &|b, x| vec![b.op("softmax", &[x[0]], &[dim(1)])]);
        let eps = || Attr::Scalar(Scalar::Float(1e-5));
        let three: [(&[usize], _); 3] = [(&shape, None), (&row, None), (&row, None)];
        self.add(&format!("layer_norm {at}"), dtype, &three, &|b, x| {
            vec![b.op("layer_norm", &[x[0], x[1], x[2]], &[dim(1), eps()])]
        });
        self.add(&format!("argmax {at}"), dtype, &one, &|_, x| vec![x[0].reduce("argmax", &[1])]);
        self.add(&format!("sums {at}"), dtype, &one, &|_, x| {
            vec![x[0].sum(&[1]), x[0].sum(&[0]), x[0].sum(&[0, 1]), x[0].reduce("amax", &[1])]
        });
    }

    /// Columns, several axes, transpositions and elementwise kernels.
    pub fn layouts(&mut self, dtype: DType) {
        self.add("columns", dtype, &[(&[17_000, 20], None)], &|_, x| vec![x[0].sum(&[0])]);
        self.add("softmax of columns", dtype, &[(&[300, 40], None)], &|b, x| vec![b.op("softmax", &[x[0]], &[dim(0)])]);
        self.add("middle", dtype, &[(&[7, 100, 40], None)], &|_, x| {
            vec![x[0].sum(&[1]), x[0].reduce("amax", &[1]), x[0].sum(&[0, 2])]
        });
        self.add("transpose", dtype, &[(&[70, 133], None)], &|_, x| {
            vec![x[0].permute(&[1, 0]) + x[0].permute(&[1, 0]), x[0].permute(&[1, 0])]
        });
        self.add("transposes", dtype, &[(&[5, 70, 66], None), (&[5, 66, 70], None)], &|_, x| {
            vec![x[0].permute(&[0, 2, 1]) * x[1]]
        });
        self.add("map", dtype, &[(&[30_001], None)], &|_, x| vec![x[0].tanh() + x[0]]);
        self.add("broadcast map", dtype, &[(&[90, 68], None), (&[68], None), (&[90, 1], None)], &|_, x| {
            vec![x[0] * x[1].broadcast_to(&[90, 68]) + x[2].broadcast_to(&[90, 68])]
        });
    }

    /// Products `m x k` by `k x n`, plain and of transposed operands.
    pub fn products(&mut self, dtype: DType, [m, n, k]: [usize; 3]) {
        self.add(&format!("dot {m} {n} {k}"), dtype, &[(&[m, k], None), (&[k, n], None)], &|_, x| {
            vec![x[0].dot_general(x[1], &[], &[], &[1], &[0])]
        });
        self.add(&format!("dot of transposed {m} {n} {k}"), dtype, &[(&[k, m], None), (&[n, k], None)], &|_, x| {
            vec![x[0].dot_general(x[1], &[], &[], &[0], &[1])]
        });
    }

    /// Products of batches.
    pub fn batches(&mut self, dtype: DType) {
        self.add("batches", dtype, &[(&[3, 2, 40, 30], None), (&[3, 2, 30, 50], None)], &|_, x| {
            vec![x[0].dot_general(x[1], &[0, 1], &[0, 1], &[3], &[2])]
        });
        self.add("transposed batches", dtype, &[(&[40, 3, 2, 30], None), (&[3, 30, 2, 50], None)], &|_, x| {
            vec![x[0].dot_general(x[1], &[1, 2], &[0, 2], &[3], &[1])]
        });
    }

    /// Attention and its gradients over sequences of `len` and rows of `depth`.
    pub fn attention(&mut self, len: usize, depth: usize) {
        let side = [if depth > 64 { 1 } else { 2 }, len, depth];
        let state = Some(DType::I64);
        for (causal, dropout) in [(true, 0.0), (false, 0.25)] {
            let attrs = [
                Attr::Scalar(Scalar::Float(0.125)),
                Attr::Bool(causal),
                Attr::Scalar(Scalar::Float(dropout)),
                Attr::Bool(false),
                Attr::Bool(true),
            ];
            let mut inputs: Vec<(&[usize], _)> = vec![(&side, None), (&side, None), (&side, None)];
            if dropout > 0.0 {
                inputs.push((&[2], state));
            }
            let name = format!("attention {len} {depth} causal {causal}");
            self.add(&name, DType::F32, &inputs, &|b, x| {
                let with_lse: Vec<Attr> = attrs.iter().cloned().chain([Attr::Bool(true)]).collect();
                let row = b.op("attention_forward", x, &with_lse);
                let ct = x[0] * x[1];
                let all: Vec<Val<'_>> = x.iter().copied().chain([row, ct]).collect();
                vec![row, b.op("attention_backward", &all, &attrs)]
            });
        }
    }

    /// Attention of 16-bit floats, with what the gradient needs and without: masks of both kinds, hidden keys, dropout, a
    /// negative factor; operands with heads before and behind the rows.
    pub fn half_attention(&mut self, dtype: DType, [queries, keys, depth, width]: [usize; 4]) {
        let (q, k, v) = ([2, queries, depth], [2, keys, depth], [2, keys, width]);
        let at = format!("{queries} {keys} {depth} {width}");
        let attrs = |scale: f64, causal: bool, dropout: f64, mask: bool| {
            let float = |x: f64| Attr::Scalar(Scalar::Float(x));
            vec![float(scale), Attr::Bool(causal), float(dropout), Attr::Bool(mask), Attr::Bool(mask)]
        };
        let lse = |on: bool| [Attr::Bool(on)];
        let plain: [(&[usize], _); 3] = [(&q, None), (&k, None), (&v, None)];
        for (name, causal) in [("all", false), ("causal", true)] {
            self.add(&format!("{name} half attention {at}"), dtype, &plain, &|b, x| {
                vec![b.op("scaled_dot_product_attention", x, &attrs(0.125, causal, 0.0, false))]
            });
        }
        self.add(&format!("logarithms of half attention {at}"), dtype, &plain, &|b, x| {
            vec![b.op("attention_forward", x, &[attrs(-0.25, false, 0.0, false), lse(true).to_vec()].concat())]
        });
        let scores = [2, queries, keys];
        for (name, kind) in [("masked", Some(DType::Bool)), ("added", None)] {
            let operands = [plain[0], plain[1], plain[2], (&scores, kind)];
            self.add(&format!("{name} half attention {at}"), dtype, &operands, &|b, x| {
                let all = [attrs(0.125, name == "added", 0.0, true), lse(name == "added").to_vec()].concat();
                vec![b.op("attention_forward", x, &all)]
            });
        }
        let state = [2];
        let operands = [plain[0], plain[1], plain[2], (&state, Some(DType::I64))];
        self.add(&format!("dropped half attention {at}"), dtype, &operands, &|b, x| {
            vec![b.op("attention_forward", x, &[attrs(0.125, true, 0.25, false), lse(true).to_vec()].concat())]
        });
        // Heads behind the rows; columns that are not neighbours.
        let (q, k, v) = ([1, queries, 2, depth], [1, keys, 2, depth], [1, 2, width, keys]);
        let seen: [(&[usize], _); 3] = [(&q, None), (&k, None), (&v, None)];
        self.add(&format!("views in half attention {at}"), dtype, &seen, &|b, x| {
            let heads = |x: Val<'_>| x.permute(&[0, 2, 1, 3]).id();
            let operands = [heads(x[0]), heads(x[1]), x[2].permute(&[0, 1, 3, 2]).id()].map(|id| b.val(id));
            vec![b.op("scaled_dot_product_attention", &operands, &attrs(0.125, false, 0.0, false))]
        });
    }

    /// Sorts, scans, takes and updates.
    pub fn orders(&mut self, dtype: DType) {
        let sort = |d: i64, down: bool| [dim(d), Attr::Bool(down)];
        self.add("argsort", dtype, &[(&[2, 2500], None)], &|b, x| vec![b.op("argsort", &[x[0]], &sort(1, false))]);
        self.add("argsort of columns", dtype, &[(&[1300, 3], None)], &|b, x| {
            vec![b.op("argsort", &[x[0]], &sort(0, true))]
        });
        self.add("cumsum", dtype, &[(&[2, 5000], None)], &|b, x| vec![b.op("cumsum", &[x[0]], &[dim(1)])]);
        self.add("cummax of columns", dtype, &[(&[600, 3], None)], &|b, x| vec![b.op("cummax", &[x[0]], &[dim(0)])]);
        for mode in ["set", "add", "prod", "amax", "amin"] {
            let attrs = || [dim(0), Attr::from(mode)];
            let rows: [(&[usize], _); 3] = [(&[17, 9], None), (&[300], Some(DType::I64)), (&[300, 9], None)];
            self.add(&format!("index_put {mode}"), dtype, &rows, &|b, x| {
                vec![b.op("index_put", &[x[0], x[1], x[2]], &attrs())]
            });
            let each: [(&[usize], _); 3] = [(&[17, 9], None), (&[300, 8], Some(DType::I64)), (&[300, 8], None)];
            self.add(&format!("scatter {mode}"), dtype, &each, &|b, x| {
                vec![b.op("scatter", &[x[0], x[1], x[2]], &attrs())]
            });
        }
        self.add("take", dtype, &[(&[17, 32], None), (&[300], Some(DType::I64))], &|b, x| {
            vec![b.op("take", &[x[0], x[1]], &[dim(0)])]
        });
    }

    /// Scans of few long lines, which are cut into parts: lines of blocks, then lines of threads.
    pub fn long_scans(&mut self, dtype: DType) {
        for op in ["cumsum", "cumprod", "cummax", "cummin"] {
            self.add(&format!("{op} in parts"), dtype, &[(&[1, 17_001], None)], &|b, x| {
                vec![b.op(op, &[x[0]], &[dim(1)])]
            });
            self.add(&format!("{op} of columns in parts"), dtype, &[(&[2, 1003, 9], None)], &|b, x| {
                vec![b.op(op, &[x[0]], &[dim(1)])]
            });
        }
        // Lines that lie between each other, by blocks; whole parts.
        self.add("cumsum of three columns in parts", dtype, &[(&[9000, 3], None)], &|b, x| {
            vec![b.op("cumsum", &[x[0]], &[dim(0)])]
        });
        self.add("cumsum of whole parts", dtype, &[(&[3 * 4096], None)], &|b, x| {
            vec![b.op("cumsum", &[x[0]], &[dim(0)])]
        });
    }

    /// Indices that are out of range: the error must name the first.
    pub fn errors(&mut self) {
        let (f, i) = (DType::F32, Some(DType::I64));
        let base: (&[usize], _) = (&[9, 5], None);
        self.add("take beyond", f, &[base, (&[40], i)], &|b, x| vec![b.op("take", &[x[0], x[1]], &[dim(0)])]);
        self.add("take of nothing", f, &[(&[0, 5], None), (&[3], i)], &|b, x| {
            vec![b.op("take", &[x[0], x[1]], &[dim(0)])]
        });
        self.add("gather beyond", f, &[base, (&[40, 5], i)], &|b, x| vec![b.op("gather", &[x[0], x[1]], &[dim(0)])]);
        for mode in ["set", "add"] {
            let attrs = || [dim(0), Attr::from(mode)];
            for n in [30, 200] {
                let (rows, each) = ([n], [n, 5]);
                self.add("index_put beyond", f, &[base, (&rows, i), (&each, None)], &|b, x| {
                    vec![b.op("index_put", &[x[0], x[1], x[2]], &attrs())]
                });
                self.add("scatter beyond", f, &[base, (&each, i), (&each, None)], &|b, x| {
                    vec![b.op("scatter", &[x[0], x[1], x[2]], &attrs())]
                });
            }
        }
    }
}
