//! Every schedule of the CUDA code generator on the simulated device: sizes that reach them, with large numbers.

use torsh_codegen::cuda::{Options, generate};
use torsh_ir::graph::Graph;
use torsh_ir::interp::HostTensor;
use torsh_ir::{Attr, Builder, DType, Scalar, Shape, Type};
use torsh_passes::Options as PassOptions;
use torsh_tests::cuda::check::Checker;
use torsh_tests::cuda::shapes::Shapes;
use torsh_tests::fuzz::Case;
use torsh_tests::fuzz::oracle::expect;
use torsh_tests::values::Rng;

fn check(options: Options, fill: impl Fn(&mut Shapes)) {
    let mut shapes = Shapes::default();
    fill(&mut shapes);
    let mut checker = Checker::new(options);
    for (name, case) in shapes.cases {
        checker.add(&name, case, true);
    }
    assert!(checker.finish() > 0);
}

/// Fails where the interpreter says nothing about more than a tenth of the numbers.
fn assert_compared(name: &str, case: &Case) {
    let (firm, all) = expect(case).unwrap_or_else(|e| panic!("{name}: {e}")).coverage();
    assert!(firm * 10 > all * 9, "{name}: {firm} of {all} are compared");
}

/// Names of the kernels of a case's launches.
fn launches(case: &Case, options: &Options) -> Vec<String> {
    let program = torsh_passes::compile(&case.graph, &PassOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let module = generate(&program, options).unwrap_or_else(|e| panic!("{e}"));
    module.steps.iter().flat_map(|s| &s.launches).map(|l| module.kernels[l.kernel].name.clone()).collect()
}

fn small() -> Options {
    Options { processors: 4, ..Options::default() }
}

#[test]
fn rows() {
    check(small(), |s| {
        for (rows, len) in [(1, 17_001), (3, 20_000), (9, 3000), (3, 1024), (50, 1500), (70, 30), (200, 5), (5, 1)] {
            s.rows(DType::F32, rows, len);
        }
    });
}

#[test]
fn extreme_rows() {
    let mut shapes = Shapes::default();
    for len in [30, 1500, 17_000] {
        [DType::F32, DType::BF16].into_iter().for_each(|d| shapes.rows(d, 6, len));
    }
    let mut checker = Checker::new(small());
    for (name, mut case) in shapes.cases {
        let t = &mut case.inputs[0];
        let len = t.ty.shape[1];
        for i in 0..t.len() {
            let last = i % len == len - 1;
            let x = match i / len {
                0 => 3.0,
                1 => f64::NEG_INFINITY,
                2 if last => f64::NAN,
                3 if last => f64::INFINITY,
                4 => {
                    if i % 2 == 0 {
                        100.0
                    } else {
                        -100.0
                    }
                }
                _ => -0.0,
            };
            t.set(i, Scalar::Float(x));
        }
        checker.add(&name, case, true);
    }
    assert!(checker.finish() > 0);
}

#[test]
fn rows_of_other_dtypes() {
    check(small(), |s| {
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            for (rows, len) in [(2, 16_390), (5, 2050), (40, 129)] {
                s.rows(dtype, rows, len);
            }
        }
    });
}

#[test]
fn layouts() {
    check(small(), |s| [DType::F32, DType::BF16].into_iter().for_each(|d| s.layouts(d)));
}

#[test]
fn products() {
    check(small(), |s| {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::F64] {
            s.products(dtype, [150, 140, 40]);
            s.products(dtype, [7, 9, 600]);
            s.batches(dtype);
        }
        for size in [[1, 100, 1000], [100, 1, 1000], [300, 290, 33]] {
            s.products(DType::F32, size);
        }
        // Whole pieces of 16 bytes, whichever axis they lie along.
        for dtype in [DType::F16, DType::BF16] {
            s.products(dtype, [136, 144, 72]);
            s.products(dtype, [72, 40, 1024]);
        }
        for dtype in [DType::I8, DType::U8, DType::I64] {
            s.products(dtype, [33, 17, 600]);
        }
    });
}

/// Checks with small integers instead of the floats of the inputs: what is exact whatever the order and precision.
fn check_whole(options: Options, fill: impl Fn(&mut Shapes), wanted: &dyn Fn(&str) -> bool) {
    let mut shapes = Shapes::default();
    fill(&mut shapes);
    let mut checker = Checker::new(options);
    for (name, mut case) in shapes.cases.into_iter().filter(|(name, _)| wanted(name)) {
        for t in case.inputs.iter_mut().filter(|t| t.dtype().is_float()) {
            (0..t.len()).for_each(|i| t.set(i, Scalar::Float((i % 17) as f64 - 8.0)));
        }
        checker.add(&name, case, true);
    }
    assert!(checker.finish() > 0);
}

#[test]
fn products_in_tf32() {
    let options = Options { tf32: true, ..small() };
    check_whole(options, |s| s.products(DType::F32, [70, 72, 50]), &|_| true);
}

#[test]
fn sums_by_atomic_additions() {
    let options = Options { deterministic: false, ..small() };
    let dtypes = [DType::F32, DType::F64, DType::I64, DType::I32];
    check_whole(options, |s| dtypes.into_iter().for_each(|d| s.orders(d)), &|name| name.contains(" add "));
}

#[test]
fn attention() {
    check(small(), |s| {
        for (len, depth) in [(70, 24), (65, 100), (64, 200), (64, 300)] {
            s.attention(len, depth);
        }
    });
}

#[test]
fn half_attention() {
    // Several blocks of keys; rows that fill fragments, that are too short for them, that no copy of 16 bytes takes; the
    // form for longer rows.
    let (half, brain) = (DType::F16, DType::BF16);
    check(small(), |s| {
        for (dtype, sizes) in [
            (half, [70, 133, 64, 64]),
            (brain, [67, 129, 80, 40]),
            (half, [130, 64, 20, 36]),
            (brain, [65, 70, 128, 128]),
            (half, [64, 66, 130, 20]),
        ] {
            s.half_attention(dtype, sizes);
        }
        s.cases.iter().for_each(|(name, case)| assert_compared(name, case));
    });
    // Two tiles of queries a warp.
    check(Options { processors: 2, ..small() }, |s| s.half_attention(DType::F16, [140, 70, 64, 48]));
}

#[test]
fn half_attention_that_is_not_finite() {
    let mut shapes = Shapes::default();
    shapes.half_attention(DType::F16, [70, 85, 24, 16]);
    let mut checker = Checker::new(small());
    let wanted = |name: &str| ["all", "causal", "dropped"].iter().any(|w| name.starts_with(w));
    for (name, mut case) in shapes.cases.into_iter().filter(|(name, _)| wanted(name)) {
        let values = &mut case.inputs[2];
        for (i, x) in [(3, f64::INFINITY), (20 * 16 + 5, f64::NAN), (84 * 16 + 9, f64::NEG_INFINITY)] {
            values.set(i, Scalar::Float(x));
        }
        case.inputs[0].set(33 * 24 + 1, Scalar::Float(f64::NAN));
        case.inputs[0].set(50 * 24 + 2, Scalar::Float(f64::INFINITY));
        checker.add(&name, case, true);
    }
    // Products that overflow to -inf in f32 for every key that takes part, where their scores do not; the first query of
    // those with a mask sees no key.
    let mut shapes = Shapes::default();
    shapes.half_attention(DType::BF16, [66, 70, 64, 16]);
    let wanted = |name: &str| ["logarithms", "masked", "added", "dropped"].iter().any(|w| name.starts_with(w));
    for (name, mut case) in shapes.cases.into_iter().filter(|(name, _)| wanted(name)) {
        // The factor of the first is negative.
        let query = if name.starts_with("logarithms") { 3e18 } else { -3e18 };
        for (input, x) in [(0, query), (1, 3e18)] {
            let t = &mut case.inputs[input];
            (0..t.len()).for_each(|i| t.set(i, Scalar::Float(x)));
        }
        if let Some(mask) = case.inputs.get_mut(3).filter(|t| t.dtype() != DType::I64) {
            for i in 0..mask.len() {
                let shown = i / 70 % 66 != 0 && i % 3 != 0;
                let added = if shown { 0.0 } else { f64::NEG_INFINITY };
                let x = if mask.dtype() == DType::Bool { Scalar::Bool(shown) } else { Scalar::Float(added) };
                mask.set(i, x);
            }
        }
        assert_compared(&name, &case);
        checker.add_exact(&format!("{name}, overflow"), case);
    }
    assert_eq!(checker.finish(), 7);
}

/// Eight keys of equal weights for each query, and small integers as values: nothing is rounded.
#[test]
fn half_attention_of_equal_weights() {
    let mut checker = Checker::new(small());
    for dtype in [DType::F16, DType::BF16] {
        let mut shapes = Shapes::default();
        shapes.half_attention(dtype, [70, 128, 16, 24]);
        for (name, mut case) in shapes.cases.into_iter().filter(|(name, _)| name.starts_with("all")) {
            for (t, large) in case.inputs.iter_mut().zip([Some(64.0), Some(128.0), None]) {
                for i in 0..t.len() {
                    let x = match large {
                        Some(large) if i % 16 == i / 16 % t.ty.shape[1] % 16 => large,
                        Some(_) => 0.0,
                        None => (i * 7 % 17) as f64 - 8.0,
                    };
                    t.set(i, Scalar::Float(x));
                }
            }
            checker.add_exact(&name, case);
        }
    }
    assert_eq!(checker.finish(), 2);
}

/// Weights that are the smaller the more of them there are: those below the smallest f16 count too.
#[test]
fn half_attention_of_small_weights() {
    let keys = 2000;
    let b = Builder::new(Graph::new());
    let types = [[1, 16, 16], [1, keys, 16], [1, keys, 16]].map(|s| Type::new(DType::F16, Shape::of(&s)));
    let inputs: Vec<_> = types.iter().map(|t| b.input(t.clone())).collect();
    let float = |x: f64| Attr::Scalar(Scalar::Float(x));
    let attrs = [float(1.0), Attr::Bool(false), float(0.0), Attr::Bool(false), Attr::Bool(false), Attr::Bool(true)];
    let out = b.op("attention_forward", &inputs, &attrs).id();
    let mut graph = b.finish().unwrap_or_else(|e| panic!("{e}"));
    graph.set_outputs(vec![out]);
    // The first key's score is 0, those of the others are -17.5 and their value 20,480.
    let inputs = types.iter().enumerate().map(|(n, t)| {
        HostTensor::from_fn(t.clone(), |i| {
            let first = i < 16;
            Scalar::Float(match (n, i % 16) {
                (0, 0) => 1.0,
                (1, 0) if !first => -17.5,
                (2, _) if !first => 20_480.0,
                _ => 0.0,
            })
        })
    });
    let case = Case { graph, inputs: inputs.collect(), donate: Vec::new() };
    let mut checker = Checker::new(small());
    checker.add("small weights", case, true);
    assert_eq!(checker.finish(), 1);
}

#[test]
fn orders() {
    check(small(), |s| {
        [DType::F32, DType::F16, DType::I64, DType::U8, DType::F64].into_iter().for_each(|d| s.orders(d));
    });
}

/// Also in the operand's memory, and with what a carry must keep: NaN, infinities, the sign of a sum of negative zeros.
#[test]
fn long_scans() {
    let options = Options { processors: 16, ..Options::default() };
    let mut checker = Checker::new(options.clone());
    let mut shapes = Shapes::default();
    for dtype in [DType::F32, DType::BF16, DType::F64, DType::I64, DType::U8] {
        shapes.long_scans(dtype);
    }
    for (name, mut case) in shapes.cases {
        if name.starts_with("cumprod") && case.inputs[0].dtype().is_float() {
            // Products of normal numbers soon leave what f64 holds, and then say nothing.
            let mut rng = Rng::new(11);
            let t = &mut case.inputs[0];
            for i in 0..t.len() {
                let x = if rng.one_in(40) { *rng.pick(&[2.0, 0.5]) } else { *rng.pick(&[1.0, -1.0]) };
                t.set(i, Scalar::Float(x));
            }
        }
        assert_compared(&name, &case);
        let launches = launches(&case, &options);
        let donate = if case.graph.outputs().len() == 1 { vec![(0, 0)] } else { Vec::new() };
        let inside = Case { donate, ..case.clone() };
        let mut extreme = case.clone();
        let t = &mut extreme.inputs[0];
        if t.dtype().is_float() {
            let n = t.len();
            (0..n).for_each(|i| t.set(i, Scalar::Float(-0.0)));
            [(n - 50, f64::INFINITY), (n - 20, f64::NEG_INFINITY), (n - 10, f64::NAN)]
                .into_iter()
                .for_each(|(i, x)| t.set(i, Scalar::Float(x)));
            checker.add(&format!("{name}, extreme"), extreme, true);
        }
        checker.add(&format!("{name}, in place"), inside, true);
        assert!(launches.iter().any(|name| name.contains("scan") && name.contains("parts")), "{name}: {launches:?}");
        checker.add(&name, case, true);
    }
    assert!(checker.finish() > 100);
}

#[test]
fn indices_out_of_range() {
    check(small(), Shapes::errors);
}

#[test]
fn a_large_device() {
    check(Options::default(), |s| {
        s.rows(DType::F32, 3, 17_000);
        s.layouts(DType::F32);
        s.products(DType::F32, [64, 64, 2000]);
    });
}

#[test]
fn wide_positions() {
    check(Options { wide: true, ..small() }, |s| {
        s.rows(DType::F32, 3, 17_000);
        s.rows(DType::F32, 40, 130);
        s.layouts(DType::F32);
        s.orders(DType::F32);
        s.products(DType::F32, [40, 50, 600]);
        s.products(DType::F16, [40, 48, 64]);
        s.batches(DType::BF16);
    });
}
