//! Libraries in C are the same bytes whoever makes them. That this holds for a 64-bit ARM machine, too, and that what it
//! makes runs, is shown by `tools/aarch64.sh libraries`, which needs a cross compiler and an emulator.

use std::path::{Path, PathBuf};
use torsh_runtime::aot::{Architecture, Library};
use torsh_runtime::{Config, CpuExecutor};
use torsh_tests::c_library::{ARCHITECTURES, Item};
use torsh_tests::filetest::files_with;

const GRAPHS: u64 = 40;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn items() -> Vec<Item> {
    let executor = CpuExecutor::with_config(&Config { threads: Some(1), ..Config::default() }).expect("it starts");
    let packages = files_with(&root().join("tests/golden/packages"), "torsh");
    let items: Vec<Item> = packages.iter().map(|path| Item::package(path, &executor).expect("it loads")).collect();
    assert!(items.len() >= 3);
    items.into_iter().chain((0..GRAPHS).map(|seed| Item::random(seed, &executor).expect("it runs"))).collect()
}

fn bytes(library: Library) -> (String, String, Vec<u8>) {
    (library.header, library.source, library.object)
}

#[test]
fn a_library_is_the_same_each_time() {
    let (items, others) = (items(), items());
    let mut made = 0;
    for target in ARCHITECTURES {
        for (item, other) in items.iter().zip(&others) {
            let Some(library) = item.library(target).expect(&item.name) else { continue };
            // Tables that are hashed have another order in every map and thread.
            let again = std::thread::scope(|s| s.spawn(|| other.library(target)).join()).expect("no panic");
            let again = again.expect(&item.name).expect("it was there before");
            // The machine that the object is for.
            let machine = if target == Architecture::X86 { 62 } else { 183 };
            assert_eq!(library.object[..4], *b"\x7fELF", "{}", item.name);
            assert_eq!(library.object[18..20], [machine, 0], "{}", item.name);
            assert!(bytes(library) == bytes(again), "{} for {} differs", item.name, target.name());
            made += 1;
        }
    }
    assert!(made >= items.len(), "{made} libraries of {} programs", items.len());
}

#[test]
fn what_makes_libraries_knows_nothing_of_its_machine() {
    let words = ["target_arch", "target_feature", "target_os", "feature_detected", "available_parallelism"];
    let mut found = Vec::new();
    for folder in ["ir/src", "passes/src", "codegen/src", "runtime/src/aot"] {
        for path in files_with(&root().join(folder), "rs") {
            let text = std::fs::read_to_string(&path).expect("a text");
            let lines = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
            found.extend(lines.map(|line| line.trim().to_string()));
        }
    }
    // A target that is called `native` is that of the machine.
    assert!(found.len() == 2 && found.iter().all(|line| line.starts_with("\"native\" if")), "{found:#?}");
}
