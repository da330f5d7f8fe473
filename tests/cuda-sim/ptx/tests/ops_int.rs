//! Every form of the integer and bit instructions, against Rust's integers.

mod harness;

use harness::{check, check_int, few, ints, run};
use torsh_ptx_sim::Config;

fn m(v: u64, bits: u32) -> u64 {
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

fn s(v: u64, bits: u32) -> i128 {
    i128::from((v << (64 - bits)) as i64 >> (64 - bits))
}

fn u(v: u64, bits: u32) -> i128 {
    i128::from(m(v, bits))
}

/// (suffix, bits, signed)
const TYPES: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn val(v: u64, bits: u32, signed: bool) -> i128 {
    if signed { s(v, bits) } else { u(v, bits) }
}

#[test]
fn sums_products_and_quotients() {
    for (t, w, sg) in TYPES {
        let v = move |x: u64| val(x, w, sg);
        let low = move |x: i128| m(x as u64, w);
        check_int(&format!("add.{t} $d, $a, $b;"), w, 2, |r| low(v(r[0]) + v(r[1])));
        check_int(&format!("sub.{t} $d, $a, $b;"), w, 2, |r| low(v(r[0]) - v(r[1])));
        check_int(&format!("mul.lo.{t} $d, $a, $b;"), w, 2, |r| low(v(r[0]).wrapping_mul(v(r[1]))));
        check_int(&format!("mul.hi.{t} $d, $a, $b;"), w, 2, |r| {
            if sg { low((v(r[0]) * v(r[1])) >> w) } else { m(((u128::from(r[0]) * u128::from(r[1])) >> w) as u64, w) }
        });
        check_int(&format!("mad.lo.{t} $d, $a, $b, $c;"), w, 3, |r| {
            low(v(r[0]).wrapping_mul(v(r[1])).wrapping_add(v(r[2])))
        });
        check_int(&format!("mad.hi.{t} $d, $a, $b, $c;"), w, 3, |r| {
            let hi = if sg { (v(r[0]) * v(r[1])) >> w } else { ((u128::from(r[0]) * u128::from(r[1])) >> w) as i128 };
            low(hi + v(r[2]))
        });
        check_int(&format!("div.{t} $d, $a, $b;"), w, 2, |r| {
            if v(r[1]) == 0 { m(u64::MAX, w) } else { low(v(r[0]) / v(r[1])) }
        });
        check_int(&format!("rem.{t} $d, $a, $b;"), w, 2, |r| if v(r[1]) == 0 { r[0] } else { low(v(r[0]) % v(r[1])) });
        check_int(&format!("min.{t} $d, $a, $b;"), w, 2, |r| low(v(r[0]).min(v(r[1]))));
        check_int(&format!("max.{t} $d, $a, $b;"), w, 2, |r| low(v(r[0]).max(v(r[1]))));
        check_int(&format!("sad.{t} $d, $a, $b, $c;"), w, 3, |r| low((v(r[0]) - v(r[1])).abs() + v(r[2])));
        check(&format!("shr.{t} $d, $a, $b;"), &[(w, ints(w)), (32, ints(32))], w, |r| low(v(r[0]) >> r[1].min(127)));
        if w < 64 {
            let wide = |f: &str| format!("{f}.{t}");
            check(&format!("{} $d, $a, $b;", wide("mul.wide")), &[(w, ints(w)), (w, ints(w))], 2 * w, |r| {
                m((v(r[0]) * v(r[1])) as u64, 2 * w)
            });
            check(
                &format!("{} $d, $a, $b, $c;", wide("mad.wide")),
                &[(w, few(w)), (w, few(w)), (2 * w, few(2 * w))],
                2 * w,
                |r| m((v(r[0]) * v(r[1]) + val(r[2], 2 * w, sg)) as u64, 2 * w),
            );
        }
        if sg {
            check_int(&format!("abs.{t} $d, $a;"), w, 1, |r| low(v(r[0]).abs()));
            check_int(&format!("neg.{t} $d, $a;"), w, 1, |r| low(-v(r[0])));
        }
    }
}

#[test]
fn saturation_and_24_bits() {
    let clamp = |x: i128| m(x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64, 32);
    check_int("add.sat.s32 $d, $a, $b;", 32, 2, |r| clamp(s(r[0], 32) + s(r[1], 32)));
    check_int("sub.sat.s32 $d, $a, $b;", 32, 2, |r| clamp(s(r[0], 32) - s(r[1], 32)));
    check_int("mad.hi.sat.s32 $d, $a, $b, $c;", 32, 3, |r| clamp(((s(r[0], 32) * s(r[1], 32)) >> 32) + s(r[2], 32)));
    check_int("mul24.lo.u32 $d, $a, $b;", 32, 2, |r| m((u(r[0], 24) * u(r[1], 24)) as u64, 32));
    check_int("mul24.lo.s32 $d, $a, $b;", 32, 2, |r| m((s(m(r[0], 24), 24) * s(m(r[1], 24), 24)) as u64, 32));
    check_int("mul24.hi.u32 $d, $a, $b;", 32, 2, |r| m(((u(r[0], 24) * u(r[1], 24)) >> 16) as u64, 32));
    check_int("mul24.hi.s32 $d, $a, $b;", 32, 2, |r| m(((s(m(r[0], 24), 24) * s(m(r[1], 24), 24)) >> 16) as u64, 32));
    check_int("mad24.lo.u32 $d, $a, $b, $c;", 32, 3, |r| m((u(r[0], 24) * u(r[1], 24) + u(r[2], 32)) as u64, 32));
    check_int("mad24.lo.s32 $d, $a, $b, $c;", 32, 3, |r| {
        m((s(m(r[0], 24), 24) * s(m(r[1], 24), 24) + s(r[2], 32)) as u64, 32)
    });
}

#[test]
fn logic_and_shifts() {
    for w in [16, 32, 64] {
        check_int(&format!("and.b{w} $d, $a, $b;"), w, 2, |r| r[0] & r[1]);
        check_int(&format!("or.b{w} $d, $a, $b;"), w, 2, |r| r[0] | r[1]);
        check_int(&format!("xor.b{w} $d, $a, $b;"), w, 2, |r| r[0] ^ r[1]);
        check_int(&format!("not.b{w} $d, $a;"), w, 1, |r| m(!r[0], w));
        check_int(&format!("cnot.b{w} $d, $a;"), w, 1, |r| u64::from(r[0] == 0));
        check(&format!("shl.b{w} $d, $a, $b;"), &[(w, ints(w)), (32, ints(32))], w, |r| {
            if r[1] >= u64::from(w) { 0 } else { m(r[0] << r[1], w) }
        });
        check(&format!("shr.b{w} $d, $a, $b;"), &[(w, ints(w)), (32, ints(32))], w, |r| {
            if r[1] >= u64::from(w) { 0 } else { r[0] >> r[1] }
        });
        check_int(&format!("mov.b{w} $d, $a;"), w, 1, |r| r[0]);
        check(&format!("selp.b{w} $d, $a, $b, $c;"), &[(w, ints(w)), (w, ints(w)), (1, vec![0, 1])], w, |r| {
            if r[2] == 1 { r[0] } else { r[1] }
        });
    }
    let bit = || (1, vec![0, 1]);
    check("and.pred $d, $a, $b;", &[bit(), bit()], 1, |r| r[0] & r[1]);
    check("or.pred $d, $a, $b;", &[bit(), bit()], 1, |r| r[0] | r[1]);
    check("xor.pred $d, $a, $b;", &[bit(), bit()], 1, |r| r[0] ^ r[1]);
    check("not.pred $d, $a;", &[bit()], 1, |r| 1 - r[0]);
    check("mov.pred $d, $a;", &[bit()], 1, |r| r[0]);
    for lut in [0x00u64, 0x96, 0xe8, 0xca, 0x1b, 0xff] {
        check_int(&format!("lop3.b32 $d, $a, $b, $c, {lut};"), 32, 3, |r| {
            (0..32).fold(0, |o, i| {
                let k = (r[0] >> i & 1) << 2 | (r[1] >> i & 1) << 1 | (r[2] >> i & 1);
                o | (lut >> k & 1) << i
            })
        });
    }
    let amounts = || (32, vec![0, 1, 7, 31, 32, 33, 64, 0xffff_ffff]);
    for (mode, f) in [("wrap", (|n| n & 31) as fn(u64) -> u64), ("clamp", |n: u64| n.min(32))] {
        check(&format!("shf.l.{mode}.b32 $d, $a, $b, $c;"), &[(32, few(32)), (32, few(32)), amounts()], 32, |r| {
            m((u128::from(r[1] << 32 | r[0]) << f(r[2]) >> 32) as u64, 32)
        });
        check(&format!("shf.r.{mode}.b32 $d, $a, $b, $c;"), &[(32, few(32)), (32, few(32)), amounts()], 32, |r| {
            m((u128::from(r[1] << 32 | r[0]) >> f(r[2])) as u64, 32)
        });
    }
}

#[test]
fn counting_and_fields() {
    for w in [32, 64] {
        let out = 32;
        let list = || [(w, ints(w))];
        check(&format!("popc.b{w} $d, $a;"), &list(), out, |r| u64::from(r[0].count_ones()));
        check(&format!("clz.b{w} $d, $a;"), &list(), out, |r| u64::from(r[0].leading_zeros() - (64 - w)));
        check(&format!("brev.b{w} $d, $a;"), &list(), w, |r| r[0].reverse_bits() >> (64 - w));
        for (t, sg) in [("u", false), ("s", true)] {
            let find = move |x: u64| {
                let x = if sg && x >> (w - 1) == 1 { m(!x, w) } else { x };
                (0..w).rev().find(|i| x >> i & 1 == 1)
            };
            let none = u64::from(u32::MAX);
            check(&format!("bfind.{t}{w} $d, $a;"), &list(), out, |r| find(r[0]).map_or(none, u64::from));
            check(&format!("bfind.shiftamt.{t}{w} $d, $a;"), &list(), out, |r| {
                find(r[0]).map_or(none, |i| u64::from(w - 1 - i))
            });
            // Bit by bit, as the manual writes it.
            let field = vec![0u64, 1, 5, 8, 31, 32, 33, 63, 64, 200, 255, 256 + 3];
            check(
                &format!("bfe.{t}{w} $d, $a, $b, $c;"),
                &[(w, few(w)), (32, field.clone()), (32, field.clone())],
                w,
                |r| {
                    let (pos, len, msb) = (r[1] & 255, r[2] & 255, u64::from(w - 1));
                    let sbit = if !sg || len == 0 { 0 } else { r[0] >> (pos + len - 1).min(msb) & 1 };
                    (0..=msb)
                        .fold(0, |d, i| d | (if i < len && pos + i <= msb { r[0] >> (pos + i) & 1 } else { sbit }) << i)
                },
            );
        }
        let field = vec![0u64, 1, 8, 31, 32, 63, 64, 255];
        check(
            &format!("bfi.b{w} $d, $a, $b, $c, $e;"),
            &[(w, few(w)), (w, few(w)), (32, field.clone()), (32, field)],
            w,
            |r| {
                let (pos, len, msb) = (r[2] & 255, r[3] & 255, u64::from(w - 1));
                (0..len)
                    .take_while(|i| pos + i <= msb)
                    .fold(r[1], |d, i| (d & !(1 << (pos + i))) | (r[0] >> i & 1) << (pos + i))
            },
        );
    }
    let small = || (32, vec![0, 1, 5, 31, 32, 40]);
    check("bmsk.clamp.b32 $d, $a, $b;", &[small(), small()], 32, |r| {
        (r[0]..(r[0] + r[1]).min(32)).fold(0, |d, i| d | 1 << i)
    });
    check("szext.clamp.u32 $d, $a, $b;", &[(32, ints(32)), small()], 32, |r| {
        if r[1] >= 32 { r[0] } else { r[0] & ((1 << r[1]) - 1) }
    });
    check("szext.clamp.s32 $d, $a, $b;", &[(32, ints(32)), small()], 32, |r| match r[1] {
        0 => 0,
        n => m(s(m(r[0], n.min(32) as u32), n.min(32) as u32) as u64, 32),
    });
}

#[test]
fn bytes() {
    let sel = || (32, vec![0, 0x3210, 0x7654, 0x0123, 0xba98, 0xfedc, 0x1111, 0x8421, 3, 2]);
    check("prmt.b32 $d, $a, $b, $c;", &[(32, few(32)), (32, few(32)), sel()], 32, |r| {
        let all = r[0] | r[1] << 32;
        (0..4).fold(0, |d, i| {
            let n = r[2] >> (4 * i) & 15;
            let b = all >> (8 * (n & 7)) & 255;
            d | (if n & 8 == 0 { b } else { (b >> 7) * 255 }) << (8 * i)
        })
    });
    // The tables of the manual, for selectors 0 to 3: bytes from high to low.
    for (mode, table) in [
        ("f4e", [[3u64, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ] {
        check(
            &format!("prmt.b32.{mode} $d, $a, $b, $c;"),
            &[(32, few(32)), (32, few(32)), (32, vec![0, 1, 2, 3])],
            32,
            |r| {
                let all = r[0] | r[1] << 32;
                table[r[2] as usize].iter().fold(0, |d, n| d << 8 | (all >> (8 * n) & 255))
            },
        );
    }
    for (ta, sa) in [("u32", false), ("s32", true)] {
        for (tb, sb) in [("u32", false), ("s32", true)] {
            check_int(&format!("dp4a.{ta}.{tb} $d, $a, $b, $c;"), 32, 3, |r| {
                let byte = |v: u64, i: u32, sg| val(v >> (8 * i) & 255, 8, sg);
                m(((0..4).map(|i| byte(r[0], i, sa) * byte(r[1], i, sb)).sum::<i128>() + u(r[2], 32)) as u64, 32)
            });
            for (half, first) in [("lo", 0), ("hi", 2)] {
                check_int(&format!("dp2a.{half}.{ta}.{tb} $d, $a, $b, $c;"), 32, 3, |r| {
                    let term =
                        |i: u32| val(r[0] >> (16 * i) & 0xffff, 16, sa) * val(r[1] >> (8 * (first + i)) & 255, 8, sb);
                    m((term(0) + term(1) + u(r[2], 32)) as u64, 32)
                });
            }
        }
    }
    for (t, sg) in [("u16x2", false), ("s16x2", true)] {
        for (op, f) in [
            ("add", (|a, b| a + b) as fn(i128, i128) -> i128),
            ("sub", |a, b| a - b),
            ("min", i128::min),
            ("max", i128::max),
        ] {
            check_int(&format!("{op}.{t} $d, $a, $b;"), 32, 2, |r| {
                let half = |k: u32| m(f(val(r[0] >> k & 0xffff, 16, sg), val(r[1] >> k & 0xffff, 16, sg)) as u64, 16);
                half(0) | half(16) << 16
            });
        }
    }
}

#[test]
fn carries() {
    // 128 bits by pieces.
    let wide = |r: &[u64]| (u128::from(r[0]) | u128::from(r[1]) << 64, u128::from(r[2]) | u128::from(r[3]) << 64);
    let rows = harness::product(&vec![vec![0, 1, u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef]; 4]);
    let go = |code: &str| run(code, &[64; 4], 64, 64, &rows, Config::default());
    for (row, got) in rows.iter().zip(go("add.cc.u64 $d, $a, $c; addc.u64 $q, $b, $e;")) {
        let (x, y) = wide(row);
        let z = x.wrapping_add(y);
        assert_eq!(got, (z as u64, (z >> 64) as u64));
    }
    for (row, got) in rows.iter().zip(go("sub.cc.u64 $d, $a, $c; subc.u64 $q, $b, $e;")) {
        let (x, y) = wide(row);
        let z = x.wrapping_sub(y);
        assert_eq!(got, (z as u64, (z >> 64) as u64));
    }
    // a * b + (e:c)
    for (row, got) in rows.iter().zip(go("mad.lo.cc.u64 $d, $a, $b, $c; madc.hi.u64 $q, $a, $b, $e;")) {
        let z = (u128::from(row[0]) * u128::from(row[1])).wrapping_add(u128::from(row[2]) | u128::from(row[3]) << 64);
        assert_eq!(got, (z as u64, (z >> 64) as u64));
    }
    let rows32 = harness::product(&[few(32), few(32), few(32)]);
    for (row, got) in rows32.iter().zip(run(
        "add.cc.u32 $d, $a, $b; addc.cc.u32 $d, $a, $c; addc.u32 $q, 0, 0;",
        &[32; 3],
        32,
        32,
        &rows32,
        Config::default(),
    )) {
        let first = (row[0] + row[1]) >> 32;
        let second = row[0] + row[2] + first;
        assert_eq!(got, (m(second, 32), second >> 32));
    }
}

#[test]
fn comparisons() {
    for (t, w, sg) in TYPES {
        let v = move |x: u64| val(x, w, sg);
        for (c, f) in [
            ("eq", (|a, b| a == b) as fn(&i128, &i128) -> bool),
            ("ne", |a, b| a != b),
            ("lt", |a, b| a < b),
            ("le", |a, b| a <= b),
            ("gt", |a, b| a > b),
            ("ge", |a, b| a >= b),
        ] {
            let two = [(w, ints(w)), (w, ints(w))];
            check(&format!("setp.{c}.{t} $d, $a, $b;"), &two, 1, |r| u64::from(f(&v(r[0]), &v(r[1]))));
            check(&format!("set.{c}.u32.{t} $d, $a, $b;"), &two, 32, |r| {
                if f(&v(r[0]), &v(r[1])) { 0xffff_ffff } else { 0 }
            });
            check(&format!("set.{c}.f32.{t} $d, $a, $b;"), &two, 32, |r| {
                if f(&v(r[0]), &v(r[1])) { 0x3f80_0000 } else { 0 }
            });
        }
    }
    for (c, f) in [
        ("lo", (|a, b| a < b) as fn(u64, u64) -> bool),
        ("ls", |a, b| a <= b),
        ("hi", |a, b| a > b),
        ("hs", |a, b| a >= b),
    ] {
        check(&format!("setp.{c}.u32 $d, $a, $b;"), &[(32, ints(32)), (32, ints(32))], 1, |r| u64::from(f(r[0], r[1])));
    }
    // Two results, and a predicate folded in.
    let rows = harness::product(&[few(32), few(32), vec![0, 1]]);
    for (op, f) in [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)] {
        for (not, flip) in [("", 0), ("!", 1)] {
            let code = format!("setp.lt.{op}.s32 $d|$q, $a, $b, {not}$c;");
            for (row, got) in rows.iter().zip(run(&code, &[32, 32, 1], 1, 1, &rows, Config::default())) {
                let lt = u64::from(s(row[0], 32) < s(row[1], 32));
                assert_eq!(got, (f(lt, row[2] ^ flip), f(1 - lt, row[2] ^ flip)), "{code} {row:?}");
            }
        }
    }
    check("slct.u32.s32 $d, $a, $b, $c;", &[(32, few(32)), (32, few(32)), (32, ints(32))], 32, |r| {
        if s(r[2], 32) >= 0 { r[0] } else { r[1] }
    });
    check("slct.b64.f32 $d, $a, $b, $c;", &[(64, few(64)), (64, few(64)), (32, harness::f32s())], 64, |r| {
        if f32::from_bits(r[2] as u32) >= 0.0 { r[0] } else { r[1] }
    });
}

#[test]
fn packing() {
    let rows = harness::product(&[few(32), few(32)]);
    for (row, got) in rows.iter().zip(run("mov.b64 $d, {$a, $b};", &[32, 32], 64, 32, &rows, Config::default())) {
        assert_eq!(got.0, row[0] | row[1] << 32);
    }
    let rows = harness::product(&[few(16), few(16)]);
    for (row, got) in rows.iter().zip(run("mov.b32 $d, {$a, $b};", &[16, 16], 32, 32, &rows, Config::default())) {
        assert_eq!(got.0, row[0] | row[1] << 16);
    }
    let rows = harness::product(&[ints(64)]);
    for (row, got) in rows.iter().zip(run("mov.b64 {$d, $q}, $a;", &[64], 32, 32, &rows, Config::default())) {
        assert_eq!(got, (m(row[0], 32), row[0] >> 32));
    }
    for (row, got) in
        rows.iter().zip(run("mov.b64 {_, $q}, $a; mov.u32 $d, 5;", &[64], 32, 32, &rows, Config::default()))
    {
        assert_eq!(got, (5, row[0] >> 32));
    }
}
