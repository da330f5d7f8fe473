//! The worker threads. A parallel region runs on the calling thread and on `threads - 1` workers of a rayon
//! pool; which parts of the work there are does not depend on who takes them.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::{Error, Result};

/// More threads than this are a mistake.
const MAX_THREADS: usize = 1024;

struct Built {
    pid: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

/// The pool of an executor; threads are started at first use.
pub struct Threads {
    wanted: AtomicUsize,
    default: usize,
    built: Mutex<Option<Built>>,
}

impl Threads {
    /// A pool of `threads`, or as many as this process may use.
    pub fn new(threads: Option<usize>) -> Result<Threads> {
        let available = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let default = match threads {
            Some(n) => check(n)?,
            None => available,
        };
        Ok(Threads { wanted: AtomicUsize::new(default), default, built: Mutex::new(None) })
    }

    /// Threads that later regions use, the caller's included.
    pub fn count(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Changes the number; `None` is the default.
    pub fn set(&self, threads: Option<usize>) -> Result<()> {
        let n = threads.map_or(Ok(self.default), check)?;
        self.wanted.store(n, Ordering::Relaxed);
        Ok(())
    }

    /// The rayon pool for regions of `threads` threads, rebuilt after a fork or a change of size. `None` when
    /// the system gives no threads.
    fn pool(&self, threads: usize) -> Option<Arc<ThreadPool>> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if let Some(old) = built.take() {
            if old.pid != pid {
                // The threads did not survive the fork; dropping the pool would wait for them.
                std::mem::forget(old);
            } else if old.threads == threads {
                let pool = old.pool.clone();
                *built = Some(old);
                return Some(pool);
            }
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.saturating_sub(1).max(1))
            .thread_name(|i| format!("torsh-{i}"))
            .build()
            .ok()?;
        let pool = Arc::new(pool);
        *built = Some(Built { pid, threads, pool: pool.clone() });
        Some(pool)
    }

    /// Runs `work(worker, part)` for every part, on up to `threads` threads; `worker` is below both `threads`
    /// and `parts`. Where no thread can be started the caller does all of it: a region never fails.
    pub fn for_each(&self, threads: usize, parts: usize, work: impl Fn(usize, usize) + Sync) {
        let pool = if threads <= 1 || parts <= 1 { None } else { self.pool(threads) };
        let Some(pool) = pool else {
            (0..parts).for_each(|part| work(0, part));
            return;
        };
        let next = AtomicUsize::new(0);
        let run = |worker: usize| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                work(worker, part);
            }
        };
        let run = &run;
        pool.in_place_scope(|scope| {
            for worker in 1..threads.min(parts) {
                scope.spawn(move |_| run(worker));
            }
            run(0);
        });
    }
}

fn check(threads: usize) -> Result<usize> {
    if (1..=MAX_THREADS).contains(&threads) {
        Ok(threads)
    } else {
        Err(Error::value(format!("the number of threads must be 1 to {MAX_THREADS}, got {threads}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        let threads = Threads::new(Some(3)).unwrap();
        for n in [1, 2, 3] {
            let seen: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            threads.for_each(n, seen.len(), |worker, part| {
                assert!(worker < n);
                seen[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn silly_counts_are_refused() {
        assert!(Threads::new(Some(0)).is_err());
        let t = Threads::new(None).unwrap();
        assert!(t.set(Some(0)).is_err());
        assert!(t.set(Some(100_000)).is_err());
        t.set(Some(2)).unwrap();
        assert_eq!(t.count(), 2);
        t.set(None).unwrap();
        assert!(t.count() >= 1);
    }
}
