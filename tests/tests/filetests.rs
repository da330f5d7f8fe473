//! Runs every golden file; see `torsh_tests::filetest` for the format. `TORSH_BLESS=1` rewrites them.

use std::path::Path;
use torsh_tests::filetest;

#[test]
fn filetests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let files = filetest::files(&root);
    assert!(!files.is_empty(), "no files below {}", root.display());
    let mut failures = Vec::new();
    for path in &files {
        if let Err(message) = filetest::run(path) {
            failures.push(format!("{}: {message}\n", path.strip_prefix(&root).unwrap_or(path).display()));
        }
    }
    assert!(failures.is_empty(), "{} of {} files failed\n{}", failures.len(), files.len(), failures.join("\n"));
}
