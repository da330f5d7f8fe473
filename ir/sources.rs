// Included by build scripts: a number made of every source file of some folders, so that what another version of torsh has
// made is told from what this one makes.

fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
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

/// The number of these folders.
fn sources(folders: &[&str]) -> std::io::Result<u64> {
    let mut found = Vec::new();
    for folder in folders {
        println!("cargo::rerun-if-changed={folder}");
        files(std::path::Path::new(folder), &mut found)?;
    }
    found.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for path in found {
        hash = mix(hash, path.to_string_lossy().replace('\\', "/").as_bytes());
        hash = mix(hash, &std::fs::read(&path)?);
    }
    Ok(hash)
}
