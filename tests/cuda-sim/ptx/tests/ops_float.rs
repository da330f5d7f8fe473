//! Every form of the floating-point instructions, against Rust's floats and `rustc_apfloat`.

mod harness;

use harness::{check, f32s, f64s, halves, run};
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};
use torsh_ptx_sim::Config;

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn ftz(v: u64) -> u64 {
    if f(v).is_subnormal() { v & 0x8000_0000 } else { v }
}

fn canon32(v: u64) -> u64 {
    if f(v).is_nan() { 0x7fff_ffff } else { v }
}

fn canon64(v: u64) -> u64 {
    if f64::from_bits(v).is_nan() { 0xfff8_0000_0000_0000 } else { v }
}

/// The exact operation in any format.
fn exact<F: Float>(op: &str, r: &[u64], mode: Round) -> u64 {
    let x = |i: usize| F::from_bits(u128::from(r[i]));
    let one = F::from_u128(1).value;
    let v = match op {
        "add" => x(0).add_r(x(1), mode),
        "sub" => x(0).sub_r(x(1), mode),
        "mul" => x(0).mul_r(x(1), mode),
        "div" => x(0).div_r(x(1), mode),
        "rcp" => one.div_r(x(0), mode),
        _ => x(0).mul_add_r(x(1), x(2), mode),
    };
    v.value.to_bits() as u64
}

fn operands(op: &str) -> usize {
    match op {
        "rcp" | "sqrt" => 1,
        "fma" => 3,
        _ => 2,
    }
}

fn args(n: usize) -> String {
    ["$a", "$b", "$c"][..n].join(", ")
}

/// A shorter list for three operands.
fn thin(v: Vec<u64>, n: usize) -> Vec<u64> {
    if n == 3 { v.into_iter().step_by(2).collect() } else { v }
}

#[test]
fn f32_in_every_mode() {
    for op in ["add", "sub", "mul", "fma", "div", "rcp"] {
        let n = operands(op);
        for (name, mode) in MODES {
            let list = vec![(32, thin(f32s(), n)); n];
            check(&format!("{op}.{name}.f32 $d, {};", args(n)), &list, 32, |r| canon32(exact::<Single>(op, r, mode)));
            check(&format!("{op}.{name}.ftz.f32 $d, {};", args(n)), &list, 32, |r| {
                let r: Vec<u64> = r.iter().map(|v| ftz(*v)).collect();
                canon32(ftz(exact::<Single>(op, &r, mode)))
            });
            if n == 2 && op != "div" || n == 3 {
                check(&format!("{op}.{name}.sat.f32 $d, {};", args(n)), &list, 32, |r| {
                    let v = f(exact::<Single>(op, r, mode));
                    u64::from((if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) }).to_bits())
                });
            }
        }
    }
    // Without a mode: to nearest.
    check("add.f32 $d, $a, $b;", &[(32, f32s()), (32, f32s())], 32, |r| {
        canon32(u64::from((f(r[0]) + f(r[1])).to_bits()))
    });
    check("mul.f32 $d, $a, $b;", &[(32, f32s()), (32, f32s())], 32, |r| {
        canon32(u64::from((f(r[0]) * f(r[1])).to_bits()))
    });
}

#[test]
fn f64_in_every_mode() {
    for op in ["add", "sub", "mul", "fma", "div", "rcp"] {
        let n = operands(op);
        for (name, mode) in MODES {
            let list = vec![(64, thin(f64s(), n)); n];
            check(&format!("{op}.{name}.f64 $d, {};", args(n)), &list, 64, |r| canon64(exact::<Double>(op, r, mode)));
        }
    }
}

#[test]
fn square_roots() {
    for (name, _) in MODES {
        check(&format!("sqrt.{name}.f32 $d, $a;"), &[(32, f32s())], 32, |r| {
            let x = f(r[0]);
            // The root of 24 bits in 53, then to the mode: decided by comparing squares in f64, which hold them exactly.
            let root = f64::from(x).sqrt();
            let mut y = root as f32;
            let square = |y: f32| f64::from(y) * f64::from(y);
            if y.is_finite() && y > 0.0 {
                if matches!(name, "rz" | "rm") && square(y) > f64::from(x) {
                    y = y.next_down();
                }
                if name == "rp" && square(y) < f64::from(x) {
                    y = y.next_up();
                }
            }
            canon32(u64::from(y.to_bits()))
        });
        let text = format!("sqrt.{name}.f64 $d, $a;");
        check(&text, &[(64, f64s())], 64, |r| {
            let x = f64::from_bits(r[0]);
            let mut y = x.sqrt();
            if y.is_finite() && y > 0.0 {
                // The sign of y*y - x, exactly.
                let over = to_quad(y) * to_quad(y);
                let above = (over.value > to_quad(x)) as i32 - (over.value < to_quad(x)) as i32;
                if matches!(name, "rz" | "rm") && above > 0 {
                    y = y.next_down();
                }
                if name == "rp" && above < 0 {
                    y = y.next_up();
                }
            }
            canon64(y.to_bits())
        });
    }
    check("sqrt.rn.ftz.f32 $d, $a;", &[(32, f32s())], 32, |r| canon32(u64::from(f(ftz(r[0])).sqrt().to_bits())));
}

fn to_quad(v: f64) -> rustc_apfloat::ieee::Quad {
    Double::from_bits(u128::from(v.to_bits())).convert(&mut false).value
}

#[test]
fn signs_minima_and_maxima() {
    let two = || [(32, f32s()), (32, f32s())];
    check("neg.f32 $d, $a;", &[(32, f32s())], 32, |r| r[0] ^ 0x8000_0000);
    check("abs.f32 $d, $a;", &[(32, f32s())], 32, |r| r[0] & 0x7fff_ffff);
    check("neg.ftz.f32 $d, $a;", &[(32, f32s())], 32, |r| ftz(r[0]) ^ 0x8000_0000);
    check("abs.ftz.f32 $d, $a;", &[(32, f32s())], 32, |r| ftz(r[0]) & 0x7fff_ffff);
    check("neg.f64 $d, $a;", &[(64, f64s())], 64, |r| r[0] ^ 1 << 63);
    check("abs.f64 $d, $a;", &[(64, f64s())], 64, |r| r[0] & !(1 << 63));
    check("copysign.f32 $d, $a, $b;", &two(), 32, |r| (r[0] & 0x8000_0000) | (r[1] & 0x7fff_ffff));
    check("copysign.f64 $d, $a, $b;", &[(64, f64s()), (64, f64s())], 64, |r| (r[0] & 1 << 63) | (r[1] & !(1 << 63)));
    // -0 is below +0; a NaN loses unless .NaN asks for it.
    let pick = |op: &str, nan: bool, a: f32, b: f32| -> f32 {
        match (a.is_nan(), b.is_nan()) {
            (true, true) => f32::NAN,
            (true, false) | (false, true) if nan => f32::NAN,
            (true, false) => b,
            (false, true) => a,
            _ => {
                let key = |x: f32| (x, if x.is_sign_negative() { 0 } else { 1 });
                if (key(a) < key(b)) == (op == "min") { a } else { b }
            }
        }
    };
    for op in ["min", "max"] {
        check(&format!("{op}.f32 $d, $a, $b;"), &two(), 32, |r| {
            canon32(u64::from(pick(op, false, f(r[0]), f(r[1])).to_bits()))
        });
        check(&format!("{op}.NaN.f32 $d, $a, $b;"), &two(), 32, |r| {
            canon32(u64::from(pick(op, true, f(r[0]), f(r[1])).to_bits()))
        });
        check(&format!("{op}.ftz.f32 $d, $a, $b;"), &two(), 32, |r| {
            canon32(u64::from(pick(op, false, f(ftz(r[0])), f(ftz(r[1]))).to_bits()))
        });
        check(&format!("{op}.xorsign.abs.f32 $d, $a, $b;"), &two(), 32, |r| {
            let v = canon32(u64::from(pick(op, false, f(r[0]).abs(), f(r[1]).abs()).to_bits()));
            if f(v).is_nan() { v } else { v | ((r[0] ^ r[1]) & 0x8000_0000) }
        });
        check(&format!("{op}.f64 $d, $a, $b;"), &[(64, f64s()), (64, f64s())], 64, |r| {
            let (a, b) = (f64::from_bits(r[0]), f64::from_bits(r[1]));
            let v = match (a.is_nan(), b.is_nan()) {
                (true, _) => b,
                (_, true) => a,
                _ if a == b => {
                    if a.is_sign_negative() == (op == "min") {
                        a
                    } else {
                        b
                    }
                }
                _ if op == "min" => a.min(b),
                _ => a.max(b),
            };
            canon64(v.to_bits())
        });
    }
}

#[test]
fn comparisons_and_tests() {
    type Cmp = fn(f64, f64) -> bool;
    let nan = |a: f64, b: f64| a.is_nan() || b.is_nan();
    let ordered: [(&str, Cmp); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| !a.is_nan() && !b.is_nan() && a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (c, g) in ordered {
        let wide = |v: u64| f64::from(f(v));
        let two = [(32, f32s()), (32, f32s())];
        check(&format!("setp.{c}.f32 $d, $a, $b;"), &two, 1, |r| u64::from(g(wide(r[0]), wide(r[1]))));
        check(&format!("setp.{c}u.f32 $d, $a, $b;"), &two, 1, |r| {
            u64::from(nan(wide(r[0]), wide(r[1])) || g(wide(r[0]), wide(r[1])))
        });
        check(&format!("setp.{c}.ftz.f32 $d, $a, $b;"), &two, 1, |r| u64::from(g(wide(ftz(r[0])), wide(ftz(r[1])))));
        check(&format!("set.{c}.u32.f32 $d, $a, $b;"), &two, 32, |r| {
            if g(wide(r[0]), wide(r[1])) { 0xffff_ffff } else { 0 }
        });
        check(&format!("setp.{c}.f64 $d, $a, $b;"), &[(64, f64s()), (64, f64s())], 1, |r| {
            u64::from(g(f64::from_bits(r[0]), f64::from_bits(r[1])))
        });
    }
    for (c, want) in [("num", false), ("nan", true)] {
        check(&format!("setp.{c}.f32 $d, $a, $b;"), &[(32, f32s()), (32, f32s())], 1, |r| {
            u64::from(nan(f64::from(f(r[0])), f64::from(f(r[1]))) == want)
        });
        check(&format!("setp.{c}.f64 $d, $a, $b;"), &[(64, f64s()), (64, f64s())], 1, |r| {
            u64::from(nan(f64::from_bits(r[0]), f64::from_bits(r[1])) == want)
        });
    }
    type Test = (&'static str, fn(f32) -> bool, fn(f64) -> bool);
    let tests: [Test; 6] = [
        ("finite", f32::is_finite, f64::is_finite),
        ("infinite", f32::is_infinite, f64::is_infinite),
        ("number", |x| !x.is_nan(), |x| !x.is_nan()),
        ("notanumber", f32::is_nan, f64::is_nan),
        ("normal", f32::is_normal, f64::is_normal),
        ("subnormal", f32::is_subnormal, f64::is_subnormal),
    ];
    for (t, single, double) in tests {
        check(&format!("testp.{t}.f32 $d, $a;"), &[(32, f32s())], 1, |r| u64::from(single(f(r[0]))));
        check(&format!("testp.{t}.f64 $d, $a;"), &[(64, f64s())], 1, |r| u64::from(double(f64::from_bits(r[0]))));
    }
}

#[test]
fn sixteen_bits() {
    fn one<F: Float>(op: &str, r: &[u64]) -> u64 {
        let v = exact::<F>(op, r, Round::NearestTiesToEven);
        if F::from_bits(u128::from(v)).is_nan() { 0x7fff } else { v }
    }
    type Oracle = fn(&str, &[u64]) -> u64;
    for (t, oracle) in [("f16", one::<Half> as Oracle), ("bf16", one::<BFloat>)] {
        for op in ["add", "sub", "mul", "fma"] {
            let n = operands(op);
            check(&format!("{op}.rn.{t} $d, {};", args(n)), &vec![(16, halves()); n], 16, |r| oracle(op, r));
            let pairs: Vec<u64> = halves().iter().zip(halves().iter().rev()).map(|(a, b)| a | b << 16).collect();
            check(&format!("{op}.rn.{t}x2 $d, {};", args(n)), &vec![(32, pairs.clone()); n], 32, |r| {
                let half = |k: u32| oracle(op, &r.iter().map(|v| v >> k & 0xffff).collect::<Vec<_>>());
                half(0) | half(16) << 16
            });
        }
        check(&format!("neg.{t} $d, $a;"), &[(16, halves())], 16, |r| r[0] ^ 0x8000);
        check(&format!("abs.{t} $d, $a;"), &[(16, halves())], 16, |r| r[0] & 0x7fff);
        check(&format!("neg.{t}x2 $d, $a;"), &[(32, vec![0x3c00_8000, 0x7e00_0001])], 32, |r| r[0] ^ 0x8000_8000);
        check(&format!("abs.{t}x2 $d, $a;"), &[(32, vec![0xbc00_8000, 0xfe00_0001])], 32, |r| r[0] & 0x7fff_7fff);
        let value = |v: u64| {
            if t == "f16" {
                let x: Double = Half::from_bits(u128::from(v)).convert(&mut false).value;
                f64::from_bits(x.to_bits() as u64)
            } else {
                f64::from(f(v << 16))
            }
        };
        check(&format!("setp.lt.{t} $d, $a, $b;"), &[(16, halves()), (16, halves())], 1, |r| {
            u64::from(value(r[0]) < value(r[1]))
        });
        check(&format!("setp.geu.{t} $d, $a, $b;"), &[(16, halves()), (16, halves())], 1, |r| {
            let (x, y) = (value(r[0]), value(r[1]));
            u64::from(x.is_nan() || y.is_nan() || x >= y)
        });
        for op in ["min", "max"] {
            check(&format!("{op}.{t} $d, $a, $b;"), &[(16, halves()), (16, halves())], 16, |r| {
                let (x, y) = (value(r[0]), value(r[1]));
                match (x.is_nan(), y.is_nan()) {
                    (true, true) => 0x7fff,
                    (true, false) => r[1],
                    (false, true) => r[0],
                    _ if x == y => {
                        if (r[0] >> 15 == 1) == (op == "min") {
                            r[0]
                        } else {
                            r[1]
                        }
                    }
                    _ => {
                        if (x < y) == (op == "min") {
                            r[0]
                        } else {
                            r[1]
                        }
                    }
                }
            });
        }
    }
    check("fma.rn.relu.f16 $d, $a, $b, $c;", &vec![(16, halves()); 3], 16, |r| {
        let v = one::<Half>("fma", r);
        if v >> 15 == 1 || v == 0 { 0 } else { v }
    });
}

#[test]
fn approximations_are_rounded_true_values() {
    let single = |v: f64| canon32(u64::from((v as f32).to_bits()));
    let wide = |v: u64| f64::from(f(v));
    let list = || [(32, f32s())];
    check("ex2.approx.f32 $d, $a;", &list(), 32, |r| single(wide(r[0]).exp2()));
    check("ex2.approx.ftz.f32 $d, $a;", &list(), 32, |r| ftz(single(wide(ftz(r[0])).exp2())));
    check("lg2.approx.f32 $d, $a;", &list(), 32, |r| {
        single(if wide(r[0]) == 0.0 { f64::NEG_INFINITY } else { wide(r[0]).log2() })
    });
    check("sin.approx.f32 $d, $a;", &list(), 32, |r| single(wide(r[0]).sin()));
    check("cos.approx.ftz.f32 $d, $a;", &list(), 32, |r| ftz(single(wide(ftz(r[0])).cos())));
    check("tanh.approx.f32 $d, $a;", &list(), 32, |r| single(wide(r[0]).tanh()));
    check("rcp.approx.ftz.f32 $d, $a;", &list(), 32, |r| ftz(single(1.0 / wide(ftz(r[0])))));
    check("sqrt.approx.f32 $d, $a;", &list(), 32, |r| single(wide(r[0]).sqrt()));
    check("rsqrt.approx.f32 $d, $a;", &list(), 32, |r| {
        single(if f(r[0]) == 0.0 { f64::INFINITY.copysign(wide(r[0])) } else { 1.0 / wide(r[0]).sqrt() })
    });
    check("div.full.f32 $d, $a, $b;", &[(32, f32s()), (32, f32s())], 32, |r| single(wide(r[0]) / wide(r[1])));
    check("div.approx.f32 $d, $a, $b;", &[(32, f32s()), (32, f32s())], 32, |r| {
        let (x, y) = (wide(r[0]), wide(r[1]));
        single(if y.is_finite() && y.abs() > 2f64.powi(126) { x * 0f64.copysign(y) } else { x / y })
    });
    check("rcp.approx.ftz.f64 $d, $a;", &[(64, f64s())], 64, |r| {
        let flush = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
        let v = flush(1.0 / flush(f64::from_bits(r[0])));
        if v.is_nan() { canon64(v.to_bits()) } else { v.to_bits() >> 32 << 32 }
    });
    check("rsqrt.approx.f64 $d, $a;", &[(64, f64s())], 64, |r| {
        let x = f64::from_bits(r[0]);
        canon64((if x == 0.0 { f64::INFINITY.copysign(x) } else { 1.0 / x.sqrt() }).to_bits())
    });
    check("ex2.approx.f16 $d, $a;", &[(16, halves())], 16, |r| {
        let x: Double = Half::from_bits(u128::from(r[0])).convert(&mut false).value;
        let y = Double::from_bits(u128::from(f64::from_bits(x.to_bits() as u64).exp2().to_bits()));
        let h: Half = y.convert(&mut false).value;
        if h.is_nan() { 0x7fff } else { h.to_bits() as u64 }
    });
}

#[test]
fn perturbation_moves_and_keeps_its_bounds() {
    let rows: Vec<Vec<u64>> = (1..200).map(|i| vec![u64::from((i as f32 * 0.173).to_bits())]).collect();
    let on = Config { perturb: true, ..Config::default() };
    type Case = (&'static str, fn(f64) -> f64, f64, f64);
    let cases: [Case; 6] = [
        ("ex2.approx.f32", f64::exp2, 2f64.powi(-22), 0.0),
        ("lg2.approx.f32", f64::log2, 2f64.powi(-22), 2f64.powi(-22)),
        ("sin.approx.f32", f64::sin, 2f64.powi(-23), 2f64.powf(-20.5)),
        ("rcp.approx.f32", |x| 1.0 / x, 2f64.powi(-22), 0.0),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 2f64.powf(-22.4), 0.0),
        ("tanh.approx.f32", f64::tanh, 2f64.powf(-10.9), 0.0),
    ];
    for (op, g, rel, abs) in cases {
        let mut moved = 0;
        for (row, got) in rows.iter().zip(run(&format!("{op} $d, $a;"), &[32], 32, 32, &rows, on.clone())) {
            let want = g(f64::from(f(row[0])));
            let got = f(got.0);
            moved += i32::from(got != want as f32);
            assert!((f64::from(got) - want).abs() <= rel * want.abs() + abs, "{op} {}: {got} and {want}", f(row[0]));
        }
        assert!(moved > 20, "{op} moved {moved} of 199");
    }
}

#[test]
fn packed_comparisons_minima_and_modifiers() {
    let pairs: Vec<u64> = halves().iter().zip(halves().iter().rev()).map(|(a, b)| a | b << 16).collect();
    let two = [(32, pairs.clone()), (32, pairs.clone())];
    let rows = harness::product(&[pairs.clone(), pairs.clone()]);
    fn value(ty: &str, v: u64) -> f64 {
        let bits = u128::from(v & 0xffff);
        let x: Double = if ty == "f16" {
            Half::from_bits(bits).convert(&mut false).value
        } else {
            BFloat::from_bits(bits).convert(&mut false).value
        };
        f64::from_bits(x.to_bits() as u64)
    }
    for ty in ["f16", "bf16"] {
        let less = |r: &[u64], k: u32| value(ty, r[0] >> k) < value(ty, r[1] >> k);
        for (row, got) in
            rows.iter().zip(run(&format!("setp.lt.{ty}x2 $d|$q, $a, $b;"), &[32, 32], 1, 1, &rows, Config::default()))
        {
            assert_eq!(got, (u64::from(less(row, 0)), u64::from(less(row, 16))), "{ty} {row:#x?}");
        }
        let one = if ty == "f16" { 0x3c00 } else { 0x3f80 };
        check(&format!("set.lt.{ty}x2.{ty}x2 $d, $a, $b;"), &two, 32, |r| {
            (u64::from(less(r, 0)) * one) | ((u64::from(less(r, 16)) * one) << 16)
        });
        check(&format!("set.lt.u32.{ty}x2 $d, $a, $b;"), &two, 32, |r| {
            (u64::from(less(r, 0)) * 0xffff) | (u64::from(less(r, 16)) * 0xffff_0000)
        });
        for op in ["min", "max"] {
            let half = |a: u64, b: u64, nan: bool| {
                let (a, b) = (a & 0xffff, b & 0xffff);
                let (x, y) = (value(ty, a), value(ty, b));
                match (x.is_nan(), y.is_nan()) {
                    (true, true) => 0x7fff,
                    (true, false) | (false, true) if nan => 0x7fff,
                    (true, false) => b,
                    (false, true) => a,
                    _ if x == y => {
                        if (a >> 15 == 1) == (op == "min") {
                            a
                        } else {
                            b
                        }
                    }
                    _ => {
                        if (x < y) == (op == "min") {
                            a
                        } else {
                            b
                        }
                    }
                }
            };
            check(&format!("{op}.{ty}x2 $d, $a, $b;"), &two, 32, |r| {
                half(r[0], r[1], false) | half(r[0] >> 16, r[1] >> 16, false) << 16
            });
            check(&format!("{op}.NaN.{ty}x2 $d, $a, $b;"), &two, 32, |r| {
                half(r[0], r[1], true) | half(r[0] >> 16, r[1] >> 16, true) << 16
            });
        }
    }
    // Saturation, ReLU and flushing in 16 bits, by known answers.
    let sixteen = |v: &[u64]| (16, v.to_vec());
    check(
        "add.sat.f16 $d, $a, $b;",
        &[sixteen(&[0x4000, 0xc000, 0x3400, 0x7e00]), sixteen(&[0x3400])],
        16,
        |r| match r[0] {
            0x4000 => 0x3c00,
            0x3400 => 0x3800,
            _ => 0,
        },
    );
    check(
        "mul.ftz.f16 $d, $a, $b;",
        &[sixteen(&[0x0001, 0x8200, 0x0400, 0x3c00]), sixteen(&[0x3c00, 0x3800])],
        16,
        |r| match (r[0], r[1]) {
            (0x0001, _) | (0x0400, 0x3800) => 0,
            (0x8200, _) => 0x8000,
            (0x0400, _) => 0x0400,
            (_, b) => b,
        },
    );
    check(
        "fma.rn.relu.bf16x2 $d, $a, $b, $c;",
        &[(32, vec![0x3f80_bf80]), (32, vec![0x4000_4000]), (32, vec![0])],
        32,
        |_| 0x4000_0000,
    );
    check("ex2.approx.f16x2 $d, $a;", &[(32, vec![0x4000_bc00])], 32, |_| 0x4400_3800);
    check("ex2.approx.ftz.bf16 $d, $a;", &[(16, vec![0x4000])], 16, |_| 0x4080);
    check("ex2.approx.ftz.bf16x2 $d, $a;", &[(32, vec![0x4000_bf80])], 32, |_| 0x4080_3f00);
    check("tanh.approx.f16x2 $d, $a;", &[(32, vec![0x7c00_0000])], 32, |_| 0x3c00_0000);
    check("tanh.approx.bf16 $d, $a;", &[(16, vec![0xff80])], 16, |_| 0xbf80);
}
