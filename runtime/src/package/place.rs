//! The file beside its place that a package is written to.
//!
//! Its writer holds a lock on it, which the system lifts when the writer ends, however it ends. So whoever gets the lock of
//! such a file has found one that a killed writer has left, and may remove it.

use std::fs::File;
use std::io::Result;
use std::path::Path;
use tempfile::NamedTempFile;

const PREFIX: &str = ".torsh-";
const SUFFIX: &str = ".part";
/// How often a new file may be taken for one that was left before it is locked.
const TRIES: usize = 16;

/// A new file in `folder`, locked, after those that killed writers have left there are gone.
pub fn part(folder: &Path) -> Result<NamedTempFile> {
    sweep(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    for _ in 1..TRIES {
        let file = builder.tempfile_in(folder)?;
        // Where the file system knows no locks, nobody gets one, and nothing is removed.
        if file.as_file().lock().is_err() || stands_at(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
    builder.tempfile_in(folder)
}

/// Removes this user's files whose writers are gone. What cannot be looked at or removed stays: it is in nobody's way.
#[cfg(unix)]
fn sweep(folder: &Path) {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(PREFIX.as_bytes()) || !name.ends_with(SUFFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let Ok(file) = File::options().read(true).custom_flags(flags).open(&path) else { continue };
        let ours = file.metadata().is_ok_and(|m| m.is_file() && m.uid() == crate::sys::map::user());
        // While the lock is held here, no writer renames the file.
        if ours && file.try_lock().is_ok() && stands_at(&file, &path) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(not(unix))]
fn sweep(_: &Path) {}

/// Whether the file is the one that stands at the path.
#[cfg(unix)]
fn stands_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(a), Ok(b)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn stands_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn parts(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_a_dead_writer_left_goes_and_what_others_write_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let others = [".torsh-a.txt", "torsh-b.part", ".torsh-link.part", ".torsh-folder.part"];
        std::fs::write(at.join(others[0]), "x").unwrap();
        std::fs::write(at.join(others[1]), "x").unwrap();
        std::os::unix::fs::symlink(at.join(others[0]), at.join(others[2])).unwrap();
        std::fs::create_dir(at.join(others[3])).unwrap();
        std::fs::write(at.join(".torsh-left.part"), "half").unwrap();
        let first = part(at).unwrap();
        assert_eq!(parts(at), 5, "what was left is gone, what is not a part stays");
        let second = part(at).unwrap();
        assert!(first.path().exists() && second.path().exists());
        // As a kill would: the name stays, the lock goes.
        let (file, path) = second.keep().unwrap();
        drop(file);
        assert!(path.exists());
        drop(part(at).unwrap());
        assert!(first.path().exists() && !path.exists());
        drop(first);
        assert_eq!(parts(at), 4);
    }

    #[test]
    fn writers_do_not_remove_each_others_files() {
        let folder = tempfile::tempdir().unwrap();
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for k in 0..4 {
                let (at, done) = (folder.path(), &done);
                scope.spawn(move || {
                    for i in 0..50 {
                        let file = part(at).unwrap();
                        file.persist(at.join(format!("{k}.{i}"))).unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 200);
        assert_eq!(parts(folder.path()), 200);
    }
}
