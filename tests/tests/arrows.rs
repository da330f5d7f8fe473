//! Which of our crates may know which: the arrows of ARCHITECTURE.md. Any other edge fails.

use std::collections::BTreeSet;
use std::path::Path;

/// Every crate of the workspace with the crates of ours that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("passes", &["ir"]),
    // The PTX simulator for tests only.
    ("codegen", &["ir", "ptx-sim"]),
    // The passes because a package holds a level-1 graph, which the runtime compiles without any front.
    ("runtime", &["codegen", "passes", "ir"]),
    ("frontend", &["passes", "ir"]),
    // The runtime only to build the executor and hand it over.
    ("python", &["frontend", "runtime", "ir"]),
    ("runtime/run", &["runtime", "ir"]),
    ("tests", &["ir", "passes", "codegen", "runtime", "frontend", "ptx-sim"]),
    ("tests/cuda-sim/ptx", &[]),
    ("tests/cuda-sim/driver", &["ptx-sim"]),
    ("tests/cuda-sim/cublaslt", &["cuda-sim", "driver", "ptx-sim"]),
];

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Our crates that a manifest names in any dependency section, by folder name.
fn edges(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[') {
            section = head.trim_end_matches(']');
            // `[dependencies.torsh-ir]`
            if section.contains("dependencies.") {
                found.extend(section.rsplit('.').next().and_then(ours));
            }
            continue;
        }
        if section.ends_with("dependencies") {
            let name = line.split(['=', '.', ' ']).next().unwrap_or("").trim_matches('"');
            found.extend(ours(name));
            // A renamed dependency: `alias = { package = "torsh-ir" }`, or a path into a sibling.
            found.extend(line.split('"').skip(1).step_by(2).filter_map(ours));
            found.extend(line.split("../").skip(1).filter_map(|p| p.split(['"', '/']).next()).map(str::to_string));
        }
    }
    found
}

fn ours(package: &str) -> Option<String> {
    package.strip_prefix("torsh-").map(str::to_string)
}

#[test]
fn only_the_arrows_of_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is the parent folder");
    let workspace = read(&root.join("Cargo.toml"));
    let members = workspace.lines().find(|l| l.starts_with("members")).expect("the workspace lists its members");
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, known, "every member of the workspace stands in the table of arrows");
    for (name, allowed) in ARROWS {
        let manifest = read(&root.join(name).join("Cargo.toml"));
        for edge in edges(&manifest) {
            assert!(
                allowed.contains(&edge.as_str()),
                "{name}/Cargo.toml depends on torsh-{edge}: allowed are {allowed:?}"
            );
        }
    }
}

#[test]
fn edges_are_found_however_they_are_written() {
    let manifest = "[package]\nname = \"torsh-x\"\n[dependencies]\ntorsh-ir.workspace = true\ntorsh-passes = { path = \"../passes\" }\n\
        renamed = { package = \"torsh-codegen\", version = \"1\" }\n[dev-dependencies]\nlocal = { path = \"../runtime\" }\n\
        [target.'cfg(unix)'.dependencies.torsh-frontend]\nworkspace = true\n";
    let found: Vec<String> = edges(manifest).into_iter().collect();
    assert_eq!(found, ["codegen", "frontend", "ir", "passes", "runtime"]);
}

#[test]
fn unsafe_is_forbidden_where_it_has_no_home() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is the parent folder");
    let workspace = read(&root.join("Cargo.toml"));
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for name in ["ir", "passes", "codegen", "frontend", "runtime/run", "tests"] {
        let manifest = read(&root.join(name).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the workspace's lints");
    }
}
