//! Kernels that NVRTC compiled, against the host: math functions, matrix products with asynchronous copies,
//! reductions, calls, switches, parameters by value. Each runs forward, reversed and with the search for races.

use torsh_ptx_sim::{Args, Config, Device, Module, Order, Report};

const KERNELS: &str = include_str!("fixtures/kernels.ptx");
const MATH: &str = include_str!("fixtures/math.ptx");

/// The ways to run that must not change a right kernel's answer.
fn ways() -> Vec<Config> {
    let c = Config::default;
    vec![
        c(),
        Config { order: Order::Reversed, ..c() },
        Config { races: true, ..c() },
        Config { races: true, order: Order::Reversed, ..c() },
    ]
}

fn floats(b: &[u8]) -> Vec<f32> {
    b.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

fn doubles(b: &[u8]) -> Vec<f64> {
    b.chunks(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect()
}

fn put<T: Copy, const N: usize>(dev: &mut Device, v: &[T], bytes: impl Fn(T) -> [u8; N]) -> u64 {
    let b: Vec<u8> = v.iter().flat_map(|x| bytes(*x)).collect();
    let p = dev.alloc(b.len() as u64).unwrap();
    dev.write(p, &b).unwrap();
    p
}

fn get(dev: &Device, p: u64, bytes: usize) -> Vec<u8> {
    let mut b = vec![0; bytes];
    dev.read(p, &mut b).unwrap();
    b
}

fn launch(dev: &mut Device, m: &Module, k: &str, grid: [u32; 3], block: [u32; 3], args: Args) -> Report {
    dev.launch(m, k, grid, block, 0, args).unwrap_or_else(|f| panic!("{f}"))
}

type Case64 = (&'static str, fn(f64) -> f64, f64);

/// Distance in units of the last place.
fn ulps32(a: f32, b: f32) -> f64 {
    if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) {
        return 0.0;
    }
    (i64::from(a.to_bits() as i32) - i64::from(b.to_bits() as i32)).abs() as f64
}

fn ulps64(a: f64, b: f64) -> f64 {
    if a == b || (a.is_nan() && b.is_nan()) {
        0.0
    } else {
        ((a.to_bits() as i64).wrapping_sub(b.to_bits() as i64) as f64).abs()
    }
}

const POINTS: [f32; 17] = [
    0.5,
    -0.5,
    1.0,
    3.7,
    -20.0,
    88.0,
    100.0,
    1e-3,
    12_345.678,
    1e6,
    1e-40,
    f32::INFINITY,
    0.0,
    -0.0,
    f32::NAN,
    2.0,
    -3.0,
];

#[test]
fn math_functions_of_f32() {
    // Name, function, error in last places that the CUDA guide grants.
    let cases: [Option<Case64>; 24] = [
        Some(("exp", f64::exp, 2.0)),
        Some(("log", f64::ln, 1.0)),
        Some(("sin", f64::sin, 2.0)),
        Some(("cos", f64::cos, 2.0)),
        Some(("tan", f64::tan, 4.0)),
        Some(("tanh", f64::tanh, 2.0)),
        None,
        Some(("sqrt", f64::sqrt, 0.0)),
        Some(("rsqrt", |x| if x == 0.0 { f64::INFINITY.copysign(x) } else { 1.0 / x.sqrt() }, 2.0)),
        Some(("rcp", |x| 1.0 / x, 0.0)),
        Some(("pow", |x| x.abs().powf(f64::from(1.7f32)), 4.0)),
        Some(("exp2", f64::exp2, 2.0)),
        Some(("log2", f64::log2, 1.0)),
        Some(("log1p", f64::ln_1p, 1.0)),
        Some(("expm1", f64::exp_m1, 1.0)),
        Some(("atan", f64::atan, 2.0)),
        Some(("asin", |x| f64::from(x as f32 / 1000.0).asin(), 2.0)),
        Some(("floor", f64::floor, 0.0)),
        Some(("rint", f64::round_ties_even, 0.0)),
        Some(("fmod", |x| x % f64::from(0.7f32), 0.0)),
        Some(("atan2", |x| x.atan2(2.0), 3.0)),
        None,
        None,
        None,
    ];
    let m = Module::parse(MATH).unwrap();
    for config in ways() {
        let mut dev = Device::new(config);
        let n = POINTS.len();
        let x = put(&mut dev, &POINTS, f32::to_le_bytes);
        let y = dev.alloc(n as u64 * 96).unwrap();
        let args = Args::new().u64(x).u64(y).i32(n as i32).i32(0);
        launch(&mut dev, &m, "mathf", [1; 3], [32, 1, 1], args);
        let out = floats(&get(&dev, y, n * 96));
        let mut checked = 0;
        for (j, case) in cases.iter().enumerate() {
            let Some((name, f, limit)) = case else { continue };
            for (i, p) in POINTS.iter().enumerate() {
                let (want, got) = (f(f64::from(*p)) as f32, out[i * 24 + j]);
                assert!(ulps32(want, got) <= *limit, "{name}({p}) = {got:e}, not {want:e}");
                checked += 1;
            }
        }
        assert_eq!(checked, 20 * n);
        // erf, erfc, lgamma at 1 and 2, as tables give them.
        assert!((f64::from(out[2 * 24 + 6]) - 0.842_700_792_949_714_9).abs() < 1e-7);
        assert!((f64::from(out[2 * 24 + 22]) - 0.157_299_207_050_285_13).abs() < 1e-7);
        assert!(out[2 * 24 + 23].abs() < 1e-6 && out[15 * 24 + 23].abs() < 1e-6);
        // The fast exponential is as good as its one multiplication.
        assert!((f64::from(out[2 * 24 + 21]) / 1f64.exp() - 1.0).abs() < 1e-6);
    }
}

#[test]
fn math_functions_of_f64() {
    let cases: [Option<Case64>; 16] = [
        Some(("exp", f64::exp, 1.0)),
        Some(("log", f64::ln, 1.0)),
        Some(("sin", f64::sin, 2.0)),
        Some(("cos", f64::cos, 2.0)),
        Some(("tan", f64::tan, 2.0)),
        Some(("tanh", f64::tanh, 1.0)),
        None,
        Some(("sqrt", f64::sqrt, 0.0)),
        Some(("rsqrt", |x| if x == 0.0 { f64::INFINITY.copysign(x) } else { 1.0 / x.sqrt() }, 1.0)),
        Some(("rcp", |x| 1.0 / x, 0.0)),
        Some(("pow", |x| x.abs().powf(1.7), 2.0)),
        Some(("exp2", f64::exp2, 1.0)),
        Some(("log2", f64::log2, 1.0)),
        Some(("log1p", f64::ln_1p, 1.0)),
        Some(("expm1", f64::exp_m1, 1.0)),
        Some(("fmod", |x| x % 0.7, 0.0)),
    ];
    let m = Module::parse(MATH).unwrap();
    for config in ways() {
        let mut dev = Device::new(config);
        let points = POINTS.map(f64::from);
        let n = points.len();
        let x = put(&mut dev, &points, f64::to_le_bytes);
        let y = dev.alloc(n as u64 * 128).unwrap();
        launch(&mut dev, &m, "mathd", [1; 3], [32, 1, 1], Args::new().u64(x).u64(y).i32(n as i32));
        let out = doubles(&get(&dev, y, n * 128));
        for (j, case) in cases.iter().enumerate() {
            let Some((name, f, limit)) = case else { continue };
            for (i, p) in points.iter().enumerate() {
                let (want, got) = (f(*p), out[i * 16 + j]);
                assert!(ulps64(want, got) <= *limit, "{name}({p}) = {got:e}, not {want:e}");
            }
        }
        assert!((out[2 * 16 + 6] - 0.842_700_792_949_714_9).abs() < 1e-15);
    }
}

#[test]
fn integer_functions() {
    let m = Module::parse(MATH).unwrap();
    let mut dev = Device::new(Config::default());
    let mut s = 1u64;
    let x: Vec<i64> = (0..128)
        .map(|i| {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v = (s ^ s >> 33) as i64;
            if i % 3 == 0 { v >> 40 } else { v }
        })
        .collect();
    let p = put(&mut dev, &x, i64::to_le_bytes);
    let q = dev.alloc(64 * 160).unwrap();
    launch(&mut dev, &m, "ints", [2, 1, 1], [32, 1, 1], Args::new().u64(p).u64(q).i32(64));
    let out: Vec<i64> = get(&dev, q, 64 * 160).chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect();
    for i in 0..64 {
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        let (ua, ub, sa, sb, la, lb) = (a as u32, b as u32, a as i32, b as i32, a as u64, b as u64);
        let pair = (u64::from(ua) | u64::from(ub) << 32).to_le_bytes();
        let want = [
            a.wrapping_div(b),
            a.wrapping_rem(b),
            (la / lb) as i64,
            (la % lb) as i64,
            if sb == 0 { 0 } else { i64::from(sa.wrapping_div(sb)) },
            if ub == 0 { 0 } else { i64::from(ua % ub) },
            ((i128::from(a) * i128::from(b)) >> 64) as i64,
            ((u64::from(ua) * u64::from(ub)) >> 32) as i64,
            i64::from(a.count_ones()),
            i64::from(sa.leading_zeros()),
            i64::from(ua.reverse_bits()),
            i64::from(u32::from_le_bytes([pair[5], pair[1], pair[7], pair[3]])),
            i64::from(((u64::from(ub) << 32 | u64::from(ua)) << 7 >> 32) as u32),
            a >> (b & 63),
            (la >> (b & 63)) as i64,
            i64::from(a as i16) * i64::from(b as i16),
            a.min(b),
            i64::from(sa.wrapping_abs()),
            if sa == 0 { 0 } else { i64::from(sa.trailing_zeros()) + 1 },
            i64::from(a as u8) + i64::from(b as i8),
        ];
        assert_eq!(out[i * 20..i * 20 + 20], want, "{a} {b}");
    }
}

#[test]
fn tensor_core_product_with_asynchronous_copies() {
    let m = Module::parse(KERNELS).unwrap();
    // Small whole numbers, so that every sum is exact.
    let a: Vec<i32> = (0..16 * 64).map(|i| i * 7 % 23 - 11).collect();
    let b: Vec<i32> = (0..64 * 8).map(|i| i * 5 % 19 - 9).collect();
    let bf16 = |v: i32| ((v as f32).to_bits() >> 16) as u16;
    for config in ways() {
        let mut dev = Device::new(config);
        let pa = put(&mut dev, &a, |v| bf16(v).to_le_bytes());
        let pb = put(&mut dev, &b, |v| bf16(v).to_le_bytes());
        let pc = dev.alloc(512).unwrap();
        let r = launch(&mut dev, &m, "mm", [1; 3], [32, 1, 1], Args::new().u64(pa).u64(pb).u64(pc));
        let out = floats(&get(&dev, pc, 512));
        for row in 0..16 {
            for col in 0..8 {
                let want: i32 = (0..64).map(|k| a[row * 64 + k] * b[k * 8 + col]).sum();
                assert_eq!(out[row * 8 + col], want as f32, "{row} {col}");
            }
        }
        assert_eq!((r.mma, r.barriers, r.global_load.bytes), (4, 8, 16 * 64 * 2 + 64 * 8 * 2));
    }
}

#[test]
fn tiled_product_and_its_figures() {
    let m = Module::parse(KERNELS).unwrap();
    let n = 48usize;
    let a: Vec<f32> = (0..n * n).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i * 5 % 19) as f32 - 9.0).collect();
    for config in ways() {
        let mut dev = Device::new(config);
        let (pa, pb) = (put(&mut dev, &a, f32::to_le_bytes), put(&mut dev, &b, f32::to_le_bytes));
        let pc = dev.alloc((n * n * 4) as u64).unwrap();
        let args = Args::new().u64(pa).u64(pb).u64(pc).i32(n as i32);
        let r = launch(&mut dev, &m, "gm", [3, 3, 1], [16, 16, 1], args);
        let out = floats(&get(&dev, pc, n * n * 4));
        for row in 0..n {
            for col in 0..n {
                let want: f32 = (0..n).map(|k| a[row * n + k] * b[k * n + col]).sum();
                assert_eq!(out[row * n + col], want);
            }
        }
        assert_eq!(r.global_load.bytes, (2 * 3 * n * n * 4) as u64);
        assert_eq!(r.global_store.bytes, (n * n * 4) as u64);
        assert_eq!(r.sectors_over_ideal(), 1.0);
        // Rows of 17 words: sixteen lanes read one word of each of two rows, and neighbours side by side.
        assert!(r.conflicts_per_request() < 0.6, "{}", r.conflicts_per_request());
        assert_eq!(r.barriers, 9 * 6);
    }
}

#[test]
fn softmax_by_rows() {
    let m = Module::parse(KERNELS).unwrap();
    let (rows, cols) = (5usize, 1001usize);
    let x: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 777) as f32 * 0.3 - 100.0).collect();
    for config in ways() {
        let mut dev = Device::new(config);
        let p = put(&mut dev, &x, f32::to_le_bytes);
        let q = dev.alloc((rows * cols * 4) as u64).unwrap();
        let args = Args::new().u64(p).u64(q).i32(cols as i32);
        launch(&mut dev, &m, "softmax", [rows as u32, 1, 1], [256, 1, 1], args);
        let out = floats(&get(&dev, q, rows * cols * 4));
        for (x, y) in x.chunks(cols).zip(out.chunks(cols)) {
            let max = x.iter().fold(f32::MIN, |a, b| a.max(*b));
            let sum: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
            for (x, y) in x.iter().zip(y) {
                let want = f64::from(x - max).exp() / sum;
                assert!((f64::from(*y) - want).abs() <= 1e-6 * want + 1e-38, "{y} and {want}");
            }
        }
    }
}

#[test]
fn parameters_by_value_with_a_computed_index() {
    let m = Module::parse(KERNELS).unwrap();
    let mut dev = Device::new(Config::default());
    let o = dev.alloc(32).unwrap();
    let mut p = Vec::new();
    p.extend(2.5f32.to_le_bytes());
    (1..6i32).for_each(|i| p.extend(i.to_le_bytes()));
    p.extend(0.25f64.to_le_bytes());
    assert_eq!(p.len(), 32);
    let mut bytes = p;
    bytes.extend(o.to_le_bytes());
    bytes.extend(3i32.to_le_bytes());
    bytes.extend(9u16.to_le_bytes());
    dev.launch(&m, "params", [1; 3], [8, 1, 1], 0, bytes).unwrap_or_else(|f| panic!("{f}"));
    let out = floats(&get(&dev, o, 32));
    for (t, v) in out.iter().enumerate() {
        assert_eq!(*v, 2.5 * ((3 + t) % 5 + 1) as f32 + 0.25 + 9.0);
    }
}

#[test]
fn calls_in_parted_warps_meet_again() {
    let m = Module::parse(KERNELS).unwrap();
    for config in ways() {
        let mut dev = Device::new(config);
        let o = dev.alloc(128).unwrap();
        launch(&mut dev, &m, "calls", [1; 3], [32, 1, 1], Args::new().u64(o));
        let own = |t: i32| if t % 3 == 0 { t as f32 } else { (0..t % 7).map(|i| t as f32 * i as f32).sum() };
        let out = floats(&get(&dev, o, 128));
        (0..32).for_each(|t| assert_eq!(out[t as usize], own(t ^ 1)));
    }
}

#[test]
fn switches_atomics_votes_and_local_arrays() {
    let m = Module::parse(KERNELS).unwrap();
    for config in ways() {
        let mut dev = Device::new(config);
        let o = dev.alloc(128).unwrap();
        let cnt = put(&mut dev, &[0i32; 4], i32::to_le_bytes);
        let r = launch(&mut dev, &m, "sw", [1; 3], [32, 1, 1], Args::new().u64(o).u64(cnt));
        let out = floats(&get(&dev, o, 128));
        for t in 0..32i32 {
            let x = t as f32;
            let base = match t % 8 {
                0 => 1.0,
                1 => x * 2.0,
                2 => x + 5.0,
                3 => x / 3.0,
                4 => -x,
                5 => [1.0, 2.0, 3.0, 4.0][t as usize & 3],
                6 => x.sqrt(),
                _ => 0.0,
            };
            assert_eq!(out[t as usize], base + (((t * 5) & 7) * t) as f32, "{t}");
        }
        let cnt: Vec<i32> = get(&dev, cnt, 16).chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(cnt, [496, 31, 0xaaaa_aaaau32 as i32, 26]);
        assert!(r.local_bytes > 0 && r.atomics >= 2);
    }
}

#[test]
fn perturbed_approximations_stay_inside_their_bounds() {
    let m = Module::parse(MATH).unwrap();
    let x: Vec<f32> = (0..17).map(|i| i as f32 * 0.37 - 3.0).collect();
    let mut outs = Vec::new();
    for perturb in [false, true] {
        let mut dev = Device::new(Config { perturb, ..Config::default() });
        let p = put(&mut dev, &x, f32::to_le_bytes);
        let q = dev.alloc(17 * 96).unwrap();
        launch(&mut dev, &m, "mathf", [1; 3], [32, 1, 1], Args::new().u64(p).u64(q).i32(17).i32(0));
        outs.push(floats(&get(&dev, q, 17 * 96)));
    }
    let exps = |o: &[f32]| (0..17).map(|i| o[i * 24]).collect::<Vec<_>>();
    let (exact, moved) = (exps(&outs[0]), exps(&outs[1]));
    assert_ne!(exact, moved);
    for ((x, a), b) in x.iter().zip(&exact).zip(&moved) {
        assert!(ulps32(*a, *b) <= 2.0, "exp({x}): {a} and {b}");
    }
}
