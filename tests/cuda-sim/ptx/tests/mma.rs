//! Matrix products of warps: every shape and type, with fragments laid out by the formulas of the PTX manual.

use torsh_ptx_sim::{Args, Config, Device, Module};

/// A shape with its types.
struct Case {
    op: &'static str,
    m: usize,
    n: usize,
    k: usize,
    /// Bits of an element of A and B, and its encoding of a small whole number.
    bits: usize,
    encode: fn(i32) -> u64,
    /// Registers of A, B and C, and the bits of one.
    regs: (usize, usize, usize),
    reg_bits: usize,
    half_acc: bool,
    /// Encoding of the accumulator.
    acc: fn(i32) -> u64,
}

fn f32_bits(v: i32) -> u64 {
    u64::from((v as f32).to_bits())
}

/// f16 bits of a small whole number.
fn f16_bits(v: i32) -> u64 {
    if v == 0 {
        return 0;
    }
    let e = v.unsigned_abs().ilog2();
    assert!(e <= 10);
    u64::from((u32::from(v < 0) << 15) | (e + 15) << 10 | (v.unsigned_abs() << (10 - e) & 0x3ff))
}

fn cases() -> Vec<Case> {
    let bf16: fn(i32) -> u64 = |v| f32_bits(v) >> 16;
    let case = |op, m, n, k, bits, encode, regs, acc: fn(i32) -> u64| Case {
        op,
        m,
        n,
        k,
        bits,
        encode,
        regs,
        reg_bits: 32,
        half_acc: false,
        acc,
    };
    vec![
        case("m16n8k16.row.col.f32.f16.f16.f32", 16, 8, 16, 16, f16_bits, (4, 2, 4), f32_bits),
        case("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 8, 16, 16, bf16, (4, 2, 4), f32_bits),
        case("m16n8k8.row.col.f32.f16.f16.f32", 16, 8, 8, 16, f16_bits, (2, 1, 4), f32_bits),
        case("m16n8k8.row.col.f32.bf16.bf16.f32", 16, 8, 8, 16, bf16, (2, 1, 4), f32_bits),
        case("m16n8k8.row.col.f32.tf32.tf32.f32", 16, 8, 8, 32, f32_bits, (4, 2, 4), f32_bits),
        case("m16n8k4.row.col.f32.tf32.tf32.f32", 16, 8, 4, 32, f32_bits, (2, 1, 4), f32_bits),
        Case {
            half_acc: true,
            ..case("m16n8k16.row.col.f16.f16.f16.f16", 16, 8, 16, 16, f16_bits, (4, 2, 2), f16_bits)
        },
        Case { half_acc: true, ..case("m16n8k8.row.col.f16.f16.f16.f16", 16, 8, 8, 16, f16_bits, (2, 1, 2), f16_bits) },
        case(
            "m16n8k16.row.col.s32.s8.s8.s32",
            16,
            8,
            16,
            8,
            |v| u64::from(v as u8),
            (2, 1, 4),
            |v| u64::from(v as u32),
        ),
        case(
            "m16n8k32.row.col.satfinite.s32.s8.s8.s32",
            16,
            8,
            32,
            8,
            |v| u64::from(v as u8),
            (4, 2, 4),
            |v| u64::from(v as u32),
        ),
        Case {
            reg_bits: 64,
            ..case(
                "m8n8k4.row.col.f64.f64.f64.f64",
                8,
                8,
                4,
                64,
                |v| f64::from(v).to_bits(),
                (1, 1, 2),
                |v| f64::from(v).to_bits(),
            )
        },
    ]
}

/// (row, column) of element i of A in a lane: groups of four lanes hold a row, registers alternate between the upper
/// and the lower eight rows, and then go on along k.
fn a_at(c: &Case, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane / 4, lane % 4);
    if c.m == 8 {
        return (group, t);
    }
    let per = 32 / c.bits;
    let (reg, part) = (i / per, i % per);
    (group + reg % 2 * 8, t * per + part + reg / 2 * 4 * per)
}

fn b_at(c: &Case, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane / 4, lane % 4);
    if c.m == 8 {
        return (t, group);
    }
    let per = 32 / c.bits;
    (t * per + i % per + i / per * 4 * per, group)
}

fn c_at(c: &Case, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane / 4, lane % 4);
    if c.m == 8 { (group, t * 2 + i) } else { (group + i / 2 * 8, t * 2 + i % 2) }
}

#[test]
fn every_shape() {
    for c in cases() {
        let (na, nb, nc) = c.regs;
        let w = c.reg_bits;
        let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(", ");
        let (la, lb, lc) = (list("a", na), list("b", nb), list("c", nc));
        let load = |p: &str, n: usize, at: usize| {
            (0..n).map(|i| format!("ld.global.b{w} %{p}{i}, [%in+{}];\n", (at + i) * w / 8)).collect::<String>()
        };
        let total = na + nb + nc;
        let store: String = (0..nc).map(|i| format!("st.global.b{w} [%out+{}], %c{i};\n", i * w / 8)).collect();
        let text = format!(
            ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out) {{ .reg .b64 %in, %out, %x; .reg .b32 %t;\n\
             .reg .b{w} %a<8>, %b<8>, %c<8>; ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x;\n\
             mul.wide.u32 %x, %t, {}; add.u64 %in, %in, %x; mul.wide.u32 %x, %t, {}; add.u64 %out, %out, %x;\n{}{}{}\
             mma.sync.aligned.{} {{{lc}}}, {{{la}}}, {{{lb}}}, {{{lc}}};\n{store}ret; }}",
            total * w / 8,
            nc * w / 8,
            load("a", na, 0),
            load("b", nb, na),
            load("c", nc, na + nb),
            c.op
        );
        let m = Module::parse(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", c.op));
        let a = |r: usize, k: usize| (r * 5 + k * 3) as i32 % 7 - 3;
        let b = |k: usize, n: usize| (k * 11 + n * 2) as i32 % 9 - 4;
        let acc = |r: usize, n: usize| (r * 3 + n) as i32 % 13 - 6;
        // Registers of a lane from its elements.
        let pack = |elements: Vec<u64>, bits: usize| -> Vec<u64> {
            elements
                .chunks((w / bits).max(1))
                .map(|e| e.iter().rev().fold(0, |v, x| if bits == 64 { *x } else { v << bits | x }))
                .collect()
        };
        let acc_bits = if c.half_acc { 16 } else { w };
        let mut bytes = Vec::new();
        for lane in 0..32 {
            let ea = (0..na * w / c.bits)
                .map(|i| {
                    (c.encode)({
                        let (r, k) = a_at(&c, lane, i);
                        a(r, k)
                    })
                })
                .collect();
            let eb = (0..nb * w / c.bits)
                .map(|i| {
                    (c.encode)({
                        let (k, n) = b_at(&c, lane, i);
                        b(k, n)
                    })
                })
                .collect();
            let ec = (0..nc * w / acc_bits)
                .map(|i| {
                    (c.acc)({
                        let (r, n) = c_at(&c, lane, i);
                        acc(r, n)
                    })
                })
                .collect();
            for reg in [pack(ea, c.bits), pack(eb, c.bits), pack(ec, acc_bits)].concat() {
                bytes.extend_from_slice(&reg.to_le_bytes()[..w / 8]);
            }
        }
        let mut dev = Device::new(Config::default());
        let (i, o) = (dev.alloc(bytes.len() as u64).unwrap(), dev.alloc((32 * nc * w / 8) as u64).unwrap());
        dev.write(i, &bytes).unwrap();
        let r = dev
            .launch(&m, "k", [1; 3], [32, 1, 1], 0, Args::new().u64(i).u64(o))
            .unwrap_or_else(|f| panic!("{}: {f}", c.op));
        assert_eq!(r.mma, 1);
        let mut out = vec![0; 32 * nc * w / 8];
        dev.read(o, &mut out).unwrap();
        let step = acc_bits / 8;
        for lane in 0..32 {
            for e in 0..nc * w / acc_bits {
                let (row, col) = c_at(&c, lane, e);
                let want: i32 = acc(row, col) + (0..c.k).map(|k| a(row, k) * b(k, col)).sum::<i32>();
                let at = lane * nc * w / 8 + e * step;
                let got = out[at..at + step].iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
                assert_eq!(got, (c.acc)(want), "{} element ({row}, {col})", c.op);
            }
        }
        let _ = c.n;
    }
}

#[test]
fn a_product_needs_the_whole_warp() {
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k() { .reg .b32 %r<9>; .reg .pred %p; mov.u32 %r1, %tid.x; setp.lt.u32 %p, %r1, 31;\n\
                mov.u32 %r2, 0; @%p mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r3,%r4}, {%r2,%r2}, {%r2}, {%r2,%r2}; ret; }";
    let m = Module::parse(text).unwrap();
    let f = Device::new(Config::default()).launch(&m, "k", [1; 3], [32, 1, 1], 0, []).unwrap_err();
    assert_eq!(f.kind, torsh_ptx_sim::FaultKind::InactiveLane, "{f}");
}
