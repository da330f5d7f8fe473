//! Names the generator: a number made of every source file of this crate and of `torsh-ir`, whose numbers of operations and
//! types are in the digests of kernels, and of the versions of Cranelift's crates, so that machine code that another one
//! wrote is told from its own.

use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // What editors leave beside a file.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// FNV-1a.
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

fn main() -> std::io::Result<()> {
    let mut found = Vec::new();
    for folder in ["src", "../ir/src"] {
        println!("cargo::rerun-if-changed={folder}");
        files(Path::new(folder), &mut found)?;
    }
    found.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for path in found {
        hash = mix(hash, path.to_string_lossy().replace('\\', "/").as_bytes());
        hash = mix(hash, &std::fs::read(&path)?);
    }
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let lock = std::fs::read_to_string("../Cargo.lock")?;
    let made_by = |package: &&str| package.contains("\nname = \"cranelift") || package.contains("\nname = \"regalloc2");
    for package in lock.split("[[package]]").filter(made_by) {
        hash = mix(hash, package.as_bytes());
    }
    println!("cargo::rustc-env=TORSH_GENERATOR={hash:016x}");
    Ok(())
}
