//! Names the generator: a number made of every source file of this crate, so that machine code that another one wrote
//! is told from its own.

use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
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
    println!("cargo::rerun-if-changed=src");
    let mut found = Vec::new();
    files(Path::new("src"), &mut found)?;
    found.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for path in found {
        hash = mix(hash, path.to_string_lossy().replace('\\', "/").as_bytes());
        hash = mix(hash, &std::fs::read(&path)?);
    }
    println!("cargo::rustc-env=TORSH_GENERATOR={hash:016x}");
    Ok(())
}
