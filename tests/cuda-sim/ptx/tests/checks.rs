//! Every check, provoked: which fault, at which line, in which thread, at which address.

use torsh_ptx_sim::{Args, Config, Device, Error, Fault, FaultKind, Module, Order, Report};

const HEAD: &str = ".version 8.8\n.target sm_90\n.address_size 64\n";
/// Line of the first instruction of a body: after the head, the entry, the declarations.
const FIRST: u32 = 11;

/// A kernel with two pointers and a number, its registers, and %rd1, %rd2, %r1 (thread), %r2 (block) set.
fn kernel(decls: &str, body: &str) -> String {
    assert!(!decls.contains('\n'));
    format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u32 n) {{\n\
         .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<40>; .reg .b64 %rd<40>; .reg .f32 %f<9>; {decls}\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x; \
         mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; ld.param.u32 %r3, [n];\n\n{body}\nret;\n}}\n"
    )
}

struct Run {
    dev: Device,
    a: u64,
    b: u64,
    grid: u32,
    block: u32,
    dynamic: u32,
    n: u32,
}

impl Run {
    /// Two buffers of 256 bytes, of which `a` is zero and `b` unwritten.
    fn new() -> Run {
        Run::with(Config { races: true, ..Config::default() })
    }

    fn with(config: Config) -> Run {
        let mut dev = Device::new(config);
        let a = dev.alloc(256).unwrap();
        let b = dev.alloc(256).unwrap();
        dev.write(a, &[0; 256]).unwrap();
        Run { dev, a, b, grid: 1, block: 32, dynamic: 0, n: 0 }
    }

    fn go(&mut self, decls: &str, body: &str) -> Result<Report, Box<Fault>> {
        let m = Module::parse(&kernel(decls, body)).unwrap_or_else(|e| panic!("{e}"));
        let args = Args::new().u64(self.a).u64(self.b).u32(self.n);
        self.dev.launch(&m, "k", [self.grid, 1, 1], [self.block, 1, 1], self.dynamic, args)
    }

    /// The fault, which must be of this kind and on this line of the body (0 for the first).
    fn fault(&mut self, decls: &str, body: &str, kind: FaultKind, line: u32) -> Fault {
        let f = *self.go(decls, body).expect_err("a fault");
        assert_eq!((f.kind, f.line), (kind, FIRST + line), "{f}");
        assert_eq!(f.kernel, "k");
        assert_eq!(f.instruction, body.lines().nth(line as usize).unwrap().trim());
        f
    }
}

#[test]
fn out_of_bounds_to_the_byte() {
    let mut r = Run::new();
    r.dev.free(r.a).unwrap();
    r.a = r.dev.alloc(127).unwrap();
    let f = r.fault("", "st.global.u32 [%rd4], %r1;", FaultKind::OutOfBounds, 0);
    assert_eq!((f.threads, f.address), (vec![[31, 0, 0]], Some(r.a + 124)));
    assert!(f.message.contains("offset 124 of the allocation of 127 bytes"), "{}", f.message);
    // An allocation that ends where the next could begin.
    let (whole, next) = (r.dev.alloc(512).unwrap(), r.dev.alloc(512).unwrap());
    assert!(next > whole + 512);
    let small = std::mem::replace(&mut r.a, whole);
    r.fault("", "ld.global.u32 %r4, [%rd1+512];", FaultKind::OutOfBounds, 0);
    r.a = small;
    // Bytes up to the last one are fine.
    r.block = 1;
    r.go("", "st.global.u8 [%rd1+126], %r1;").unwrap();
    r.fault("", "nop_is_no_line: \nst.global.u8 [%rd1+127], %r1;", FaultKind::OutOfBounds, 1);
    let f = r.fault("", "st.global.u8 [%rd1+-1], %r1;", FaultKind::OutOfBounds, 0);
    assert!(f.message.contains("1 bytes before the allocation"), "{}", f.message);
}

#[test]
fn null_and_freed_addresses() {
    let mut r = Run::new();
    r.block = 1;
    let f = r.fault("", "mov.u64 %rd9, 0;\nld.global.u32 %r4, [%rd9];", FaultKind::OutOfBounds, 1);
    assert!(f.message.contains("null"), "{f}");
    r.dev.free(r.b).unwrap();
    let f = r.fault("", "ld.global.u32 %r4, [%rd2+8];", FaultKind::UseAfterFree, 0);
    assert!(f.message.contains("offset 8"), "{f}");
    assert_eq!(r.dev.free(r.b).unwrap_err().kind, FaultKind::UseAfterFree);
    assert_eq!(r.dev.read(r.b, &mut [0; 4]).unwrap_err().kind, FaultKind::UseAfterFree);
    assert_eq!(r.dev.write(r.a + 250, &[0; 7]).unwrap_err().kind, FaultKind::OutOfBounds);
}

#[test]
fn misaligned_accesses() {
    let mut r = Run::new();
    r.block = 1;
    r.fault("", "ld.global.u32 %r4, [%rd1+2];", FaultKind::Misaligned, 0);
    r.fault("", "ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd1+8];", FaultKind::Misaligned, 0);
    r.fault("", "st.global.v2.f32 [%rd1+4], {%f1,%f2};", FaultKind::Misaligned, 0);
    r.go("", "ld.global.v2.u32 {%r4,%r5}, [%rd1+8];").unwrap();
}

#[test]
fn unwritten_global_memory() {
    let mut r = Run::new();
    r.block = 1;
    let f = r.fault("", "st.global.u8 [%rd2], %rs1;\nld.global.u32 %r4, [%rd2];", FaultKind::Uninitialised, 1);
    assert_eq!(f.address, Some(r.b + 1));
    r.dev.config_mut().check_uninit = false;
    r.go("", "ld.global.u32 %r4, [%rd2+4];\nst.global.u32 [%rd1], %r4;").unwrap();
    let mut out = [0; 4];
    r.dev.read(r.a, &mut out).unwrap();
    assert_eq!(out, [0xff; 4], "unwritten memory is poisoned");
    // A copy carries what is unwritten with it.
    let c = r.dev.alloc(256).unwrap();
    r.dev.write(c, &[0; 256]).unwrap();
    r.dev.copy(c, r.b, 16).unwrap();
    assert_eq!(r.dev.unwritten(c, 256).unwrap(), Some(c + 1));
}

#[test]
fn unwritten_shared_and_local_memory() {
    let mut r = Run::new();
    let f = r.fault(".shared .align 4 .b8 s[128];", "ld.shared.u32 %r4, [s+12];", FaultKind::Uninitialised, 0);
    assert!(f.message.contains("shared"), "{f}");
    r.fault(
        ".local .align 4 .b8 l[16];",
        "st.local.u32 [l], %r1;\nld.local.u32 %r4, [l+4];",
        FaultKind::Uninitialised,
        1,
    );
    r.fault(".local .align 4 .b8 l[16];", "ld.local.u32 %r4, [l+16];", FaultKind::OutOfBounds, 0);
    // A new block does not see what the last one left.
    r.grid = 2;
    let f = r.fault(
        ".shared .align 4 .b8 s[128];",
        "setp.ne.u32 %p1, %r2, 0;\n@%p1 bra $L;\nst.shared.u32 [s], %r1;\n$L: bar.sync 0;\nld.shared.u32 %r4, [s];",
        FaultKind::Race,
        2,
    );
    assert_eq!(f.block, [0; 3]);
    r.block = 1;
    let f = r.fault(
        ".shared .align 4 .b8 s[128];",
        "setp.ne.u32 %p1, %r2, 0;\n@%p1 bra $L;\nst.shared.u32 [s], %r1;\n$L: bar.sync 0;\nld.shared.u32 %r4, [s];",
        FaultKind::Uninitialised,
        4,
    );
    assert_eq!(f.block, [1, 0, 0]);
}

#[test]
fn shared_bounds_and_limit() {
    let mut r = Run::new();
    r.block = 1;
    // Behind one variable there is free space before the next.
    let two = ".shared .align 4 .b8 s[20]; .shared .align 4 .b8 t[20];";
    r.fault(
        two,
        "st.shared.u32 [s+16], %r1;\nst.shared.u32 [t], %r1;\nst.shared.u32 [s+20], %r1;",
        FaultKind::OutOfBounds,
        2,
    );
    r.fault(two, "mov.u32 %r9, 0;\nst.shared.u32 [%r9], %r1;", FaultKind::OutOfBounds, 1);
    r.dynamic = 227 * 1024 - 19;
    let f = r.go(two, "st.shared.u32 [s], %r1;").unwrap_err();
    assert_eq!((f.kind, f.line), (FaultKind::SharedLimit, 0));
    r.dynamic = 227 * 1024 - 20;
    r.go(two, "st.shared.u32 [s], %r1;").unwrap();
}

#[test]
fn dynamic_shared_memory_is_as_large_as_the_launch_says() {
    let text = format!(
        "{HEAD}.extern .shared .align 16 .b8 dyn[];\n.visible .entry k(.param .u32 at) {{ .reg .b32 %r<9>;\n\
         ld.param.u32 %r1, [at]; mov.u32 %r2, dyn; add.s32 %r3, %r2, %r1;\nst.shared.u32 [%r3], %r1;\nret; }}"
    );
    let m = Module::parse(&text).unwrap();
    let mut dev = Device::new(Config::default());
    let mut go =
        |at: u32, dynamic| dev.launch(&m, "k", [1; 3], [1; 3], dynamic, Args::new().u32(at)).map_err(|f| f.kind);
    go(12, 16).unwrap();
    assert_eq!(go(16, 16), Err(FaultKind::OutOfBounds));
    assert_eq!(go(0, 0), Err(FaultKind::OutOfBounds));
}

#[test]
fn shared_races() {
    let shared = ".shared .align 4 .b8 s[512];";
    let mut r = Run::new();
    r.block = 64;
    let each = "mul.lo.u32 %r5, %r1, 4; mov.u32 %r6, s; add.u32 %r6, %r6, %r5;\n";
    // A neighbour's word without a barrier.
    let body = format!(
        "{each}st.shared.u32 [%r6], %r1;\nxor.b32 %r7, %r5, 128; mov.u32 %r6, s; add.u32 %r7, %r7, %r6;\nld.shared.u32 %r8, [%r7];"
    );
    r.block = 64;
    let f = r.fault(shared, &body, FaultKind::Uninitialised, 3);
    assert_eq!(f.threads, [[0, 0, 0]]);
    r.dev.config_mut().check_uninit = false;
    let f = r.fault(shared, &body, FaultKind::Race, 1);
    assert_eq!(f.threads, [[32, 0, 0], [0, 0, 0]]);
    let fixed = body.replace("xor", "bar.sync 0; xor");
    r.go(shared, &fixed).unwrap();
    // Within a warp bar.warp.sync suffices, lockstep does not.
    r.block = 32;
    let warp = body.replace("128", "4");
    r.fault(shared, &warp, FaultKind::Race, 3);
    r.go(shared, &warp.replace("xor", "bar.warp.sync -1; xor")).unwrap();
    // All lanes write one word; all lanes read one word.
    r.fault(shared, "st.shared.u32 [s], %r1;", FaultKind::Race, 0);
    r.go(shared, "ld.shared.u32 %r4, [s];").unwrap();
    // Bytes side by side are no race.
    r.go(shared, "mov.u32 %r6, s; add.u32 %r6, %r6, %r1; st.shared.u8 [%r6], %r1;").unwrap();
    // Reading, then writing what others may still read.
    r.block = 64;
    r.fault(shared, &format!("{each}ld.shared.u32 %r4, [s+4];\nst.shared.u32 [%r6], %r1;"), FaultKind::Race, 2);
    // Of all the lanes that read, the last one writes.
    r.block = 32;
    let body = "atom.shared.add.u32 %r4, [s], 1;\nbar.sync 0;\nld.shared.u32 %r4, [s];\nsetp.eq.u32 %p1, %r1, 31;\n@%p1 st.shared.u32 [s], %r1;";
    r.fault(shared, body, FaultKind::Race, 4);
    r.block = 64;
    // Atomics are ordered among themselves, not with plain accesses.
    r.go(shared, "atom.shared.add.u32 %r4, [s], %r1;").unwrap();
    r.fault(shared, "atom.shared.add.u32 %r4, [s], %r1;\nld.shared.u32 %r4, [s];", FaultKind::Race, 1);
}

#[test]
fn global_races() {
    let mut r = Run::new();
    r.grid = 2;
    r.block = 1;
    let f = r.fault("", "st.global.u32 [%rd1], %r1;", FaultKind::Race, 0);
    assert_eq!(f.block, [1, 0, 0]);
    assert!(f.message.contains("block [0, 0, 0]"), "{f}");
    // A barrier orders nothing between blocks.
    let body = "setp.ne.u32 %p1, %r2, 0;\n@%p1 st.global.u32 [%rd1], %r1;\nbar.sync 0;\nld.global.u32 %r4, [%rd1];";
    r.fault("", body, FaultKind::Race, 1);
    r.dev.config_mut().order = Order::Reversed;
    r.fault("", body, FaultKind::Race, 3);
    r.dev.config_mut().order = Order::Forward;
    r.go("", "red.global.add.u32 [%rd1], 1;").unwrap();
    r.go("", "ld.global.u32 %r4, [%rd1];").unwrap();
    // Two launches do not race.
    r.grid = 1;
    r.go("", "st.global.u32 [%rd1], %r1;").unwrap();
    r.go("", "ld.global.u32 %r4, [%rd1];\nst.global.u32 [%rd1], %r1;").unwrap();
    // Bytes of one word by two threads.
    r.block = 2;
    r.go("", "cvt.u64.u32 %rd5, %r1; add.s64 %rd5, %rd5, %rd1;\nst.global.u8 [%rd5], %r1;").unwrap();
    r.fault(
        "",
        "cvt.u64.u32 %rd5, %r1; add.s64 %rd5, %rd5, %rd1;\nst.global.u8 [%rd5], %r1;\nld.global.u16 %r5, [%rd1];",
        FaultKind::Race,
        2,
    );
}

#[test]
fn non_coherent_loads_of_written_memory() {
    let mut r = Run::new();
    r.block = 1;
    r.fault("", "st.global.u32 [%rd1], %r1;\nbar.sync 0;\nld.global.nc.u32 %r4, [%rd1];", FaultKind::NonCoherent, 2);
    r.fault("", "ld.global.nc.u32 %r4, [%rd1];\nst.global.u32 [%rd1], %r1;", FaultKind::NonCoherent, 1);
    r.go("", "ld.global.nc.u32 %r4, [%rd1];\nst.global.u32 [%rd1+4], %r1;").unwrap();
}

#[test]
fn asynchronous_copies_must_be_waited_for() {
    let shared = ".shared .align 16 .b8 s[64];";
    let mut r = Run::new();
    r.block = 1;
    let copy = "cp.async.cg.shared.global [s], [%rd1], 16;\ncp.async.commit_group;\n";
    let f = r.fault(shared, &format!("{copy}ld.shared.u32 %r4, [s+4];"), FaultKind::AsyncPending, 2);
    assert!(f.message.contains("cp.async.wait_group"), "{f}");
    r.fault(shared, &format!("{copy}cp.async.wait_group 1;\nld.shared.u32 %r4, [s];"), FaultKind::AsyncPending, 3);
    r.fault(shared, &format!("{copy}st.shared.u32 [s], %r4;"), FaultKind::AsyncPending, 2);
    r.go(shared, &format!("{copy}cp.async.wait_group 0;\nld.shared.u32 %r4, [s];")).unwrap();
    // Not committed: only wait_all waits for it.
    let open = "cp.async.ca.shared.global [s], [%rd1], 4;\n";
    r.fault(shared, &format!("{open}cp.async.wait_group 0;\nld.shared.u32 %r4, [s];"), FaultKind::AsyncPending, 2);
    r.go(shared, &format!("{open}cp.async.wait_all;\nld.shared.u32 %r4, [s];")).unwrap();
    // Another thread needs a barrier after the wait.
    r.block = 64;
    let lead =
        "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra $L;\ncp.async.cg.shared.global [s], [%rd1], 16;\ncp.async.wait_all;\n$L:\n";
    r.fault(shared, &format!("{lead}bar.warp.sync -1;\nld.shared.u32 %r4, [s];"), FaultKind::Race, 6);
    r.dev.config_mut().order = Order::Reversed;
    r.dev.config_mut().check_uninit = false;
    r.fault(shared, &format!("{lead}bar.warp.sync -1;\nld.shared.u32 %r4, [s];"), FaultKind::Race, 2);
    r.go(shared, &format!("{lead}bar.sync 0;\nld.shared.u32 %r4, [s];")).unwrap();
    r.fault(shared, "mov.u32 %r9, 17;\ncp.async.cg.shared.global [s], [%rd1], 16, %r9;", FaultKind::OutOfBounds, 1);
    // A tail that is not read is filled with zeros.
    let mut r = Run::new();
    r.block = 1;
    r.dev.write(r.a, &[7; 16]).unwrap();
    r.go(shared, "mov.u32 %r9, 6;\ncp.async.cg.shared.global [s], [%rd1], 16, %r9;\ncp.async.wait_all;\nld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [s];\nst.global.v4.u32 [%rd2], {%r4,%r5,%r6,%r7};").unwrap();
    let mut out = [1; 16];
    r.dev.read(r.b, &mut out).unwrap();
    assert_eq!(out, [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn divergent_barriers() {
    let mut r = Run::new();
    r.block = 64;
    let f =
        r.fault("", "setp.lt.u32 %p1, %r1, 33;\n@%p1 bra $L;\nret;\n$L:\nbar.sync 0;", FaultKind::DivergentBarrier, 4);
    assert!(f.message.contains("33 of 64 threads wait"), "{f}");
    let f = r.fault(
        "",
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $L;\nbar.sync 0;\nbra $M;\n$L:\nbar.sync 0;\n$M:",
        FaultKind::DivergentBarrier,
        5,
    );
    assert!(f.message.contains("different barriers"), "{f}");
    r.fault("", "bar.sync 16;", FaultKind::DivergentBarrier, 0);
    // Named barriers with a count: one warp each.
    r.go("", "shr.u32 %r4, %r1, 5; add.u32 %r4, %r4, 1;\nbar.sync %r4, 32;").unwrap();
}

#[test]
fn warp_instructions_need_the_lanes_that_they_name() {
    let mut r = Run::new();
    let f = r.fault(
        "",
        "setp.lt.u32 %p1, %r1, 16;\n@!%p1 bra $L;\nshfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;\n$L:\nbar.sync 0;",
        FaultKind::InactiveLane,
        2,
    );
    assert_eq!(f.threads.len(), 16, "{f}");
    r.fault("", "shfl.sync.idx.b32 %r4, %r1, 20, 31, 0xffff;", FaultKind::InactiveLane, 0);
    r.fault(
        "",
        "setp.lt.u32 %p1, %r1, 16;\n@!%p1 bra $L;\nshfl.sync.idx.b32 %r4, %r1, 20, 31, 0xffff;\n$L:",
        FaultKind::InactiveLane,
        2,
    );
    r.go("", "setp.lt.u32 %p1, %r1, 16;\n@!%p1 bra $L;\nshfl.sync.idx.b32 %r4, %r1, 3, 31, 0xffff;\n$L:").unwrap();
    // The last warp is not full.
    r.block = 48;
    r.fault("", "vote.sync.ballot.b32 %r4, %p1, -1;", FaultKind::InactiveLane, 0);
    // Lanes that come late are waited for.
    r.block = 32;
    r.go("", "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra $A;\nadd.u32 %r5, %r1, 1;\nbra $B;\n$A:\nadd.u32 %r5, %r1, 2;\n$B:\nbar.warp.sync -1;\nredux.sync.add.u32 %r6, %r5, -1;\nst.global.u32 [%rd4], %r6;")
        .unwrap();
    let mut out = [0; 4];
    r.dev.read(r.a, &mut out).unwrap();
    assert_eq!(u32::from_le_bytes(out), (0..32).sum::<u32>() + 16 + 32);
}

#[test]
fn launches_that_are_refused() {
    let text = kernel("", "").replace(") {", ")\n.maxntid 128, 1, 1\n{");
    let m = Module::parse(&text).unwrap();
    let mut dev = Device::new(Config::default());
    let mut go = |name: &str, grid: u32, block: [u32; 3], args: Args| {
        let f = dev.launch(&m, name, [grid, 1, 1], block, 0, args).expect_err("refused");
        assert_eq!((f.kind, f.line), (FaultKind::Launch, 0));
        f.message.clone()
    };
    let args = || Args::new().u64(1).u64(2).u32(3);
    assert!(go("none", 1, [1; 3], args()).contains("no such kernel"));
    assert!(go("k", 0, [1; 3], args()).contains("zero"));
    assert!(go("k", 1, [129, 1, 1], args()).contains("allow 128"));
    assert!(go("k", 1, [1025, 1, 1], args()).contains("1024"));
    assert!(go("k", 1, [1; 3], Args::new().u64(1)).contains("8 bytes of parameters, but the kernel takes 20"));
    dev.launch(&m, "k", [1; 3], [128, 1, 1], 0, args()).unwrap();
    let old = Device::new(Config { sm: 80, ..Config::default() }).launch(&m, "k", [1; 3], [1; 3], 0, args());
    assert!(old.unwrap_err().message.contains("sm_90"));
}

#[test]
fn parameters_end_where_they_end() {
    let mut r = Run::new();
    r.block = 1;
    r.fault("", "ld.param.u64 %rd9, [a+16];", FaultKind::OutOfBounds, 0);
    r.fault("", "mov.u64 %rd8, a;\nld.param.u32 %r9, [%rd8+20];", FaultKind::OutOfBounds, 1);
}

#[test]
fn endless_loops_end() {
    let mut r = Run::with(Config { budget: 10_000, ..Config::default() });
    r.fault("", "$L:\nbra $L;", FaultKind::Budget, 1);
}

#[test]
fn traps_and_bad_tables() {
    let mut r = Run::new();
    r.fault("", "trap;", FaultKind::Trap, 0);
    r.fault("", "ts: .branchtargets $A, $A;\nmov.u32 %r9, 2;\nbrx.idx %r9, ts;\n$A:", FaultKind::Trap, 2);
}

#[test]
fn stores_to_constants() {
    let text = format!(
        "{HEAD}.const .align 4 .u32 c[2] = {{5, 6}};\n.visible .entry k() {{ .reg .b64 %rd<3>; .reg .b32 %r<3>;\n\
         mov.u64 %rd1, c;\ncvta.const.u64 %rd2, %rd1;\nld.u32 %r1, [%rd2+4];\nst.u32 [%rd2], %r1;\nret; }}"
    );
    let m = Module::parse(&text).unwrap();
    let f = Device::new(Config::default()).launch(&m, "k", [1; 3], [1; 3], 0, []).unwrap_err();
    assert_eq!((f.kind, f.line), (FaultKind::ReadOnly, 9), "{f}");
}

#[test]
fn division_by_zero_gives_all_ones() {
    let mut r = Run::new();
    r.block = 1;
    r.go("", "mov.u32 %r9, 0;\ndiv.u32 %r4, %r9, %r9;\nst.global.u32 [%rd1], %r4;").unwrap();
    let mut out = [0; 4];
    r.dev.read(r.a, &mut out).unwrap();
    assert_eq!(out, [255; 4]);
}

#[test]
fn memory_has_an_end() {
    let mut dev = Device::new(Config { memory: 1000, ..Config::default() });
    let a = dev.alloc(600).unwrap();
    assert!(dev.alloc(401).unwrap_err().message.contains("only 400 are free"));
    dev.free(a).unwrap();
    dev.alloc(1000).unwrap();
    assert!(dev.alloc(0).is_err());
    assert_eq!((dev.live(), dev.bytes()), ((1, 1000), (1000, 1000)));
}

#[test]
fn text_that_is_refused_names_its_line() {
    let bad = |body: &str| -> Error { Module::parse(&kernel("", body)).expect_err("refused") };
    for (body, word) in [
        ("frobnicate.u32 %r1, %r2;", "frobnicate"),
        ("add.purple.u32 %r1, %r2, %r3;", "purple"),
        ("add.u32 %r1, %r2;", "operands"),
        ("add.u32 %r1, %q2, %r3;", "%q2"),
        ("add.u32 %r1, $foo, %r3;", "foo"),
        ("bra $nowhere;", "nowhere"),
        ("call.uni vprintf, (%r1);", "vprintf"),
        ("mbarrier.init.shared.b64 [%rd1], 1;", "mbarrier"),
        ("wgmma.fence.sync.aligned;", "wgmma"),
        ("cp.async.bulk.commit_group;", "bulk"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", "mma"),
        ("div.f32 %f1, %f1, %f1;", "rounding"),
        ("@%r99 bra $L;", "%r99"),
    ] {
        let e = bad(body);
        assert_eq!(e.line, FIRST, "{e}");
        assert!(e.message.contains(word), "{e}");
    }
    assert!(Module::parse("").is_err());
    assert!(Module::parse("ELF\u{1}").is_err());
    let loops = format!("{HEAD}.func f() {{ call f; ret; }}\n.visible .entry k() {{ call f; ret; }}");
    assert!(Module::parse(&loops).unwrap_err().message.contains("recursion"));
}
