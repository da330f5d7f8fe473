//! Every form of `cvt`, against Rust's casts and `rustc_apfloat`.

mod harness;

use harness::{check, f32s, f64s, halves, ints};
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

const INTS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn m(v: u64, bits: u32) -> u64 {
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

fn val(v: u64, bits: u32, signed: bool) -> i128 {
    if signed { i128::from((v << (64 - bits)) as i64 >> (64 - bits)) } else { i128::from(m(v, bits)) }
}

fn range(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The register that a type of fewer than 16 bits lives in.
fn reg(bits: u32) -> u32 {
    bits.max(16)
}

#[test]
fn between_integers() {
    for (d, dw, ds) in INTS {
        for (a, aw, as_) in INTS {
            let list = [(reg(aw), ints(reg(aw)))];
            // A signed result is extended to its register.
            let place = |v: i128| if ds { m(val(m(v as u64, dw), dw, true) as u64, reg(dw)) } else { m(v as u64, dw) };
            check(&format!("cvt.{d}.{a} $d, $a;"), &list, reg(dw), |r| place(val(m(r[0], aw), aw, as_)));
            check(&format!("cvt.sat.{d}.{a} $d, $a;"), &list, reg(dw), |r| {
                let (lo, hi) = range(dw, ds);
                place(val(m(r[0], aw), aw, as_).clamp(lo, hi))
            });
        }
    }
    // Into a register that is wider still.
    check("cvt.s8.s32 $d, $a;", &[(32, ints(32))], 32, |r| m(val(m(r[0], 8), 8, true) as u64, 32));
    check("cvt.u8.u32 $d, $a;", &[(32, ints(32))], 64, |r| m(r[0], 8));
}

#[test]
fn integers_to_floats() {
    fn from<F: Float>(v: i128, r: Round) -> u64 {
        F::from_i128_r(v, r).value.to_bits() as u64
    }
    for (a, aw, as_) in INTS {
        let list = [(reg(aw), ints(reg(aw)))];
        for (name, mode) in MODES {
            let v = move |r: &[u64]| val(m(r[0], aw), aw, as_);
            check(&format!("cvt.{name}.f32.{a} $d, $a;"), &list, 32, |r| from::<Single>(v(r), mode));
            check(&format!("cvt.{name}.f64.{a} $d, $a;"), &list, 64, |r| from::<Double>(v(r), mode));
            check(&format!("cvt.{name}.f16.{a} $d, $a;"), &list, 16, |r| from::<Half>(v(r), mode));
        }
    }
}

#[test]
fn floats_to_integers() {
    type Whole = fn(f64) -> f64;
    let modes: [(&str, Whole); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    let widen = |v: u64| f64::from(f32::from_bits(v as u32));
    for (d, dw, ds) in INTS {
        for (name, g) in modes {
            let (lo, hi) = range(dw, ds);
            let cut = move |x: f64, nan: u64| {
                let v = if x.is_nan() { val(m(nan, dw), dw, ds) } else { (g(x) as i128).clamp(lo, hi) };
                m(v as u64, if ds { reg(dw) } else { dw })
            };
            let wide_nan = 1u64 << (dw - 1);
            check(&format!("cvt.{name}.{d}.f32 $d, $a;"), &[(32, f32s())], reg(dw), |r| {
                cut(widen(r[0]), if dw == 64 { wide_nan } else { 0 })
            });
            check(&format!("cvt.{name}.{d}.f64 $d, $a;"), &[(64, f64s())], reg(dw), |r| {
                cut(f64::from_bits(r[0]), wide_nan)
            });
            check(&format!("cvt.{name}.{d}.f16 $d, $a;"), &[(16, halves())], reg(dw), |r| {
                let x: Double = Half::from_bits(u128::from(r[0])).convert(&mut false).value;
                cut(f64::from_bits(x.to_bits() as u64), if dw == 64 { wide_nan } else { 0 })
            });
        }
    }
    check("cvt.rpi.ftz.s32.f32 $d, $a;", &[(32, vec![1, 0x0010_0000, 0x3f00_0000])], 32, |r| {
        u64::from(r[0] == 0x3f00_0000)
    });
    // To an integral value of the same type.
    for (name, g) in modes {
        check(&format!("cvt.{name}.f32.f32 $d, $a;"), &[(32, f32s())], 32, |r| {
            let v = g(widen(r[0])) as f32;
            u64::from(if v.is_nan() { 0x7fff_ffff } else { v.to_bits() })
        });
        check(&format!("cvt.{name}.f64.f64 $d, $a;"), &[(64, f64s())], 64, |r| {
            let v = g(f64::from_bits(r[0]));
            if v.is_nan() { 0xfff8_0000_0000_0000 } else { v.to_bits() }
        });
    }
}

#[test]
fn between_floats() {
    fn cut<A: Float + FloatConvert<B>, B: Float>(v: u64, mode: Round, nan: u64) -> u64 {
        let b: B = A::from_bits(u128::from(v)).convert_r(mode, &mut false).value;
        if b.is_nan() { nan } else { b.to_bits() as u64 }
    }
    for (name, mode) in MODES {
        check(&format!("cvt.{name}.f32.f64 $d, $a;"), &[(64, f64s())], 32, |r| {
            cut::<Double, Single>(r[0], mode, 0x7fff_ffff)
        });
        check(&format!("cvt.{name}.f16.f32 $d, $a;"), &[(32, f32s())], 16, |r| cut::<Single, Half>(r[0], mode, 0x7fff));
        check(&format!("cvt.{name}.f16.f64 $d, $a;"), &[(64, f64s())], 16, |r| cut::<Double, Half>(r[0], mode, 0x7fff));
        if matches!(name, "rn" | "rz") {
            check(&format!("cvt.{name}.bf16.f32 $d, $a;"), &[(32, f32s())], 16, |r| {
                cut::<Single, BFloat>(r[0], mode, 0x7fff)
            });
            let two = [(32, f32s()), (32, f32s())];
            check(&format!("cvt.{name}.f16x2.f32 $d, $a, $b;"), &two, 32, |r| {
                cut::<Single, Half>(r[0], mode, 0x7fff) << 16 | cut::<Single, Half>(r[1], mode, 0x7fff)
            });
            check(&format!("cvt.{name}.bf16x2.f32 $d, $a, $b;"), &two, 32, |r| {
                cut::<Single, BFloat>(r[0], mode, 0x7fff) << 16 | cut::<Single, BFloat>(r[1], mode, 0x7fff)
            });
        }
    }
    check("cvt.f32.f16 $d, $a;", &[(16, halves())], 32, |r| cut::<Half, Single>(r[0], Round::TowardZero, 0x7fff_ffff));
    check("cvt.f64.f16 $d, $a;", &[(16, halves())], 64, |r| {
        cut::<Half, Double>(r[0], Round::TowardZero, 0xfff8_0000_0000_0000)
    });
    check("cvt.f32.bf16 $d, $a;", &[(16, halves())], 32, |r| {
        cut::<BFloat, Single>(r[0], Round::TowardZero, 0x7fff_ffff)
    });
    check("cvt.f64.f32 $d, $a;", &[(32, f32s())], 64, |r| {
        cut::<Single, Double>(r[0], Round::TowardZero, 0xfff8_0000_0000_0000)
    });
    check("cvt.ftz.f64.f32 $d, $a;", &[(32, f32s())], 64, |r| {
        let x = f32::from_bits(r[0] as u32);
        let v = if x.is_subnormal() { r[0] & 0x8000_0000 } else { r[0] };
        cut::<Single, Double>(v, Round::TowardZero, 0xfff8_0000_0000_0000)
    });
    check("cvt.sat.f32.f32 $d, $a;", &[(32, f32s())], 32, |r| {
        let x = f32::from_bits(r[0] as u32);
        u64::from((if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) }).to_bits())
    });
    check("cvt.rn.relu.f16x2.f32 $d, $a, $b;", &[(32, f32s()), (32, f32s())], 32, |r| {
        let one = |v: u64| if f32::from_bits(v as u32) <= 0.0 { 0 } else { cut::<Single, Half>(v, MODES[0].1, 0x7fff) };
        one(r[0]) << 16 | one(r[1])
    });
    // TF32: ten bits of mantissa in place; away from zero on ties, or to even.
    for (name, mode) in [("rna", Round::NearestTiesToAway), ("rn", Round::NearestTiesToEven), ("rz", Round::TowardZero)]
    {
        check(&format!("cvt.{name}.tf32.f32 $d, $a;"), &[(32, f32s())], 32, |r| {
            let x = f32::from_bits(r[0] as u32);
            if x.is_nan() {
                return 0x7fff_e000;
            }
            if !x.is_finite() {
                return r[0];
            }
            let (low, kept) = (r[0] & 0x1fff, r[0] & !0x1fff);
            let up = match mode {
                Round::TowardZero => false,
                Round::NearestTiesToAway => low >= 0x1000,
                _ => low > 0x1000 || (low == 0x1000 && kept >> 13 & 1 == 1),
            };
            kept + if up { 0x2000 } else { 0 }
        });
    }
}

#[test]
fn eight_bit_floats() {
    // (value, e4m3, e5m2), the first being saturated where it must.
    let table: [(f32, u64, u64); 12] = [
        (0.0, 0x00, 0x00),
        (-0.0, 0x80, 0x80),
        (1.0, 0x38, 0x3c),
        (-1.5, 0xbc, 0xbe),
        (448.0, 0x7e, 0x5f),
        (1e9, 0x7e, 0x7b),
        (-1e9, 0xfe, 0xfb),
        (f32::NAN, 0x7f, 0x7f),
        (0.017_578_125, 0x09, 0x24),
        (0.001_953_125, 0x01, 0x18),
        (0.000_976_562_5, 0x00, 0x14),
        (57_344.0, 0x7e, 0x7b),
    ];
    for (t, k) in [("e4m3x2", 0), ("e5m2x2", 1)] {
        let list: Vec<u64> = table.iter().map(|r| u64::from(r.0.to_bits())).collect();
        let find = |v: u64| {
            let row = table.iter().find(|r| u64::from(r.0.to_bits()) == v).unwrap();
            if k == 0 { row.1 } else { row.2 }
        };
        check(&format!("cvt.rn.satfinite.{t}.f32 $d, $a, $b;"), &[(32, list.clone()), (32, list.clone())], 16, |r| {
            find(r[0]) << 8 | find(r[1])
        });
    }
}
