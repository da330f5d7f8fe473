//! Machine code of kernels on disk, so that a process that asks for what another compiled needs no NVRTC.
//!
//! The folder belongs to the user and only he may enter it (0700); else the cache is not used, with a warning. An
//! entry is written to a temporary file and renamed. It is named by a hash of its key (source, options, architecture,
//! kind of code, versions of torsh and the generator), and holds the whole key, which compiler made it, the code and
//! a checksum over all of that: what does not agree is a miss, and is overwritten. Where a compiler is installed, only
//! what that very compiler made is a hit; where none is, anything is.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use torsh_ir::env;

const MAGIC: &[u8; 8] = b"torshcu1";
/// Magic, three lengths and the checksum.
const HEADER: usize = 8 + 4 * 8;
/// Beyond so many bytes of entries the oldest go, until three quarters are left.
const MAX_BYTES: u64 = 512 << 20;
/// No entry is larger.
const MAX_ENTRY: u64 = 256 << 20;

/// The cache.
pub(crate) struct Cubins {
    dir: PathBuf,
}

/// What an entry is found by.
pub(crate) struct Key<'a> {
    /// Everything that the code depends on, but for the compiler.
    pub text: &'a str,
    /// The compiler, if one is installed.
    pub compiler: Option<&'a str>,
}

impl Cubins {
    /// The cache of the environment's choice; `None` where that is none, or where the folder is not safe.
    pub fn new() -> Option<Cubins> {
        let dir = env::cache_dir()?.join("cuda");
        match prepare(&dir) {
            Ok(()) => Some(Cubins { dir }),
            Err(e) => {
                env::warn(format!("the cache of CUDA kernels is not used: {}: {e}", dir.display()));
                None
            }
        }
    }

    /// A cache in a folder.
    #[cfg(test)]
    fn at(dir: &Path) -> Result<Cubins, String> {
        prepare(dir).map(|()| Cubins { dir: dir.to_path_buf() })
    }

    fn path(&self, key: &Key<'_>) -> PathBuf {
        self.dir.join(format!("{:016x}{:016x}", fnv(SEED, key.text.as_bytes()), fnv(!SEED, key.text.as_bytes())))
    }

    /// The code of a key.
    pub fn get(&self, key: &Key<'_>) -> Option<Vec<u8>> {
        let bytes = read(&self.path(key))?;
        let word = |i: usize| Some(u64::from_le_bytes(bytes.get(8 + 8 * i..16 + 8 * i)?.try_into().ok()?));
        let body = bytes.get(HEADER..).filter(|_| bytes.starts_with(MAGIC))?;
        let lens = [word(0)?, word(1)?, word(2)?];
        let total = lens.iter().try_fold(0u64, |sum, &l| sum.checked_add(l))?;
        if total != body.len() as u64 || word(3)? != checksum(&bytes[8..32], body) {
            return None;
        }
        let (text, rest) = body.split_at(lens[0] as usize);
        let (compiler, code) = rest.split_at(lens[1] as usize);
        let same = key.compiler.is_none_or(|c| c.as_bytes() == compiler);
        (text == key.text.as_bytes() && same).then(|| code.to_vec())
    }

    /// Keeps the code of a key. That it cannot is worth a warning, no more.
    pub fn put(&self, key: &Key<'_>, code: &[u8]) {
        if let Err(e) = self.write(key, code) {
            env::warn(format!("the cache of CUDA kernels cannot be written: {}: {e}", self.dir.display()));
        }
    }

    fn write(&self, key: &Key<'_>, code: &[u8]) -> std::io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parts = [key.text.as_bytes(), key.compiler.unwrap_or("").as_bytes(), code];
        let lens: Vec<u8> = parts.iter().flat_map(|p| (p.len() as u64).to_le_bytes()).collect();
        let body = parts.concat();
        let sum = checksum(&lens, &body).to_le_bytes();
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("new-{}-{n}", std::process::id()));
        let written = create(&temporary)
            .and_then(|mut file| file.write_all(&[MAGIC.as_slice(), &lens, &sum, &body].concat()))
            .and_then(|()| fs::rename(&temporary, self.path(key)));
        if written.is_err() {
            // What is left of it is of no use; the error at hand is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        self.trim()
    }

    /// Removes the oldest entries when there are too many bytes.
    fn trim(&self) -> std::io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another process may have removed it.
            if let Ok(meta) = entry.metadata() {
                entries.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        let mut total: u64 = entries.iter().map(|(_, len, _)| len).sum();
        if total <= MAX_BYTES {
            return Ok(());
        }
        entries.sort();
        for (_, len, path) in entries {
            if total <= MAX_BYTES / 4 * 3 {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= len;
            }
        }
        Ok(())
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Fowler, Noll and Vo's hash (1a).
fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn checksum(lens: &[u8], body: &[u8]) -> u64 {
    fnv(fnv(SEED, lens), body)
}

#[cfg(unix)]
fn prepare(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| e.to_string())?;
    let meta = fs::symlink_metadata(dir).map_err(|e| e.to_string())?;
    if !meta.is_dir() || meta.uid() != crate::sys::user() || meta.mode() & 0o077 != 0 {
        return Err("it must be a folder of this user's that no one else may enter (mode 700)".to_string());
    }
    Ok(())
}

#[cfg(unix)]
fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(unix)]
fn read(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.uid() != crate::sys::user() || meta.mode() & 0o022 != 0 || meta.len() > MAX_ENTRY {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_ENTRY).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(not(unix))]
fn prepare(_: &Path) -> Result<(), String> {
    Err("whose it is cannot be told on this system".to_string())
}

#[cfg(not(unix))]
fn create(path: &Path) -> std::io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(not(unix))]
fn read(_: &Path) -> Option<Vec<u8>> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("torsh-cubins-{name}-{}", std::process::id()))
    }

    fn key<'a>(text: &'a str, compiler: Option<&'a str>) -> Key<'a> {
        Key { text, compiler }
    }

    #[test]
    fn what_was_put_is_found_by_its_key_and_compiler() {
        let dir = folder("found");
        let cache = Cubins::at(&dir).unwrap();
        let (a, b) = (key("source a", Some("nvrtc 1")), key("source b", Some("nvrtc 1")));
        assert_eq!(cache.get(&a), None);
        cache.put(&a, b"code a");
        cache.put(&b, b"");
        assert_eq!(cache.get(&a).as_deref(), Some(b"code a".as_slice()));
        assert_eq!(cache.get(&b).as_deref(), Some(b"".as_slice()));
        assert_eq!(cache.get(&key("source a", None)).as_deref(), Some(b"code a".as_slice()));
        assert_eq!(cache.get(&key("source a", Some("nvrtc 2"))), None);
        cache.put(&key("source a", Some("nvrtc 2")), b"newer");
        assert_eq!(cache.get(&key("source a", Some("nvrtc 2"))).as_deref(), Some(b"newer".as_slice()));
        assert!(fs::read_dir(&dir).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with("new-")));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_changed_or_missing_byte_is_a_miss() {
        let dir = folder("changed");
        let cache = Cubins::at(&dir).unwrap();
        let a = key("source", Some("nvrtc"));
        cache.put(&a, b"machine code");
        let path = cache.path(&a);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, &bad).unwrap();
            assert_eq!(cache.get(&a), None, "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(cache.get(&a), None, "{at} bytes");
        }
        // Lengths whose sum wraps round.
        let mut bad = good.clone();
        bad[8..16].fill(0xff);
        fs::write(&path, &bad).unwrap();
        assert_eq!(cache.get(&a), None);
        fs::write(&path, &good).unwrap();
        assert!(cache.get(&a).is_some());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn entries_and_folders_that_others_may_write_are_not_trusted() {
        let dir = folder("others");
        let cache = Cubins::at(&dir).unwrap();
        let a = key("source", None);
        cache.put(&a, b"machine code");
        let path = cache.path(&a);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(cache.get(&a), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(cache.get(&a).is_some());
        let elsewhere = dir.join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(cache.get(&a), None, "a link");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Cubins::at(&dir).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
