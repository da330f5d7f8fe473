//! The op matrix, its gradients, random graphs and the corpus of found bugs through the CUDA code generator on the
//! simulated device: a part of the matrix, another kind of fusion in turn; all gradients with `--run-ignored all`. `TORSH_FUZZ_CASES` and `TORSH_FUZZ_SEED` choose random graphs.

use std::path::Path;
use torsh_codegen::cuda::Options;
use torsh_ir::op::Op;
use torsh_ir::{env, ops};
use torsh_tests::cuda::check::Checker;
use torsh_tests::filetest::files;
use torsh_tests::fuzz::check::gradients as gradients_of;
use torsh_tests::fuzz::{corpus, make::make};
use torsh_tests::matrix::{case, layouts};

/// One case of so many is checked.
const EACH: usize = 13;
/// One gradient of so many is checked.
const EACH_GRADIENT: usize = 23;
/// Random graphs without `TORSH_FUZZ_CASES`.
const RANDOM: u64 = 40;

/// A small device, so that small cases are cut into parts.
fn options() -> Options {
    Options { processors: 4, ..Options::default() }
}

/// Runs part `shard` of `shards` of the matrix.
fn run(shard: usize, shards: usize) -> usize {
    let mut checker = Checker::new(options());
    let mut n = 0;
    for (at, def) in ops::OPS.iter().enumerate() {
        for dtype in def.dtypes.iter() {
            for (i, sample) in (def.samples)().iter().enumerate() {
                for layout in layouts(def, i) {
                    n += 1;
                    if at % shards != shard || n % EACH != 0 {
                        continue;
                    }
                    let what = format!("{} of {dtype}, sample {i}, {layout:?}", def.name);
                    match case(Op(def), sample, dtype, *layout) {
                        Ok(case) => checker.add(&what, case, !(n / EACH).is_multiple_of(3)),
                        Err(e) => panic!("{what}: {e}"),
                    }
                }
            }
        }
    }
    checker.finish()
}

#[test]
fn matrix_0() {
    assert!(run(0, 4) > 100);
}
#[test]
fn matrix_1() {
    assert!(run(1, 4) > 100);
}
#[test]
fn matrix_2() {
    assert!(run(2, 4) > 100);
}
#[test]
fn matrix_3() {
    assert!(run(3, 4) > 100);
}

/// Checks the gradients of one case of `share`, beginning with number `first`.
fn gradients(first: usize, share: usize) -> usize {
    let mut checker = Checker::new(options());
    let mut n = 0;
    for def in ops::OPS {
        for dtype in def.dtypes.iter().filter(|d| d.is_float()) {
            for (i, sample) in (def.samples)().iter().enumerate() {
                for layout in layouts(def, i) {
                    n += 1;
                    if n % share != first {
                        continue;
                    }
                    let what = format!("gradients of {} of {dtype}, sample {i}, {layout:?}", def.name);
                    let forward = case(Op(def), sample, dtype, *layout).unwrap_or_else(|e| panic!("{what}: {e}"));
                    if let Some(case) = gradients_of(&forward) {
                        let case = case.unwrap_or_else(|e| panic!("{what}: {e}"));
                        checker.add(&what, case, !(n / share).is_multiple_of(3));
                    }
                }
            }
        }
    }
    checker.finish()
}

#[test]
fn a_share_of_the_gradients() {
    assert!(gradients(7, EACH_GRADIENT) > 50);
}
#[test]
#[ignore = "minutes of compilation: make test-cuda-full"]
fn gradients_0() {
    assert!(gradients(0, 4) > 300);
}
#[test]
#[ignore = "minutes of compilation: make test-cuda-full"]
fn gradients_1() {
    assert!(gradients(1, 4) > 300);
}
#[test]
#[ignore = "minutes of compilation: make test-cuda-full"]
fn gradients_2() {
    assert!(gradients(2, 4) > 300);
}
#[test]
#[ignore = "minutes of compilation: make test-cuda-full"]
fn gradients_3() {
    assert!(gradients(3, 4) > 300);
}

#[test]
fn random_graphs() {
    let mut checker = Checker::new(options());
    let first = env::fuzz_seed();
    for seed in first..first + env::fuzz_cases().unwrap_or(RANDOM) {
        checker.add(&format!("seed {seed}"), make(seed), seed % 3 != 0);
    }
    checker.finish();
}

#[test]
fn corpus_of_found_bugs() {
    let mut checker = Checker::new(options());
    for path in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_corpus")) {
        let content = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for case in corpus::read(&content).unwrap_or_else(|e| panic!("{}: {e}", path.display())) {
            for fusion in [true, false] {
                checker.add(&path.display().to_string(), case.clone(), fusion);
            }
        }
    }
    assert!(checker.finish() > 10);
}
