//! Random graphs through the interpreter, the passes and every backend, and the bugs found so.
//!
//! `TORSH_FUZZ_CASES` and `TORSH_FUZZ_SEED` choose how many and from where. A failure prints a reproducer
//! in text IR; fixed bugs stay in `fuzz_corpus/`.

use std::path::Path;
use torsh_ir::env;
use torsh_tests::filetest::files;
use torsh_tests::fuzz::check::{Backend, backends, check_all};
use torsh_tests::fuzz::{corpus, make::make, shrink::shrink};

/// Cases without `TORSH_FUZZ_CASES`: a few seconds.
const CASES: u64 = 300;
/// Different failures that one run shrinks and shows.
const MAX_REPORTS: usize = 8;

/// Runs graphs from `TORSH_FUZZ_SEED` on; of each, on the backends that `choose` picks of all for its seed.
fn run(choose: fn(u64, &[Backend]) -> &[Backend]) {
    let backends = backends();
    let first = env::fuzz_seed();
    let cases = env::fuzz_cases().unwrap_or(CASES);
    let mut found: Vec<(String, String)> = Vec::new();
    for seed in first..first + cases {
        let case = make(seed);
        let backends = choose(seed, &backends);
        let Err((case, failure)) = check_all(&case, backends) else { continue };
        let key = format!("{}: {}", failure.stage, failure.message.chars().take(40).collect::<String>());
        if found.len() < MAX_REPORTS && found.iter().all(|(k, _)| *k != key) {
            let (case, failure) = shrink(case, failure, backends);
            let text = corpus::write(&case, &failure.to_string());
            found.push((key, format!("seed {seed}: {failure}\n\nA reproducer for tests/fuzz_corpus/:\n{text}")));
        }
    }
    let reports: Vec<&str> = found.iter().map(|(_, report)| report.as_str()).collect();
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

#[test]
fn random_graphs() {
    // One backend a case, in turn; the corpus runs on all.
    run(|seed, all| {
        let at = (seed % all.len() as u64) as usize;
        &all[at..=at]
    });
}

#[test]
#[ignore = "a minute: every level and schedule for each graph"]
fn random_graphs_everywhere() {
    run(|_, all| all);
}

#[test]
fn corpus_of_found_bugs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_corpus");
    let backends = backends();
    let mut failures = Vec::new();
    for path in files(&root) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let content = std::fs::read_to_string(&path).unwrap_or_default();
        match corpus::read(&content) {
            Err(e) => failures.push(format!("{name}: {e}")),
            Ok(cases) => failures.extend(
                cases.iter().filter_map(|c| check_all(c, &backends).err()).map(|(_, f)| format!("{name}: {f}")),
            ),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
