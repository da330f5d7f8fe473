//! The worker threads. A parallel region runs on the calling thread and on up to `threads - 1` helpers, as many as
//! have time; which parts of the work there are does not depend on who takes them.

use crate::sys::crew::Crew;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::{Error, Result};

/// More threads than this are a mistake.
const MAX_THREADS: usize = 1024;

struct Built {
    pid: u32,
    // So many were asked for; the system may have given fewer.
    helpers: usize,
    crew: Arc<Crew>,
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

    /// The helpers for regions of `threads` threads: made at first use, again after a fork, and when more are wanted
    /// than there are.
    fn crew(&self, threads: usize) -> Arc<Crew> {
        let helpers = threads.max(self.count()) - 1;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = std::process::id();
        if let Some(old) = built.take() {
            if old.pid != pid {
                // The threads did not survive the fork; dropping the crew would wait for them.
                std::mem::forget(old);
            } else if old.helpers == helpers {
                let crew = old.crew.clone();
                *built = Some(old);
                return crew;
            }
        }
        let crew = Arc::new(Crew::new(helpers));
        *built = Some(Built { pid, helpers, crew: crew.clone() });
        crew
    }

    /// Runs `work(worker, part)` for every part, on up to `threads` threads; `worker` is below both `threads`
    /// and `parts`. Where no thread can be started the caller does all of it: a region never fails.
    pub fn for_each(&self, threads: usize, parts: usize, work: impl Fn(usize, usize) + Sync) {
        if threads <= 1 || parts <= 1 {
            (0..parts).for_each(|part| work(0, part));
            return;
        }
        let next = AtomicUsize::new(0);
        self.crew(threads).run(threads.min(parts) - 1, &|worker| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                work(worker, part);
            }
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

    // How long a region takes beyond its work, against rayon's. On a machine that is busy otherwise, too:
    // `cargo test --release -p torsh-runtime --lib region_latency -- --ignored --nocapture`
    #[test]
    #[ignore = "measures"]
    fn region_latency() {
        let spin = |us: u64| {
            let start = std::time::Instant::now();
            while start.elapsed().as_nanos() < u128::from(us) * 1000 {
                std::hint::spin_loop();
            }
        };
        let own = Threads::new(Some(2)).unwrap();
        let rayon = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let by_rayon = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
            let next = AtomicUsize::new(0);
            let run = || {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= parts {
                        break;
                    }
                    work(part);
                }
            };
            let run = &run;
            rayon.in_place_scope(|scope| {
                scope.spawn(move |_| run());
                run();
            });
        };
        for (part_us, parts) in [(0u64, 8usize), (6, 8), (50, 8)] {
            for pause_us in [0u64, 200] {
                let mut times = [Vec::new(), Vec::new(), Vec::new()];
                for _ in 0..400 {
                    for (which, times) in times.iter_mut().enumerate() {
                        spin(pause_us);
                        let start = std::time::Instant::now();
                        match which {
                            0 => (0..parts).for_each(|_| spin(part_us)),
                            1 => own.for_each(2, parts, |_, _| spin(part_us)),
                            _ => by_rayon(parts, &|_| spin(part_us)),
                        }
                        times.push(start.elapsed().as_secs_f64() * 1e6);
                    }
                }
                for (name, times) in ["serial", "own", "rayon"].iter().zip(&mut times) {
                    times.sort_by(f64::total_cmp);
                    let at = |q: usize| times[times.len() * q / 100];
                    println!(
                        "{parts} parts of {part_us:>2} us, {pause_us:>3} us apart: {name:>6} min {:>6.1} median {:>6.1} p90 {:>7.1} p99 {:>8.1} us",
                        times[0],
                        at(50),
                        at(90),
                        at(99)
                    );
                }
            }
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
