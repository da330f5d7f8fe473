//! Runs one instruction on many operands and compares every result with an oracle in Rust.
#![allow(dead_code, reason = "every test program uses a part of it")]

use torsh_ptx_sim::{Args, Config, Device, Module};

/// The register class of a width in bits; 1 is a predicate.
fn class(bits: u32) -> &'static str {
    match bits {
        1 => "pred",
        16 => "b16",
        32 => "b32",
        _ => "b64",
    }
}

/// Values that tend to break integer instructions, as bits of this width.
pub fn ints(bits: u32) -> Vec<u64> {
    let m = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let top = 1u64 << (bits - 1);
    let mut v = vec![
        0,
        1,
        2,
        5,
        7,
        31,
        32,
        33,
        0xff,
        m,
        m - 1,
        top,
        top - 1,
        top + 1,
        0xdead_beef_1234_5678 & m,
        0x0123_4567_89ab_cdef & m,
    ];
    v.dedup();
    v
}

/// A shorter list, for instructions of three operands.
pub fn few(bits: u32) -> Vec<u64> {
    let v = ints(bits);
    [0, 1, 3, 5, 6, 7, 9, 11, 12, 14].iter().map(|i| v[*i]).collect()
}

/// Values that tend to break f32 instructions.
pub fn f32s() -> Vec<u64> {
    [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        std::f32::consts::PI,
        0.1,
        1e-45,
        -1e-45,
        1.1e-38,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        3e9,
        -3e9,
        1e20,
        16_777_217.0,
        8_388_607.5,
        65_519.0,
        65_520.0,
        1.000_000_1,
        448.0,
        57_344.0,
        3e-5,
        5.9e-8,
    ]
    .iter()
    .map(|x| u64::from(x.to_bits()))
    .collect()
}

/// Values that tend to break f64 instructions.
pub fn f64s() -> Vec<u64> {
    [
        0.0f64,
        -0.0,
        1.0,
        -1.5,
        2.5,
        std::f64::consts::PI,
        0.1,
        5e-324,
        2.2e-308,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e19,
        -1e19,
        9.3e18,
        2_147_483_648.5,
        -2_147_483_649.0,
        1.0 + f64::EPSILON,
        1e-40,
        3.5e38,
        16_777_217.0,
    ]
    .iter()
    .map(|x| x.to_bits())
    .collect()
}

/// Bits of f16 or bf16 that tend to break instructions.
pub fn halves() -> Vec<u64> {
    vec![
        0, 0x8000, 0x3c00, 0xbc00, 0x3800, 0x3e00, 0x4248, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x7c00,
        0xfc00, 0x7e00, 0x3f80, 0xbf80, 0x4049, 0x7f7f, 0x7f80, 0xff80, 0x0080, 0x007f, 0x2e66, 0x3dcc,
    ]
}

/// All combinations of one value from each list.
pub fn product(lists: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let mut out = vec![Vec::new()];
    for l in lists {
        out = out.iter().flat_map(|row| l.iter().map(|v| [row.as_slice(), &[*v]].concat())).collect();
    }
    out
}

/// Runs `code` (operands `$a $b $c $e` to `$d`, and a second result `$q`) on every row of operands. `widths` are those
/// of the operands, `out` that of the result. Gives the results and the second ones.
pub fn run(code: &str, widths: &[u32], out: u32, q: u32, rows: &[Vec<u64>], config: Config) -> Vec<(u64, u64)> {
    let names = ["$a", "$b", "$c", "$e"];
    let mut body = code.replace("$d", "%d").replace("$q", "%q");
    let mut regs = format!(".reg .{} %d; .reg .{} %q;", class(out), class(q));
    let mut loads = String::new();
    for (k, w) in widths.iter().enumerate() {
        let r = ["%xa", "%xb", "%xc", "%xe"][k];
        body = body.replace(names[k], r);
        regs += &format!(" .reg .{} {r};", class(*w));
        let at = k * 8;
        loads += &match w {
            1 => format!("ld.global.u32 %t, [%in+{at}]; setp.ne.u32 {r}, %t, 0;\n"),
            _ => format!("ld.global.b{w} {r}, [%in+{at}];\n"),
        };
    }
    let store = |r: &str, w: u32, at: u32| match w {
        1 => format!("selp.u64 %v, 1, 0, {r}; st.global.u64 [%out+{at}], %v;\n"),
        w => format!("cvt.u64.u{w} %v, {r}; st.global.u64 [%out+{at}], %v;\n"),
    };
    // A second result that the code does not write is stored as zero.
    let zero = if code.contains("$q") {
        store("%q", q, 8)
    } else {
        "mov.u64 %v, 0; st.global.u64 [%out+8], %v;\n".to_string()
    };
    let text = format!(
        ".version 8.8\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n) {{\n\
         .reg .b64 %in, %out, %v, %o; .reg .b32 %t, %i, %n; .reg .pred %done; {regs}\n\
         mov.u32 %i, %ctaid.x; mov.u32 %t, %ntid.x; mul.lo.u32 %i, %i, %t; mov.u32 %t, %tid.x; add.u32 %i, %i, %t;\n\
         ld.param.u32 %n, [n]; setp.ge.u32 %done, %i, %n; @%done ret;\n\
         ld.param.u64 %in, [in]; mul.wide.u32 %o, %i, 32; add.u64 %in, %in, %o;\n\
         ld.param.u64 %out, [out]; mul.wide.u32 %o, %i, 16; add.u64 %out, %out, %o;\n{loads}{body}\n{}{zero}ret;\n}}\n",
        store("%d", out, 0)
    );
    let m = Module::parse(&text).unwrap_or_else(|e| panic!("{code}: {e}\n{text}"));
    let mut dev = Device::new(config);
    let n = rows.len() as u64;
    let (i, o) = (dev.alloc(n * 32).unwrap(), dev.alloc(n * 16).unwrap());
    let bytes: Vec<u8> = rows.iter().flat_map(|r| (0..4).flat_map(|k| r.get(k).unwrap_or(&0).to_le_bytes())).collect();
    dev.write(i, &bytes).unwrap();
    let grid = [(n as u32).div_ceil(64), 1, 1];
    dev.launch(&m, "k", grid, [64, 1, 1], 0, Args::new().u64(i).u64(o).u32(n as u32))
        .unwrap_or_else(|f| panic!("{code}: {f}"));
    let mut res = vec![0; n as usize * 16];
    dev.read(o, &mut res).unwrap();
    let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
    res.chunks(16).map(|c| (word(&c[..8]), word(&c[8..]))).collect()
}

/// Compares one instruction with its oracle on all combinations of the operand lists.
pub fn check(code: &str, operands: &[(u32, Vec<u64>)], out: u32, oracle: impl Fn(&[u64]) -> u64) {
    let widths: Vec<u32> = operands.iter().map(|o| o.0).collect();
    let lists: Vec<Vec<u64>> = operands.iter().map(|o| o.1.clone()).collect();
    let rows = product(&lists);
    assert!(!rows.is_empty());
    for (row, (got, _)) in rows.iter().zip(run(code, &widths, out, 32, &rows, Config::default())) {
        let want = oracle(row);
        assert_eq!(got, want, "{code} on {row:#x?} gives {got:#x}, not {want:#x}");
    }
}

/// The same on integers of one width.
pub fn check_int(code: &str, bits: u32, operands: usize, oracle: impl Fn(&[u64]) -> u64) {
    let list = if operands > 2 { few(bits) } else { ints(bits) };
    check(code, &vec![(bits, list); operands], bits, oracle);
}
