//! Machine code in packages: used where it is believed and fits, else the graph is compiled; always the same bits.
#![cfg(target_arch = "x86_64")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use torsh_ir::exec::Executor;
use torsh_ir::limits::{self, Limits};
use torsh_ir::{ErrorKind, text};
use torsh_runtime::package::manifest::{Port, PortKind, Program, Role, Slot, State, Tree};
use torsh_runtime::package::{Contents, CudaTargets, LoadOptions, Manifest, Package, SecretKey, Value, write};
use torsh_runtime::{Config, CpuExecutor};

#[path = "common/folder.rs"]
mod folder;
use folder::Folder;

#[path = "common/package_fuzz.rs"]
#[allow(dead_code, reason = "shared between test files")]
mod package_fuzz;
use package_fuzz::{entries, pack};

/// Vector functions, folds, primitives for 64-bit integers, a line, and state that is updated in place.
const GRAPH: &str = "graph {
  %0: f32[64, 300] = input(index=0)
  %1: f32[64, 300] = input(index=1)
  %2: f32[64, 300] = exp(%0)
  %3: f32[64, 1] = sum(%2, dims=[1])
  %4: f32[64, 300] = expand(%3)
  %5: f32[64, 300] = div(%2, %4)
  %6: i64[64, 300] = cast(%0)
  %7: i64[64, 300] = mul(%6, %6)
  %8: i64[64, 1] = sum(%7, dims=[1])
  %9: f32[64, 300] = add(%1, %5)
  %10: f32[64, 300] = tanh(%9)
  %11: f32[300, 64] = permute(%10, dims=[1, 0])
  %12: f32[300, 1] = sum(%11, dims=[1])
  return %5, %8, %12, %9
}
";
const ALL: [&str; 3] = ["portable", "avx2", "avx512"];

/// One test at a time: what is believed is known to every program of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn executor(level: Option<&'static str>) -> CpuExecutor {
    CpuExecutor::with_config(&Config { isa: level, threads: Some(2), ..Config::default() }).unwrap()
}

fn input(executor: &CpuExecutor, scale: f32) -> Value {
    let values: Vec<f32> = (0..64 * 300).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect();
    Value::from_slice(executor, &[64, 300], &values).unwrap()
}

fn contents(levels: &[&str]) -> Contents {
    let executor = executor(None);
    let port = |name: &str, dtype: &str, shape: [u64; 2]| Port {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.into_iter().map(Into::into).collect(),
        kind: PortKind::Tensor,
    };
    let manifest = Manifest {
        format: "torsh-package".into(),
        version: 1,
        producer: "a test".into(),
        name: "coded".into(),
        license: None,
        dims: vec![],
        metadata: [].into(),
        inputs: vec![port("x", "float32", [64, 300])],
        outputs: vec![port("p", "float32", [64, 300]), port("n", "int64", [64, 1]), port("s", "float32", [300, 1])],
        state: vec![State { name: "total".into(), dtype: "float32".into(), shape: vec![64, 300], role: Role::Buffer }],
        parameters: vec!["x".into()],
        arguments: Tree::Tuple(vec![Tree::Tuple(vec![Tree::Leaf(0)]), Tree::Dict(vec![])]),
        result: Tree::Tuple(vec![Tree::Leaf(0), Tree::Leaf(1), Tree::Leaf(2)]),
        forward: Program {
            graph: "graph.txt".into(),
            inputs: vec![Slot::Input(0), Slot::State(0)],
            outputs: vec![Slot::Output(0), Slot::Output(1), Slot::Output(2), Slot::State(0)],
        },
        vjp: None,
        code: vec![],
        cuda: vec![],
        lowered: vec![],
        entries: vec![],
    };
    let state = input(&executor, 0.01);
    let state = executor.upload(state.ty(), state.bytes().unwrap()).unwrap();
    let code = levels.iter().map(|l| l.to_string()).collect();
    let forward = text::parse(GRAPH).unwrap();
    Contents { manifest, forward, vjp: None, state: vec![state], code, cuda: CudaTargets::default() }
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn trusting(path: &Path) -> torsh_ir::Result<Package> {
    Package::load_with(path, &LoadOptions { trusted_keys: Some(vec![key().public()]), ..LoadOptions::default() })
}

/// The bits of two calls, and how many kernel steps run on code of the package, of how many.
fn run(package: &Package, level: Option<&'static str>) -> (Vec<Vec<u8>>, usize, usize) {
    let executor = executor(level);
    let mut model = package.instantiate(&executor).unwrap();
    let details = model.executable().details();
    let kernels = details.iter().filter(|d| d.schedule != "library").count();
    let found = details.iter().filter(|d| d.reason == "machine code of the package").count();
    let mut bits = Vec::new();
    for scale in [0.02, 0.03] {
        let made = model.run(&[input(&executor, scale)]).unwrap();
        bits.extend(made.iter().map(|value| value.bytes().unwrap().to_vec()));
    }
    bits.push(model.state("total").unwrap().bytes().unwrap().to_vec());
    (bits, found, kernels)
}

fn reasons(package: &Package) -> Vec<String> {
    package.code().iter().map(|c| c.unused.clone().unwrap_or_default()).collect()
}

fn supported(level: &str) -> bool {
    torsh_runtime::sys::prims::supported(level)
}

/// The file with one entry changed, under hashes that fit, without a signature, and its own hash.
fn changed(path: &Path, entry: &str, change: impl FnOnce(&mut Vec<u8>)) -> [u8; 32] {
    let mut parts = entries(&std::fs::read(path).unwrap());
    parts.retain(|(name, _)| name != "signature.json");
    change(&mut parts.iter_mut().find(|(name, _)| name == entry).unwrap().1);
    let bytes = pack(parts, true);
    std::fs::write(path, &bytes).unwrap();
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn pinned(path: &Path, sha256: [u8; 32]) -> torsh_ir::Result<Package> {
    Package::load_with(path, &LoadOptions { sha256: Some(sha256), ..LoadOptions::default() })
}

#[test]
fn code_of_a_trusted_file_is_used_at_every_level_with_the_same_bits() {
    let _alone = alone();
    let folder = Folder::new("levels");
    let path = folder.file("coded.torsh");
    write(&path, contents(&ALL), Some(&key())).unwrap();
    let plain = Package::load(&path).unwrap();
    assert!(reasons(&plain).iter().all(|why| why.contains("nobody vouches")), "{:?}", plain.code());
    for level in ALL.into_iter().filter(|l| supported(l)) {
        let (compiled, none, kernels) = run(&plain, Some(level));
        assert!(none == 0 && kernels >= 2, "{none} of {kernels}");
        let package = trusting(&path).unwrap();
        let about = package.code().iter().find(|c| c.level == level).unwrap();
        assert!(about.unused.is_none() && about.kernels >= 2, "{about:?}");
        let (bits, found, kernels) = run(&package, Some(level));
        assert_eq!(found, kernels, "at {level}");
        assert_eq!(bits, compiled, "at {level}");
        drop(package);
        // What was believed is forgotten with its package.
        assert_eq!(run(&plain, Some(level)).1, 0);
    }
}

#[test]
fn a_program_outlives_the_package_whose_code_it_runs() {
    let _alone = alone();
    let folder = Folder::new("outlives");
    let path = folder.file("coded.torsh");
    write(&path, contents(&ALL), Some(&key())).unwrap();
    let executor = executor(Some("portable"));
    let mut model = trusting(&path).unwrap().instantiate(&executor).unwrap();
    assert!(model.executable().details().iter().any(|d| d.reason == "machine code of the package"));
    let made = model.run(&[input(&executor, 0.02)]).unwrap();
    let plain = Package::load(&path).unwrap();
    assert_eq!(made[0].bytes().unwrap(), run(&plain, Some("portable")).0[0]);
}

#[test]
fn a_file_is_believed_by_its_hash() {
    let _alone = alone();
    let folder = Folder::new("hash");
    let path = folder.file("coded.torsh");
    write(&path, contents(&["portable"]), None).unwrap();
    let own = hash(&std::fs::read(&path).unwrap());
    let package = pinned(&path, own).unwrap();
    let (_, found, kernels) = run(&package, Some("portable"));
    assert!(found == kernels && kernels > 0);
    // Another level finds nothing.
    if supported("avx2") {
        assert_eq!(run(&package, Some("avx2")).1, 0);
    }
    let e = pinned(&path, [0; 32]).unwrap_err();
    assert!(e.kind() == ErrorKind::Package && e.message().contains("which is not the one that is demanded"), "{e}");
    let e = trusting(&path).unwrap_err();
    assert!(e.message().contains("not signed"), "{e}");
}

#[test]
fn code_that_does_not_fit_is_not_used() {
    let _alone = alone();
    let folder = Folder::new("fit");
    let path = folder.file("coded.torsh");
    let fresh = || write(&path, contents(&["portable"]), None).unwrap();
    fresh();
    let wanted = run(&Package::load(&path).unwrap(), Some("portable")).0;
    let unused = |own: [u8; 32], why: &str| {
        let package = pinned(&path, own).unwrap();
        assert!(reasons(&package)[0].contains(why), "{:?}", package.code());
        let (bits, found, _) = run(&package, Some("portable"));
        assert_eq!((bits, found), (wanted.clone(), 0), "{why}");
    };
    // Another generator, and another form.
    unused(changed(&path, "code-x86_64-portable.bin", |b| b[12] ^= 1), "another version of torsh");
    fresh();
    unused(changed(&path, "code-x86_64-portable.bin", |b| b[8] = 2), "another version of torsh");
    fresh();
    unused(changed(&path, "code-x86_64-portable.bin", |b| b.clear()), "another version of torsh");
    // A processor that has what this one lacks.
    fresh();
    let add = |b: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(b)).unwrap();
        *b = text.replace("\"features\":[", "\"features\":[\"amx\",").into_bytes();
    };
    unused(changed(&path, "manifest.json", add), "lacks amx");
    // Code of other kernels, by their keys: read, but never met.
    fresh();
    let own = changed(&path, "code-x86_64-portable.bin", |b| {
        let kernels = u32::from_le_bytes(b[44..48].try_into().unwrap()) as usize;
        let names = u32::from_le_bytes(b[48..52].try_into().unwrap()) as usize;
        let mut at = 52;
        (0..names).for_each(|_| at += 1 + usize::from(b[at]));
        (0..kernels).for_each(|i| b[at + 64 * i + 31] ^= 1);
    });
    let package = pinned(&path, own).unwrap();
    assert_eq!(reasons(&package), [""]);
    let (bits, found, _) = run(&package, Some("portable"));
    assert_eq!((bits, found), (wanted, 0));
}

#[test]
fn changed_code_that_nobody_vouches_for_never_runs() {
    let _alone = alone();
    let folder = Folder::new("untrusted");
    let path = folder.file("coded.torsh");
    write(&path, contents(&["portable"]), None).unwrap();
    let wanted = run(&Package::load(&path).unwrap(), Some("portable")).0;
    // Every instruction is a trap.
    changed(&path, "code-x86_64-portable.bin", |b| {
        let from = b.len() / 2;
        b[from..].fill(0xcc);
    });
    assert_eq!(run(&Package::load(&path).unwrap(), Some("portable")).0, wanted);
    // Without hashes that fit, it is refused.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|w| w == b"torshMC\n").unwrap();
    bytes[at + 200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Package::load(&path).unwrap_err().kind(), ErrorKind::Package);
    // And with a signature under a changed file, so it is.
    write(&path, contents(&["portable"]), Some(&key())).unwrap();
    let mut parts = entries(&std::fs::read(&path).unwrap());
    parts.iter_mut().find(|(n, _)| n.starts_with("code-")).unwrap().1[300] ^= 1;
    std::fs::write(&path, pack(parts, true)).unwrap();
    let e = trusting(&path).unwrap_err();
    assert!(e.message().contains("signature"), "{e}");
}

/// Believed, an entry may still be malformed: each byte of it changed, and each length cut short or grown. It is
/// refused, or passes what can be checked; the code itself is not run.
#[test]
fn malformed_code_is_refused_or_read() {
    let _alone = alone();
    let folder = Folder::new("malformed");
    let path = folder.file("coded.torsh");
    write(&path, contents(&["portable"]), None).unwrap();
    let good = std::fs::read(&path).unwrap();
    let parts = entries(&good);
    let entry = parts.iter().find(|(n, _)| n.starts_with("code-")).unwrap().1.clone();
    let (mut refused, mut read) = (0, 0);
    let mut attempt = |data: Vec<u8>| {
        std::fs::write(&path, &good).unwrap();
        let own = changed(&path, "code-x86_64-portable.bin", |b| *b = data);
        match pinned(&path, own) {
            Ok(_) => read += 1,
            Err(e) => {
                assert!(e.kind() == ErrorKind::Package && e.message().contains("code-x86_64-portable.bin"), "{e}");
                refused += 1;
            }
        }
    };
    for at in (0..entry.len().min(1500)).step_by(7) {
        for bit in [0, 7] {
            let mut data = entry.clone();
            data[at] ^= 1 << bit;
            attempt(data);
        }
    }
    for len in (44..entry.len()).step_by(61) {
        attempt(entry[..len].to_vec());
    }
    attempt([&entry[..], &[0]].concat());
    for huge in [44, 48] {
        let mut data = entry.clone();
        data[huge..huge + 4].fill(0xff);
        attempt(data);
    }
    assert!(refused > 100 && read > 10, "{refused} {read}");
}

#[test]
fn writing_code_is_deterministic_and_only_where_it_can_be() {
    let _alone = alone();
    let folder = Folder::new("write");
    let (a, b, plain) = (folder.file("a"), folder.file("b"), folder.file("plain"));
    write(&a, contents(&ALL), None).unwrap();
    write(&b, contents(&["avx512", "avx2", "portable", "avx2"]), None).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    write(&plain, contents(&[]), None).unwrap();
    let [with, without] = [&a, &plain].map(|p| Package::load(p).unwrap());
    assert_eq!((with.manifest().version, without.manifest().version), (3, 1));
    assert!(without.code().is_empty() && with.bytes() < without.bytes() + (200 << 10), "{}", with.bytes());
    let features = |level: usize| with.manifest().code[level].features.join(" ");
    assert!(!features(0).contains("avx") && features(1).contains("avx2") && features(2).contains("avx512f"));
    for level in ["neon", "sse9", ""] {
        let e = write(&folder.file("never"), contents(&[level]), None).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Export, "{e}");
    }
}

#[test]
fn a_manifest_that_lies_about_code_is_refused() {
    let _alone = alone();
    let folder = Folder::new("lies");
    let path = folder.file("coded.torsh");
    let edits: [(&str, &str); 9] = [
        ("\"arch\":\"x86_64\"", "\"arch\":\"vax\""),
        ("\"level\":\"avx2\"", "\"level\":\"avx1024\""),
        ("\"level\":\"avx2\"", "\"level\":\"portable\""),
        ("\"version\":3", "\"version\":1"),
        ("\"version\":3", "\"version\":4"),
        ("\"entry\":\"code-x86_64-avx2.bin\"", "\"entry\":\"graph.txt\""),
        ("\"avx\",\"avx2\"", "\"avx2\",\"avx\""),
        ("\"avx\",\"avx2\"", "\"AVX\",\"avx2\""),
        ("\"avx\",\"avx2\"", "\"avx\",\"avx\""),
    ];
    for (old, new) in edits {
        write(&path, contents(&["portable", "avx2"]), None).unwrap();
        let own = changed(&path, "manifest.json", |b| {
            let text = String::from_utf8(std::mem::take(b)).unwrap();
            assert!(text.contains(old), "{old} is not in {text}");
            *b = text.replacen(old, new, 1).into_bytes();
        });
        let e = pinned(&path, own).expect_err(new);
        assert!(e.kind() == ErrorKind::Package && e.message().contains("manifest.json"), "{new}: {e}");
    }
}

/// A model made of this package, and whether it runs the program of the file.
fn runs_lowered(package: &Package) -> bool {
    let executor = executor(Some("portable"));
    let model = package.instantiate(&executor).unwrap();
    package.program(false, &[]).is_some_and(|p| std::ptr::eq(&**p, model.executable().program()))
}

#[test]
fn a_lowered_program_takes_the_place_of_the_passes_where_it_is_believed() {
    let _alone = alone();
    let folder = Folder::new("lowered");
    let path = folder.file("coded.torsh");
    write(&path, contents(&["portable"]), Some(&key())).unwrap();
    let plain = Package::load(&path).unwrap();
    assert!(plain.lowered()[0].unused.as_ref().unwrap().contains("nobody vouches") && !runs_lowered(&plain));
    let wanted = run(&plain, Some("portable")).0;
    let package = trusting(&path).unwrap();
    assert!(package.lowered()[0].unused.is_none() && package.lowered()[0].steps >= 2, "{:?}", package.lowered());
    assert!(runs_lowered(&package));
    assert_eq!(run(&package, Some("portable")).0, wanted);
    // Another version of torsh, or other settings.
    let own = changed(&path, "program.bin", |b| b[12] ^= 1);
    let package = pinned(&path, own).unwrap();
    assert!(package.lowered()[0].unused.as_ref().unwrap().contains("another version of torsh"));
    assert!(!runs_lowered(&package));
    assert_eq!(run(&package, Some("portable")).0, wanted);
    // Without its machine code, which is another matter.
    write(&path, contents(&["portable"]), None).unwrap();
    let bytes = package_fuzz::without_code(&std::fs::read(&path).unwrap());
    std::fs::write(&path, &bytes).unwrap();
    let package = pinned(&path, hash(&bytes)).unwrap();
    assert!(package.code().is_empty() && runs_lowered(&package));
    assert_eq!(run(&package, Some("portable")).0, wanted);
}

#[test]
fn a_lowered_program_serves_under_the_settings_of_its_passes_alone() {
    let _alone = alone();
    let folder = Folder::new("settings");
    let path = folder.file("coded.torsh");
    write(&path, contents(&["portable"]), Some(&key())).unwrap();
    let package = trusting(&path).unwrap();
    let steps = |package: &Package| {
        let executor = executor(Some("portable"));
        package.instantiate(&executor).unwrap().executable().program().steps.len()
    };
    let wanted = run(&package, Some("portable")).0;
    assert!(runs_lowered(&package) && steps(&package) == package.lowered()[0].steps);
    let before = limits::get();
    // After the file was read.
    limits::set(Limits { max_kernel_insts: 4, ..before });
    let now = (runs_lowered(&package), steps(&package), run(&package, Some("portable")).0);
    limits::set(before);
    assert!(!now.0 && now.1 > package.lowered()[0].steps && now.2 == wanted, "{} steps", now.1);
    assert!(runs_lowered(&package));
}

#[test]
fn weights_that_are_pinned_are_those_that_were_hashed() {
    let _alone = alone();
    let folder = Folder::new("pinned");
    let path = folder.file("coded.torsh");
    write(&path, contents(&[]), None).unwrap();
    let own = hash(&std::fs::read(&path).unwrap());
    let package = pinned(&path, own).unwrap();
    assert!(package.is_mapped());
    assert_eq!(package.state(0).unwrap().host_bytes(), Package::load(&path).unwrap().state(0).unwrap().host_bytes());
    // Every byte counts, in the weights and around them.
    let bytes = std::fs::read(&path).unwrap();
    let weights = bytes.len() - 64 * 300 * 4;
    for at in [100, weights - 300, weights, weights + 5000, bytes.len() - 400, bytes.len() - 1] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        std::fs::write(&path, other).unwrap();
        let e = pinned(&path, own).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Package, "{at}: {e}");
    }
}
