//! Packages in Rust alone: made, read, run, trained; and files with random damage.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use torsh_ir::exec::Executor;
use torsh_ir::{ErrorKind, env, text};
use torsh_runtime::package::dims::{Dim, Size};
use torsh_runtime::package::layout::Facts;
use torsh_runtime::package::manifest::{Literal, Port, PortKind, Program, Role, Slot, State, Tree};
use torsh_runtime::package::{
    Contents, CudaTargets, LoadOptions, Manifest, Package, SecretKey, Value, archive, layout, unhex, write,
    write_template,
};
use torsh_runtime::{Config, CpuExecutor};

#[path = "common/folder.rs"]
mod folder;
use folder::Folder;

#[path = "common/package_fuzz.rs"]
mod package_fuzz;
use package_fuzz::{Figures, Fuzzer, entries};

fn executor() -> &'static CpuExecutor {
    static EXECUTOR: OnceLock<CpuExecutor> = OnceLock::new();
    EXECUTOR.get_or_init(|| CpuExecutor::with_config(&Config::default()).unwrap())
}

/// A counter that adds what it is given: `total += x; return total * 2`.
const COUNTER: &str = "graph {
  %0: f32[3] = input(index=0)
  %1: f32[3] = input(index=1)
  %2: f32[3] = add(%0, %1)
  %3: f32[3] = full(value=2.0)
  %4: f32[3] = mul(%2, %3)
  return %4, %2
}
";
/// Its gradients: those of x and total are twice the cotangent.
const COUNTER_VJP: &str = "graph {
  %0: f32[3] = input(index=0)
  %1: f32[3] = full(value=2.0)
  %2: f32[3] = mul(%0, %1)
  return %2, %2
}
";

fn port(name: &str) -> Port {
    Port { name: name.into(), dtype: "float32".into(), shape: vec![3.into()], kind: PortKind::Tensor }
}

fn contents() -> Contents {
    let program = |graph: &str, inputs: &[Slot], outputs: &[Slot]| Program {
        graph: graph.into(),
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
    };
    let manifest = Manifest {
        format: "torsh-package".into(),
        version: 1,
        producer: "a test".into(),
        name: "counter".into(),
        license: Some("MIT".into()),
        dims: vec![],
        metadata: [("who".to_string(), "me".to_string())].into(),
        inputs: vec![port("x")],
        outputs: vec![port("y")],
        state: vec![State { name: "total".into(), dtype: "float32".into(), shape: vec![3], role: Role::Parameter }],
        parameters: vec!["x".into()],
        arguments: Tree::Tuple(vec![Tree::Tuple(vec![Tree::Leaf(0)]), Tree::Dict(vec![])]),
        result: Tree::Dict(vec![(Literal::Str("y".into()), Tree::Leaf(0))]),
        forward: program("graph.txt", &[Slot::Input(0), Slot::State(0)], &[Slot::Output(0), Slot::State(0)]),
        vjp: Some(program("vjp.txt", &[Slot::Output(0)], &[Slot::Input(0), Slot::State(0)])),
        code: vec![],
        cuda: vec![],
        lowered: vec![],
        entries: vec![],
    };
    let total = Value::from_slice(executor(), &[3], &[10.0f32, 20.0, 30.0]).unwrap();
    let state = executor().upload(total.ty(), total.bytes().unwrap()).unwrap();
    let parse = |t| text::parse(t).unwrap();
    let (forward, vjp) = (parse(COUNTER), Some(parse(COUNTER_VJP)));
    Contents { manifest, forward, vjp, state: vec![state], code: vec![], cuda: CudaTargets::default() }
}

fn x(values: [f32; 3]) -> Value {
    Value::from_slice(executor(), &[3], &values).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/packages/0.1.0").join(name)
}

#[test]
fn state_is_updated_and_belongs_to_an_instance() {
    let folder = Folder::new("state");
    let path = folder.file("counter.torsh");
    let size = write(&path, contents(), None).unwrap();
    assert_eq!(size, std::fs::metadata(&path).unwrap().len());
    let package = Package::load(&path).unwrap();
    assert!(package.is_mapped() && package.signer().is_none());
    let (mut a, mut b) = (package.instantiate(executor()).unwrap(), package.instantiate(executor()).unwrap());
    for n in 1..4 {
        let y = a.run(&[x([1.0, 2.0, 3.0])]).unwrap();
        let n = n as f32;
        assert_eq!(y[0].to_vec::<f32>().unwrap(), [2.0 * (10.0 + n), 2.0 * (20.0 + 2.0 * n), 2.0 * (30.0 + 3.0 * n)]);
    }
    assert_eq!(b.state("total").unwrap().to_vec::<f32>().unwrap(), [10.0, 20.0, 30.0]);
    b.set_state("total", &x([0.0; 3])).unwrap();
    assert_eq!(b.run(&[x([1.0; 3])]).unwrap()[0].to_vec::<f32>().unwrap(), [2.0; 3]);
    // What was handed out stays as it was.
    let before = a.state("total").unwrap();
    a.run(&[x([1.0; 3])]).unwrap();
    assert_eq!(before.to_vec::<f32>().unwrap(), [13.0, 26.0, 39.0]);
    // The file is as it was.
    let again = Package::load(&path).unwrap().instantiate(executor()).unwrap();
    assert_eq!(again.state("total").unwrap().to_vec::<f32>().unwrap(), [10.0, 20.0, 30.0]);
}

#[test]
#[cfg(unix)]
fn weights_that_are_read_count_against_the_cap() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("cap");
    let path = folder.file("counter.torsh");
    write(&path, contents(), None).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let own = |limit| CpuExecutor::with_config(&Config { memory_limit: Some(limit), ..Config::default() }).unwrap();
    let load = |executor: &CpuExecutor| {
        Package::load_with(&path, &LoadOptions { memory: Some(executor.memory()), ..LoadOptions::default() })
    };
    let roomy = own(1 << 20);
    let package = load(&roomy).unwrap();
    assert!(!package.is_mapped());
    // A header and twelve bytes, at least.
    assert!(roomy.memory_stats().live > 76, "{:?}", roomy.memory_stats());
    let held = package.state(0).unwrap();
    drop(package);
    assert!(roomy.memory_stats().live > 76, "a tensor holds the bytes");
    drop(held);
    assert_eq!(roomy.memory_stats().live, 0);
    let e = load(&own(64)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
    assert!(e.message().contains("weights.safetensors, which is read into memory, needs"), "{e}");
    assert!(Package::load(&path).is_ok(), "without an executor nothing is counted");
}

/// A file of these entries, of which the data is a hole; where each begins.
fn holes(facts: &[Facts<'_>]) -> (std::fs::File, Vec<u64>, u64) {
    let whole = layout::layout(facts).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let (mut at, mut starts) = (0, Vec::new());
    for (head, fact) in whole.heads.iter().zip(facts) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(head).unwrap();
        at += head.len() as u64;
        starts.push(at);
        at += fact.bytes;
    }
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&whole.tail).unwrap();
    (file, starts, at + whole.tail.len() as u64)
}

#[test]
fn files_of_any_size_have_one_form() {
    const GIB: u64 = 1 << 30;
    for sizes in [
        [0, 0, 0],
        [100, 64, 65],
        [1, 4 * GIB - 2, 1],
        [1, 4 * GIB - 1, 1],
        [4 * GIB, 5 * GIB, 3 * GIB],
        [7, 1 << 40, 9],
        // The last entry begins before 4 GiB, the directory after it.
        [1, 1, 4 * GIB - 100],
    ] {
        let names = ["manifest.json", "graph.txt", "weights.safetensors"];
        let facts: Vec<Facts<'_>> =
            names.iter().zip(sizes).map(|(name, bytes)| Facts { name, bytes, crc: bytes as u32 ^ 7 }).collect();
        let (mut file, starts, size) = holes(&facts);
        let items = archive::list(&file, size).unwrap();
        for ((item, fact), start) in items.iter().zip(&facts).zip(starts) {
            assert_eq!(item.name, fact.name);
            assert_eq!((item.data.start, item.data.end - start, item.crc), (start, fact.bytes, fact.crc));
            assert!(start.is_multiple_of(64));
        }
        // Each byte of the tail, and of the heads, has one value.
        let whole = layout::layout(&facts).unwrap();
        let mut places: Vec<u64> = (size - whole.tail.len() as u64..size).collect();
        for (item, head) in items.iter().zip(&whole.heads) {
            places.extend(item.data.start - head.len() as u64..item.data.start);
        }
        for at in places {
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ 0x10]).unwrap();
            let e = archive::list(&file, size).expect_err("a changed byte");
            assert_eq!(e.kind(), ErrorKind::Package);
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&byte).unwrap();
        }
        assert!(archive::list(&file, size).is_ok());
    }
}

#[test]
fn gradients() {
    let folder = Folder::new("vjp");
    let path = folder.file("counter.torsh");
    write(&path, contents(), None).unwrap();
    let mut model = Package::load(&path).unwrap().instantiate(executor()).unwrap();
    assert_eq!(model.cotangents(), [0]);
    let found = model.vjp(&[x([0.0; 3])], &[x([1.0, 2.0, 3.0])]).unwrap();
    let names: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["x", "total"]);
    found.iter().for_each(|(_, v)| assert_eq!(v.to_vec::<f32>().unwrap(), [2.0, 4.0, 6.0]));
    assert!(model.vjp(&[x([0.0; 3])], &[]).is_err());
    let mut plain = contents();
    plain.manifest.vjp = None;
    plain.vjp = None;
    write(&path, plain, None).unwrap();
    let mut model = Package::load(&path).unwrap().instantiate(executor()).unwrap();
    assert_eq!(model.vjp(&[x([0.0; 3])], &[]).unwrap_err().kind(), ErrorKind::Runtime);
}

/// A counter of rows: `total += sum(x, 0); return (x * 2, x + total)`, over `n` rows.
const ROWS: &str = "graph {
  %0: f32[<n>, 3] = input(index=0)
  %1: f32[3] = input(index=1)
  %2: f32[1, 3] = sum(%0, dims=[0])
  %3: f32[3] = reshape(%2)
  %4: f32[3] = add(%1, %3)
  %5: f32[<n>, 3] = full(value=<n>.0)
  %6: f32[<n>, 3] = mul(%0, %5)
  return %6, %4
}
";
/// Its gradient with respect to x.
const ROWS_VJP: &str = "graph {
  %0: f32[<n>, 3] = input(index=0)
  %1: f32[<n>, 3] = full(value=<n>.0)
  %2: f32[<n>, 3] = mul(%0, %1)
  return %2
}
";

fn rows(path: &Path) -> u64 {
    let Contents { mut manifest, state, .. } = contents();
    let sizes = || vec![Size::Expr("n".into()), 3.into()];
    manifest.version = 2;
    manifest.dims = vec![Dim { name: "n".into(), min: 1, max: 100 }];
    manifest.inputs[0].shape = sizes();
    manifest.outputs[0].shape = sizes();
    manifest.vjp.as_mut().unwrap().outputs = vec![Slot::Input(0)];
    write_template(
        path,
        manifest,
        (ROWS.into(), Some(ROWS_VJP.into())),
        state,
        (vec![], CudaTargets::default(), vec![]),
        None,
    )
    .unwrap()
}

fn table(n: usize, value: f32) -> Value {
    Value::from_slice(executor(), &[n, 3], &vec![value; 3 * n]).unwrap()
}

#[test]
fn sizes_that_vary() {
    let folder = Folder::new("dims");
    let path = folder.file("rows.torsh");
    assert_eq!(rows(&path), std::fs::metadata(&path).unwrap().len());
    let package = Package::load(&path).unwrap();
    assert_eq!(package.templates().unwrap().forward(), ROWS);
    assert_eq!(package.types().inputs[0].shape.dims(), [1, 3]);
    let mut model = package.instantiate(executor()).unwrap();
    let mut total = 10.0;
    // More sizes than an instance keeps, twice; the state goes on from one to the next.
    for n in (1..40).chain(1..40) {
        let y = model.run(&[table(n, 0.5)]).unwrap();
        total += 0.5 * n as f32;
        assert_eq!(y[0].shape(), [n, 3]);
        assert_eq!(y[0].to_vec::<f32>().unwrap(), vec![0.5 * n as f32; 3 * n]);
        assert_eq!(model.state("total").unwrap().to_vec::<f32>().unwrap()[0], total);
        assert_eq!(model.types().outputs[0].shape.dims(), [n, 3]);
    }
    let found = model.vjp(&[table(4, 0.0)], &[table(4, 1.5)]).unwrap();
    assert_eq!(found[0].1.to_vec::<f32>().unwrap(), [6.0; 12]);
    assert_eq!(model.vjp(&[table(4, 0.0)], &[table(5, 1.5)]).unwrap_err().kind(), ErrorKind::Shape);
    for (n, why) in [(0, "n must be from 1 to 100"), (101, "n must be from 1 to 100")] {
        let e = model.run(&[table(n, 0.0)]).unwrap_err();
        assert!(e.kind() == ErrorKind::Shape && e.message().contains(why), "{e}");
    }
    let flat = Value::from_slice(executor(), &[3], &[0.0f32; 3]).unwrap();
    assert!(model.run(&[flat]).unwrap_err().message().contains("must have shape [n, 3], got [3]"));
    assert!(package.templates().unwrap().at(&[]).is_err() && package.templates().unwrap().at(&[101]).is_err());
    assert_eq!(model.state("total").unwrap().to_vec::<f32>().unwrap()[0], total);
}

#[test]
fn wrong_inputs_are_named_and_change_nothing() {
    let folder = Folder::new("inputs");
    let path = folder.file("counter.torsh");
    write(&path, contents(), None).unwrap();
    let mut model = Package::load(&path).unwrap().instantiate(executor()).unwrap();
    let short = Value::from_slice(executor(), &[2], &[1.0f32, 2.0]).unwrap();
    let e = model.run(&[short]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Shape);
    assert!(e.message().contains("input \"x\" must have shape [3], got [2]"), "{e}");
    let wide = Value::from_slice(executor(), &[3], &[1.0f64; 3]).unwrap();
    assert_eq!(model.run(&[wide]).unwrap_err().kind(), ErrorKind::DType);
    assert_eq!(model.run(&[]).unwrap_err().kind(), ErrorKind::Value);
    assert!(model.state("nothing").is_err() && model.set_state("total", &x([0.0; 3])).is_ok());
    assert!(Value::from_slice(executor(), &[4], &[0.0f32; 3]).is_err());
    assert!(Value::from_slice(executor(), &[usize::MAX, 2], &[0.0f32; 3]).is_err());
    assert!(model.state("total").unwrap().to_vec::<f64>().is_err());
}

#[test]
fn writing_is_deterministic_and_signed_by_keys() {
    let folder = Folder::new("sign");
    let (a, b) = (folder.file("a"), folder.file("b"));
    let key = SecretKey::from_seed(&[7; 32]);
    write(&a, contents(), Some(&key)).unwrap();
    write(&b, contents(), Some(&key)).unwrap();
    let bytes = std::fs::read(&a).unwrap();
    assert_eq!(bytes, std::fs::read(&b).unwrap());
    let load = |keys: &[[u8; 32]]| {
        Package::load_with(&a, &LoadOptions { trusted_keys: Some(keys.to_vec()), ..LoadOptions::default() })
    };
    assert_eq!(load(&[[1; 32], key.public()]).unwrap().signer(), Some(&key.public()));
    assert!(load(&[]).is_err() && load(&[[1; 32]]).is_err());
    // Any change of the signed text, with a checksum that fits, is found by the signature.
    let manifest = &entries(&bytes)[0].1;
    let forged_text = String::from_utf8_lossy(manifest).replace("a test", "b test").into_bytes();
    let forged = replaced(&bytes, manifest, &forged_text);
    let (old, new) = (crc32fast::hash(manifest).to_le_bytes(), crc32fast::hash(&forged_text).to_le_bytes());
    let forged = replaced(&forged, &old, &new);
    std::fs::write(&b, &forged).unwrap();
    let e = Package::load(&b).unwrap_err();
    assert!(e.message().contains("signature.json: the signature does not verify"), "{e}");
    assert_eq!(unhex::<2>("0aff"), Some([0x0a, 0xff]));
    assert_eq!(unhex::<2>("0aFg"), None);
}

#[test]
fn what_no_reader_takes_is_not_written() {
    let folder = Folder::new("refused");
    let path = folder.file("never.torsh");
    let cases: [fn(&mut Contents); 6] = [
        |c| c.manifest.inputs[0].shape = vec![4.into()],
        |c| c.manifest.state[0].name = String::new(),
        |c| c.manifest.forward.outputs.truncate(0),
        |c| c.manifest.version = 9,
        |c| c.state.clear(),
        |c| c.manifest.result = Tree::List(vec![Tree::Leaf(1)]),
    ];
    for (i, case) in cases.into_iter().enumerate() {
        let mut c = contents();
        case(&mut c);
        let e = write(&path, c, None).expect_err(&format!("case {i}"));
        assert_eq!(e.kind(), ErrorKind::Export, "case {i}: {e}");
        assert!(std::fs::read_dir(folder.file("")).unwrap().next().is_none(), "case {i} left a file");
    }
}

#[test]
fn packages_of_python_run_and_train_here() {
    let mut linear = Package::load(golden("linear.torsh")).unwrap().instantiate(executor()).unwrap();
    let x = Value::from_slice(executor(), &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    assert_eq!(linear.run(&[x]).unwrap()[0].to_vec::<f32>().unwrap(), [14.0, -1.0, 32.0, 2.0]);
    let mut step = Package::load(golden("step.torsh")).unwrap().instantiate(executor()).unwrap();
    let xs: Vec<f32> = (0..20).map(|i| i as f32 * 0.1).collect();
    let x = Value::from_slice(executor(), &[5, 4], &xs).unwrap();
    let y = Value::from_slice(executor(), &[5], &[0i64, 1, 2, 1, 0]).unwrap();
    let loss =
        |m: &mut torsh_runtime::package::Model| m.run(&[x.clone(), y.clone()]).unwrap()[0].to_vec::<f32>().unwrap()[0];
    let first = loss(&mut step);
    for _ in 0..100 {
        loss(&mut step);
    }
    assert!(loss(&mut step) < first * 0.8, "the loaded step learns");
    let expected = std::fs::read_to_string(golden("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    assert!((f64::from(first) - expected["step"][0].as_f64().unwrap()).abs() < 1e-5);
    // Out of range: an error, and the state is as it was.
    let before = step.state("model.0.weight").unwrap().to_vec::<f32>().unwrap();
    let bad = Value::from_slice(executor(), &[5], &[0i64, 1, 2, 1, 99]).unwrap();
    assert_eq!(step.run(&[x.clone(), bad]).unwrap_err().kind(), ErrorKind::Index);
    assert_eq!(step.state("model.0.weight").unwrap().to_vec::<f32>().unwrap(), before);
    loss(&mut step);
}

/// Bytes with each `old` replaced by a `new` of the same length.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for i in 0..=bytes.len() - old.len() {
        if bytes[i..].starts_with(old) {
            out[i..i + new.len()].copy_from_slice(new);
        }
    }
    out
}

/// The package with kernels for a CUDA device that nobody made.
fn add_kernels(path: &Path) {
    let mut parts = entries(&std::fs::read(path).unwrap());
    let mut image = b"\x7fELF\x02\x01".to_vec();
    image.resize(200, 0);
    image[18] = 190;
    let mut entry = b"torshCU\n\x01\0\0\0\x01\0\0\0".to_vec();
    entry.extend((image.len() as u64).to_le_bytes());
    entry.resize(64, 0);
    entry.extend(image);
    let name = "cuda-sm_90.bin";
    let mut manifest: serde_json::Value = serde_json::from_slice(&parts[0].1).unwrap();
    manifest["version"] = 3.into();
    manifest["cuda"] = serde_json::json!([{
        "entry": name, "target": "sm_90", "generator": "a test", "nvrtc": "12.9",
        "kernels": [{"key": "ab".repeat(32), "image": 0, "symbol": "k0_exp"}],
    }]);
    let listed = serde_json::json!({"name": name, "bytes": 0, "sha256": ""});
    manifest["entries"].as_array_mut().unwrap().push(listed);
    parts[0].1 = serde_json::to_vec(&manifest).unwrap();
    parts.insert(parts.len() - 1, (name.to_string(), entry));
    std::fs::write(path, package_fuzz::pack(parts, true)).unwrap();
    assert_eq!(Package::load(path).unwrap().code().last().unwrap().level, "sm_90");
}

/// Valid packages with damage in their bytes, in the fields of their entries and in entries under hashes that fit. Each is
/// refused with a `Package` error, or passes and then compiles and runs or says why not. Nothing panics.
/// `make fuzz-packages` goes on for as long as it is told to.
#[test]
fn damaged_packages_are_refused_or_run() {
    let folder = Folder::new("fuzz");
    let path = folder.file("case.torsh");
    write(&path, contents(), Some(&SecretKey::from_seed(&[1; 32]))).unwrap();
    let sized = folder.file("rows.torsh");
    rows(&sized);
    // Nobody vouches for its machine code, which therefore never runs.
    let coded = folder.file("coded.torsh");
    let levels = if cfg!(target_arch = "x86_64") { vec!["portable".to_string(), "avx2".to_string()] } else { vec![] };
    write(&coded, Contents { code: levels, ..contents() }, None).unwrap();
    // Who has its hash believes its programs, whatever they are.
    let lowered = folder.file("lowered.torsh");
    if cfg!(target_arch = "x86_64") {
        std::fs::write(&lowered, package_fuzz::without_code(&std::fs::read(&coded).unwrap())).unwrap();
    } else {
        std::fs::copy(&coded, &lowered).unwrap();
    }
    add_kernels(&coded);
    let seeds =
        [path.clone(), sized, coded, lowered, golden("linear.torsh"), golden("step.torsh"), golden("gradients.torsh")];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|p| std::fs::read(p).unwrap()).collect();
    let mut fuzzer = Fuzzer::new(seeds, env::fuzz_seed(), executor(), path);
    let cases = env::fuzz_cases().unwrap_or(3000);
    for _ in 0..cases {
        fuzzer.make();
        let package = fuzzer.load();
        fuzzer.run(package);
    }
    let Figures { refused, loaded, ran, .. } = fuzzer.figures;
    println!("{refused} refused, {loaded} loaded, {ran} ran");
    // The cases reach behind every door: what is not refused is compiled and run.
    assert!(refused > cases / 4 && loaded > cases / 50 && ran > cases / 100, "{refused} {loaded} {ran}");
}
