//! Instructions of warps, memory and control, each form on small kernels.

use torsh_ptx_sim::{Args, Config, Device, Fault, Module, Report};

/// Runs a body for some threads with `words` of input at %in and as many results of 4 bytes at %out as threads times
/// `per`. %t is the thread, %o the address of its results.
fn run(decls: &str, body: &str, threads: u32, input: &[u32], per: usize) -> Result<(Vec<u32>, Report), Box<Fault>> {
    let text = format!(
        ".version 8.8\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
         .visible .entry k(.param .u64 in, .param .u64 out) {{\n\
         .reg .b64 %in, %out, %o, %x<30>; .reg .b32 %t, %u, %r<40>; .reg .pred %p<9>; .reg .b16 %h<9>; .reg .f32 %f<9>; {decls}\n\
         ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.lo.u32 %u, %t, {};\n\
         cvt.u64.u32 %o, %u; add.u64 %o, %o, %out;\n{body}\nret;\n}}\n",
        per * 4
    );
    let m = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut dev = Device::new(Config { races: true, ..Config::default() });
    let i = dev.alloc((input.len() * 4).max(4) as u64).unwrap();
    dev.write(i, &input.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let n = threads as usize * per * 4;
    let o = dev.alloc(n as u64).unwrap();
    let r = dev.launch(&m, "k", [1; 3], [threads, 1, 1], 4096, Args::new().u64(i).u64(o))?;
    let mut out = vec![0; n];
    dev.read(o, &mut out).unwrap();
    Ok((out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect(), r))
}

fn values(decls: &str, body: &str, threads: u32, input: &[u32], per: usize) -> Vec<u32> {
    run(decls, body, threads, input, per).unwrap_or_else(|f| panic!("{body}: {f}")).0
}

#[test]
fn shuffles() {
    // Value and predicate of every mode, with whole warps and with segments of eight.
    for (mode, arg, c, from) in [
        ("up", 3, 0, (|l, s| if l % s >= 3 { l - 3 } else { l }) as fn(u32, u32) -> u32),
        ("down", 5, 31, |l, s| if l % s + 5 < s { l + 5 } else { l }),
        ("bfly", 6, 31, |l, _| l ^ 6),
        ("idx", 4, 31, |l, s| l / s * s + 4),
    ] {
        for segment in [32u32, 8] {
            let c = c | (32 - segment) << 8;
            let code = format!(
                "add.u32 %r1, %t, 100; shfl.sync.{mode}.b32 %r2|%p1, %r1, {arg}, {c}, -1; selp.u32 %r3, 1, 0, %p1; st.global.v2.u32 [%o], {{%r2, %r3}};"
            );
            let out = values("", &code, 32, &[], 2);
            for l in 0..32 {
                let f = from(l, segment);
                let inside = match mode {
                    "up" => l % segment >= 3,
                    "down" => l % segment + 5 < segment,
                    _ => true,
                };
                assert_eq!(
                    out[2 * l as usize..2 * l as usize + 2],
                    [f + 100, u32::from(inside)],
                    "{mode} {segment} lane {l}"
                );
            }
        }
    }
    // An index of its own for every lane.
    let out =
        values("", "sub.u32 %r1, 31, %t; shfl.sync.idx.b32 %r2, %t, %r1, 31, -1; st.global.u32 [%o], %r2;", 32, &[], 1);
    assert!(out.iter().enumerate().all(|(l, v)| *v == 31 - l as u32));
}

#[test]
fn votes_matches_and_reductions() {
    for (mode, want) in [("all", [1u32, 0, 0]), ("any", [1, 1, 0]), ("uni", [1, 0, 1])] {
        for (limit, want) in [(32, want[0]), (7, want[1]), (0, want[2])] {
            let code = format!(
                "setp.lt.u32 %p1, %t, {limit}; vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2; st.global.u32 [%o], %r1;"
            );
            assert_eq!(values("", &code, 32, &[], 1), [want; 32], "{mode} {limit}");
        }
    }
    let code = "setp.lt.u32 %p1, %t, 7; vote.sync.ballot.b32 %r1, !%p1, -1; st.global.u32 [%o], %r1;";
    assert_eq!(values("", code, 32, &[], 1), [!0x7fu32; 32]);
    let out = values("", "shr.u32 %r1, %t, 3; match.any.sync.b32 %r2, %r1, -1; st.global.u32 [%o], %r2;", 32, &[], 1);
    assert!(out.iter().enumerate().all(|(l, v)| *v == 0xff << (l / 8 * 8)));
    let all = |shift: u32| {
        let code = format!(
            "shr.u32 %r1, %t, {shift}; cvt.u64.u32 %x1, %r1; match.all.sync.b64 %r2|%p1, %x1, -1; selp.u32 %r3, 1, 0, %p1; st.global.v2.u32 [%o], {{%r2, %r3}};"
        );
        values("", &code, 32, &[], 2)[..2].to_vec()
    };
    assert_eq!((all(5), all(3)), (vec![u32::MAX, 1], vec![0, 0]));
    let x = |t: u32| t.wrapping_mul(0x9e37_79b9);
    for (op, ty, f) in [
        ("add", "u32", (|a: u32, b: u32| a.wrapping_add(b)) as fn(u32, u32) -> u32),
        ("min", "u32", |a, b| a.min(b)),
        ("max", "u32", |a, b| a.max(b)),
        ("min", "s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max", "s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and", "b32", |a, b| a & b),
        ("or", "b32", |a, b| a | b),
        ("xor", "b32", |a, b| a ^ b),
    ] {
        let code =
            format!("mul.lo.u32 %r1, %t, 0x9e3779b9; redux.sync.{op}.{ty} %r2, %r1, -1; st.global.u32 [%o], %r2;");
        assert_eq!(values("", &code, 32, &[], 1), [(0..32).map(x).reduce(f).unwrap(); 32], "{op}.{ty}");
    }
    let code = "elect.sync %r1|%p1, -1; selp.u32 %r2, 1, 0, %p1; st.global.v2.u32 [%o], {%r1, %r2};";
    let out = values("", code, 32, &[], 2);
    assert!((0..32).all(|l| out[2 * l..2 * l + 2] == [0, u32::from(l == 0)]));
    let code = "mov.u32 %r1, 9; setp.lt.u32 %p1, %t, 4; @%p1 bra $L; activemask.b32 %r1; $L: st.global.u32 [%o], %r1;";
    let out = values("", code, 32, &[], 1);
    assert_eq!((out[0], out[31]), (9, 0xffff_fff0));
}

#[test]
fn member_masks_of_two_groups() {
    // Each half reduces by itself, in parted control flow and side by side.
    let parted = "setp.lt.u32 %p1, %t, 16; @%p1 bra $A; redux.sync.add.u32 %r1, %t, 0xffff0000; bra $B;\n$A: redux.sync.add.u32 %r1, %t, 0xffff;\n$B: st.global.u32 [%o], %r1;";
    let beside = "setp.lt.u32 %p1, %t, 16; selp.b32 %r9, 0xffff, 0xffff0000, %p1; redux.sync.add.u32 %r1, %t, %r9; st.global.u32 [%o], %r1;";
    for code in [parted, beside] {
        let out = values("", code, 32, &[], 1);
        assert!(out[..16].iter().all(|v| *v == 120) && out[16..].iter().all(|v| *v == 376), "{out:?}");
    }
}

#[test]
fn barriers_that_count() {
    let code = "setp.lt.u32 %p1, %t, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, !%p1;\n\
                selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 1, 0, %p3; st.global.u32 [%o], %r1; st.global.u32 [%o+4], %r2; st.global.u32 [%o+8], %r3;";
    let (out, r) = run("", code, 96, &[], 3).unwrap();
    assert!(out.chunks(3).all(|c| c == [40, 0, 1]));
    assert_eq!(r.barriers, 3);
    // A producer arrives and goes on, a consumer waits.
    let code = "setp.ge.u32 %p1, %t, 32; @%p1 bra $C; st.shared.u32 [s], %t;\n bar.arrive 1, 64; bra $E;\n$C: bar.sync 1, 64; ld.shared.u32 %r1, [s]; st.global.u32 [%o], %r1;\n$E:";
    let code = code.replace("st.shared.u32 [s], %t", "setp.eq.u32 %p2, %t, 7; @%p2 st.shared.u32 [s], %t");
    let out = values(".shared .align 4 .b8 s[4];", &code, 64, &[], 1);
    assert!(out[32..].iter().all(|v| *v == 7));
}

#[test]
fn atomics_of_every_kind() {
    type Op = fn(u64, u64) -> u64;
    let ops: [(&str, u32, Op); 16] = [
        ("add.u32", 32, |a, b| a.wrapping_add(b)),
        ("add.s32", 32, |a, b| a.wrapping_add(b)),
        ("add.u64", 64, |a, b| a.wrapping_add(b)),
        ("min.u32", 32, |a, b| a.min(b)),
        ("min.s32", 32, |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max.u32", 32, |a, b| a.max(b)),
        ("max.s32", 32, |a, b| (a as i32).max(b as i32) as u32 as u64),
        ("min.u64", 64, |a, b| a.min(b)),
        ("max.s64", 64, |a, b| (a as i64).max(b as i64) as u64),
        ("and.b32", 32, |a, b| a & b),
        ("or.b32", 32, |a, b| a | b),
        ("xor.b64", 64, |a, b| a ^ b),
        ("exch.b32", 32, |_, b| b),
        ("inc.u32", 32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", 32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("exch.b64", 64, |_, b| b),
    ];
    let cut = |v: u64, w: u32| if w == 64 { v } else { v & 0xffff_ffff };
    for (op, w, f) in ops {
        for space in ["global", "shared"] {
            for (a, b) in [(5u64, 3u64), (0, 9), (0xffff_fff0, 0x20), (7, 0xffff_ffff), (u64::MAX - 1, 5)] {
                let (a, b) = (cut(a, w), cut(b, w));
                let at = if space == "global" { "%o+8" } else { "s" };
                let code = format!(
                    "mov.b{w} %A, {a}; mov.b{w} %B, {b}; st.{space}.b{w} [{at}], %A; atom.{space}.{op} %C, [{at}], %B; ld.{space}.b{w} %A, [{at}];\n\
                     cvt.u64.u{w} %x1, %C; st.global.u64 [%o], %x1; cvt.u64.u{w} %x1, %A; st.global.u64 [%o+8], %x1;"
                );
                let decls = format!(".reg .b{w} %A, %B, %C; .shared .align 8 .b8 s[8];");
                let out = values(&decls, &code, 1, &[], 4);
                let (old, new) =
                    (u64::from(out[0]) | u64::from(out[1]) << 32, u64::from(out[2]) | u64::from(out[3]) << 32);
                assert_eq!((old, new), (a, cut(f(a, b), w)), "{space} {op} {a:#x} {b:#x}");
                let red = code
                    .replace("atom", "red")
                    .replace("%C, [", "[")
                    .replace("cvt.u64.u32 %x1, %C", "mov.u64 %x1, 0")
                    .replace("cvt.u64.u64 %x1, %C", "mov.u64 %x1, 0");
                if !op.starts_with("exch") {
                    let out = values(&decls, &red, 1, &[], 4);
                    assert_eq!(u64::from(out[2]) | u64::from(out[3]) << 32, new, "red {op}");
                }
            }
        }
    }
    // Compare and swap: taken and not; two bytes, four, eight.
    for w in [16, 32, 64] {
        for (cmp, want) in [(5, 9), (6, 5)] {
            let code = format!(
                "mov.b{w} %A, 5; mov.b{w} %B, {cmp}; mov.b{w} %C, 9; st.global.b{w} [%o], %A; atom.global.cas.b{w} %D, [%o], %B, %C;\n\
                 ld.global.b{w} %A, [%o]; cvt.u32.u{w} %r1, %A; cvt.u32.u{w} %r2, %D; st.global.v2.u32 [%o], {{%r1, %r2}};"
            );
            let out = values(&format!(".reg .b{w} %A, %B, %C, %D;"), &code, 1, &[], 2);
            assert_eq!(out, [want, 5]);
        }
    }
    // Floats: every lane adds; generic addresses.
    let code = "cvt.rn.f32.u32 %f1, %t; setp.eq.u32 %p1, %t, 0; mov.f32 %f2, 0f3F000000; @%p1 st.shared.f32 [s], %f2; bar.sync 0;\n\
                mov.u64 %x1, s; cvta.shared.u64 %x2, %x1; atom.add.f32 %f3, [%x2], %f1; bar.sync 0; ld.f32 %f4, [%x2]; st.global.f32 [%o], %f4;";
    assert_eq!(values(".shared .align 4 .b8 s[4];", code, 64, &[], 1), [2016.5f32.to_bits(); 64]);
    // The sum in global memory flushes subnormals, the one in shared memory keeps them.
    let code = "mov.b32 %r1, 5; st.global.b32 [%o], %r1; st.shared.b32 [s], %r1; atom.global.add.f32 %f1, [%o], 0f00000001; atom.shared.add.f32 %f1, [s], 0f00000001; ld.shared.b32 %r1, [s]; st.global.b32 [%o+4], %r1;";
    assert_eq!(values(".shared .align 4 .b8 s[4];", code, 1, &[], 2), [0, 6]);
    let code = "mov.b32 %r1, 0x3c00c000; mov.b32 %r2, 0x3c003c00; st.global.b32 [%o], %r1; red.global.add.noftz.f16x2 [%o], %r2;";
    assert_eq!(values("", code, 1, &[], 1), [0x4000_bc00]);
    let code = "mov.b32 %r1, 0x3f80c000; mov.b32 %r2, 0x3f803f80; st.global.b32 [%o], %r1; atom.global.add.noftz.bf16x2 %r3, [%o], %r2;";
    assert_eq!(values("", code, 1, &[], 1), [0x4000_bf80]);
    let code = "mov.f64 %D, 0d3FF8000000000000; st.global.f64 [%o], %D; atom.global.add.f64 %E, [%o], %D;";
    let out = values(".reg .f64 %D, %E;", code, 1, &[], 2);
    assert_eq!(f64::from_bits(u64::from(out[0]) | u64::from(out[1]) << 32), 3.0);
}

#[test]
fn loads_and_stores_of_every_width() {
    let input = [0x8384_8586u32, 0xf1f2_f3f4, 0x0102_0304, 0x7fff_8000];
    for (ty, want) in [
        ("u8", 0x86),
        ("s8", 0xffff_ff86),
        ("b8", 0x86),
        ("u16", 0x8586),
        ("s16", 0xffff_8586),
        ("b16", 0x8586),
        ("u32", 0x8384_8586),
    ] {
        for how in
            ["global", "global.nc", "global.ca", "global.L1::no_allocate", "relaxed.gpu.global", "volatile.global"]
        {
            assert_eq!(
                values("", &format!("ld.{how}.{ty} %r1, [%in]; st.global.u32 [%o], %r1;"), 1, &input, 1),
                [want],
                "{how} {ty}"
            );
        }
    }
    let wide = values("", "ld.global.s8 %x1, [%in+3]; st.global.u64 [%o], %x1;", 1, &input, 2);
    assert_eq!(wide, [0xffff_ff83, 0xffff_ffff]);
    assert_eq!(
        values(
            "",
            "ld.global.v4.u8 {%r1,%r2,%r3,%r4}, [%in+4]; st.global.v4.u32 [%o], {%r1,%r2,%r3,%r4};",
            1,
            &input,
            4
        ),
        [0xf4, 0xf3, 0xf2, 0xf1]
    );
    assert_eq!(
        values(
            "",
            "ld.global.v4.u16 {%r1,%r2,%r3,%r4}, [%in]; st.global.v4.u32 [%o], {%r1,%r2,%r3,%r4};",
            1,
            &input,
            4
        ),
        [0x8586, 0x8384, 0xf3f4, 0xf1f2]
    );
    assert_eq!(
        values("", "ld.global.v2.u64 {%x1,%x2}, [%in]; st.global.v2.u64 [%o], {%x2,%x1};", 1, &input, 4),
        [input[2], input[3], input[0], input[1]]
    );
    assert_eq!(
        values(
            "",
            "ld.global.v4.f32 {%r1,%r2,%r3,%r4}, [%in]; st.global.v4.f32 [%o], {%r4,%r3,%r2,%r1};",
            1,
            &input,
            4
        ),
        [input[3], input[2], input[1], input[0]]
    );
    assert_eq!(
        values(
            "",
            "mov.u32 %r1, 0; st.global.u32 [%o], %r1; mov.u32 %r1, 0x1ff; st.global.u8 [%o+1], %r1; st.global.v2.u8 [%o+2], {%r1, %r1};",
            1,
            &[],
            1
        ),
        [0xffff_ff00]
    );
    // Shared, local, generic, dynamic.
    let spaces = "mov.u32 %r1, 7; st.shared.u32 [s+4], %r1; mov.u64 %x1, s; cvta.shared.u64 %x2, %x1; ld.u32 %r2, [%x2+4];\n\
                  st.local.u32 [l+8], %r2; mov.u64 %x3, l; cvta.local.u64 %x4, %x3; ld.u32 %r3, [%x4+8]; cvta.to.local.u64 %x5, %x4; ld.local.u32 %r4, [%x5+8];\n\
                  st.shared.v2.u32 [dyn+8], {%r3, %r4}; cvta.to.shared.u64 %x6, %x2; cvt.u32.u64 %r9, %x6; ld.shared.u32 %r5, [%r9+4]; ld.shared.u32 %r6, [dyn+12];\n\
                  isspacep.shared %p1, %x2; isspacep.local %p2, %x4; isspacep.global %p3, %in; selp.u32 %r7, 1, 0, %p1; @!%p2 mov.u32 %r7, 9; @!%p3 mov.u32 %r7, 8;\n\
                  st.global.u32 [%o], %r5; st.global.u32 [%o+4], %r6; st.global.u32 [%o+8], %r7;";
    assert_eq!(values(".shared .align 8 .b8 s[8]; .local .align 8 .b8 l[16];", spaces, 1, &[], 3), [7, 7, 1]);
}

#[test]
fn module_variables() {
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n.const .align 4 .b8 c[12] = {1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 255};\n\
                .global .align 8 .u64 g = 9;\n.global .align 4 .f32 h[2] = {0f3F800000, 0f40000000};\n.global .align 4 .u32 zero[3];\n\
                .visible .entry k(.param .u64 out) { .reg .b64 %o, %x<9>; .reg .b32 %r<9>;\n ld.param.u64 %o, [out];\n\
                ld.const.s32 %r1, [c+8]; mov.u64 %x1, c; ld.const.u32 %r2, [%x1+4]; ld.global.u64 %x2, [g]; add.u64 %x2, %x2, 1; st.global.u64 [g], %x2;\n\
                mov.u64 %x3, h+4; ld.global.u32 %r3, [%x3]; ld.global.u32 %r4, [zero+8]; cvt.u32.u64 %r5, %x2;\n\
                st.global.u32 [%o], %r1; st.global.u32 [%o+4], %r2; st.global.u32 [%o+8], %r3; st.global.u32 [%o+12], %r4; st.global.u32 [%o+16], %r5; ret; }";
    let m = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut dev = Device::new(Config::default());
    let o = dev.alloc(20).unwrap();
    for turn in 0..2u32 {
        dev.launch(&m, "k", [1; 3], [1; 3], 0, Args::new().u64(o)).unwrap_or_else(|f| panic!("{f}"));
        let mut b = [0; 20];
        dev.read(o, &mut b).unwrap();
        let out: Vec<u32> = b.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(out, [u32::MAX, 2, 2f32.to_bits(), 0, 10 + turn]);
    }
    let (at, size) = dev.global(&m, "g").unwrap();
    let mut b = [0; 8];
    dev.read(at, &mut b).unwrap();
    assert_eq!((size, u64::from_le_bytes(b)), (8, 11));
    dev.unload(&m);
    assert_eq!(dev.bytes().0, 20);
}

#[test]
fn special_registers() {
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) { .reg .b64 %o, %x; .reg .b32 %r<30>; .reg .pred %p;\n\
                ld.param.u64 %o, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %ctaid.z;\n\
                setp.ne.u32 %p, %r1, 3; @%p ret; setp.ne.u32 %p, %r2, 2; @%p ret; setp.ne.u32 %p, %r3, 1; @%p ret;\n\
                setp.ne.u32 %p, %r4, 1; @%p ret; setp.ne.u32 %p, %r5, 2; @%p ret; setp.ne.u32 %p, %r6, 1; @%p ret;\n\
                mov.u32 %r7, %ntid.x; mov.u32 %r8, %ntid.y; mov.u32 %r9, %ntid.z; mov.u32 %r10, %nctaid.x; mov.u32 %r11, %nctaid.y; mov.u32 %r12, %nctaid.z;\n\
                mov.u32 %r13, %laneid; mov.u32 %r14, %warpid; mov.u32 %r15, %lanemask_lt; mov.u32 %r16, %lanemask_ge; mov.u32 %r17, WARP_SZ; mov.u32 %r18, %dynamic_smem_size;\n\
                mov.u64 %x, %clock64; mov.u32 %r19, %clock;\n\
                st.global.v4.u32 [%o], {%r7,%r8,%r9,%r10}; st.global.v4.u32 [%o+16], {%r11,%r12,%r13,%r14}; st.global.v4.u32 [%o+32], {%r15,%r16,%r17,%r18}; ret; }";
    let m = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut dev = Device::new(Config::default());
    let o = dev.alloc(48).unwrap();
    dev.launch(&m, "k", [2, 3, 4], [4, 3, 5], 100, Args::new().u64(o)).unwrap_or_else(|f| panic!("{f}"));
    let mut b = [0; 48];
    dev.read(o, &mut b).unwrap();
    let out: Vec<u32> = b.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    // Thread (3, 2, 1) of (4, 3, 5) is number 23, in the first warp.
    assert_eq!(out, [4, 3, 5, 2, 3, 4, 23, 0, (1 << 23) - 1, !((1 << 23) - 1), 32, 100]);
}

#[test]
fn branches_and_calls() {
    let code = "ts: .branchtargets $A, $B, $C;\nand.b32 %r1, %t, 3; min.u32 %r1, %r1, 2; brx.idx %r1, ts;\n\
                $A: mov.u32 %r2, 10; bra.uni $E;\n$B: mov.u32 %r2, 20; bra $E;\n$C: mov.u32 %r2, 30;\n$E: activemask.b32 %r3; st.global.v2.u32 [%o], {%r2, %r3};";
    let out = values("", code, 32, &[], 2);
    for (t, c) in out.chunks(2).enumerate() {
        assert_eq!(c, [[10, 20, 30, 30][t % 4], u32::MAX], "lanes meet again behind the branch");
    }
    // Loops of different length, then together again; labels in scopes of their own.
    let code = "mov.u32 %r1, 0; mov.u32 %r2, 0;\n{ $L: add.u32 %r2, %r2, %r1; add.u32 %r1, %r1, 1; setp.le.u32 %p1, %r1, %t; @%p1 bra $L; }\n\
                { .reg .b32 %r1; mov.u32 %r1, 3; $L: sub.u32 %r1, %r1, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra $L; add.u32 %r2, %r2, %r1; }\n\
                vote.sync.ballot.b32 %r3, %p1, -1; st.global.u32 [%o], %r2;";
    let out = values("", code, 32, &[], 1);
    assert!(out.iter().enumerate().all(|(t, v)| *v as usize == t * (t + 1) / 2));
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n\
                .func (.param .b32 r) twice(.param .b32 a) { .reg .b32 %r<3>; ld.param.b32 %r1, [a]; add.u32 %r2, %r1, %r1; st.param.b32 [r], %r2; ret; }\n\
                .func (.param .align 4 .b8 r[8]) pair(.param .b32 a, .param .b32 b) { .reg .b32 %r<5>; ld.param.b32 %r1, [a]; ld.param.b32 %r2, [b];\n\
                { .param .b32 p; st.param.b32 [p], %r1; .param .b32 q; call.uni (q), twice, (p); ld.param.b32 %r3, [q]; }\n\
                st.param.b32 [r], %r3; st.param.b32 [r+4], %r2; ret; }\n\
                .visible .entry k(.param .u64 out) { .reg .b64 %o, %x; .reg .b32 %r<9>; .reg .pred %p; ld.param.u64 %o, [out]; mov.u32 %r1, %tid.x;\n\
                mul.wide.u32 %x, %r1, 8; add.u64 %o, %o, %x; mov.u32 %r2, 1; mov.u32 %r3, 2; and.b32 %r4, %r1, 1; setp.eq.u32 %p, %r4, 0; @%p bra $L;\n\
                { .param .b32 p; .param .b32 q; .param .align 4 .b8 r[8]; st.param.b32 [p], %r1; st.param.b32 [q], 5; call (r), pair, (p, q); ld.param.b32 %r2, [r]; ld.param.b32 %r3, [r+4]; }\n\
                $L: activemask.b32 %r5; setp.ne.u32 %p, %r5, -1; @%p trap; st.global.v2.u32 [%o], {%r2, %r3}; ret; }";
    let m = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut dev = Device::new(Config::default());
    let o = dev.alloc(256).unwrap();
    dev.launch(&m, "k", [1; 3], [32, 1, 1], 0, Args::new().u64(o)).unwrap_or_else(|f| panic!("{f}"));
    let mut b = [0; 256];
    dev.read(o, &mut b).unwrap();
    for (t, c) in b.chunks(8).enumerate() {
        let want = if t % 2 == 0 { [1, 2] } else { [2 * t as u32, 5] };
        assert_eq!([0, 4].map(|k| u32::from_le_bytes(c[k..k + 4].try_into().unwrap())), want);
    }
}

#[test]
fn hints_and_fences_do_nothing() {
    let code = "membar.gl; fence.acq_rel.gpu; membar.cta; fence.sc.sys; prefetch.global.L2 [%in]; nanosleep.u32 20; griddepcontrol.wait; st.global.u32 [%o], %t;";
    assert_eq!(values("", code, 2, &[], 1), [0, 1]);
}

#[test]
fn matrix_loads_and_stores() {
    // Row r of matrix m holds 100 m + 10 r + column, as 16 bits.
    for (n, x) in [(1u32, "x1"), (2, "x2"), (4, "x4")] {
        for trans in [false, true] {
            let regs = ["%r10", "%r11", "%r12", "%r13"][..n as usize].join(",");
            let t = if trans { ".trans" } else { "" };
            // Thread t writes row t of the 8 n rows, eight elements.
            let fill = format!(
                "shr.u32 %r1, %t, 3; mul.lo.u32 %r1, %r1, 100; and.b32 %r2, %t, 7; mad.lo.u32 %r1, %r2, 10, %r1; mul.lo.u32 %r3, %t, 16; mov.u32 %r4, dyn; add.u32 %r4, %r4, %r3;\n\
                 setp.ge.u32 %p1, %t, {}; @%p1 bra $S; mov.u32 %r5, 0;\n$L: st.shared.u16 [%r4], %r1; add.u32 %r4, %r4, 2; add.u32 %r1, %r1, 1; add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 8; @%p2 bra $L;\n\
                 $S: bar.sync 0; mov.u32 %r4, dyn; add.u32 %r4, %r4, %r3;\n",
                8 * n
            );
            let stores: String = (0..n).map(|k| format!("st.global.u32 [%o+{}], %r{};", 4 * k, 10 + k)).collect();
            let load = format!("{fill}ldmatrix.sync.aligned.m8n8.{x}{t}.shared.b16 {{{regs}}}, [%r4];\n{stores}");
            let out = values("", &load, 32, &[], n as usize);
            let element = |m: u32, r: u32, c: u32| 100 * m + 10 * r + c;
            for lane in 0..32u32 {
                for m in 0..n {
                    let (r, c) = (lane / 4, lane % 4 * 2);
                    let (a, b) = if trans {
                        (element(m, c, r), element(m, c + 1, r))
                    } else {
                        (element(m, r, c), element(m, r, c + 1))
                    };
                    assert_eq!(out[(lane * n + m) as usize], a | b << 16, "{x}{t} lane {lane} matrix {m}");
                }
            }
            // Storing what was loaded gives the rows back.
            let back = format!(
                "{fill}ldmatrix.sync.aligned.m8n8.{x}{t}.shared.b16 {{{regs}}}, [%r4];\nadd.u32 %r6, %r4, 2048;\nstmatrix.sync.aligned.m8n8.{x}{t}.shared.b16 [%r6], {{{regs}}};\n\
                 bar.sync 0; @%p1 ret; ld.shared.u16 %r7, [%r6+6]; st.global.u32 [%o], %r7;"
            );
            let out = values("", &back, 32, &[], 1);
            for row in 0..8 * n {
                assert_eq!(out[row as usize], element(row / 8, row % 8, 3));
            }
        }
    }
}
