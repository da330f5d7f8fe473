//! The threads that a library call may use, and writes to disjoint parts of one slice from them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work(part)` for each part below the count, on threads of its choice, and returns when all are done.
pub type Runner<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Threads and how to use them.
pub struct Par<'a> {
    /// How many.
    pub threads: usize,
    /// How.
    pub run: &'a Runner<'a>,
}

/// No other thread.
pub const SERIAL: Par<'static> = Par { threads: 1, run: &|parts, work| (0..parts).for_each(work) };

impl Par<'_> {
    /// Runs every part exactly once, whatever the runner does, on no more than [`Par::threads`] threads.
    pub fn for_each(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let workers = self.threads.min(parts);
        if workers <= 1 {
            (0..parts).for_each(work);
            return;
        }
        let next = AtomicUsize::new(0);
        let pull = |_: usize| {
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                work(part);
            }
        };
        // The runner may have more threads than are wanted here: it gets so many workers, not the parts.
        (self.run)(workers, &pull);
        pull(0);
    }

    /// Runs `work(i, chunk i)` for the chunks of `size` elements of `slice`.
    pub fn for_each_chunk<T: Send>(&self, slice: &mut [T], size: usize, work: &(dyn Fn(usize, &mut [T]) + Sync)) {
        let (size, n) = (size.max(1), slice.len());
        let start = Shared(slice.as_mut_ptr());
        let start = &start;
        self.for_each(n.div_ceil(size), &|i| {
            let first = i * size;
            let len = size.min(n - first);
            // SAFETY: inside `slice`, which this call borrows; chunks of different parts are disjoint, and
            // `for_each` runs each part once.
            work(i, unsafe { std::slice::from_raw_parts_mut(start.0.add(first), len) });
        });
    }
}

/// The start of a slice that threads write in disjoint parts.
pub(super) struct Shared<T>(pub(super) *mut T);
// SAFETY: an address; whoever goes through it says why its part is its own.
unsafe impl<T: Send> Sync for Shared<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_runner_is_held_to_the_threads_that_are_wanted() {
        // A thread for each thing to run, and none at all.
        let wide = |parts: usize, work: &(dyn Fn(usize) + Sync)| {
            std::thread::scope(|s| (0..parts).for_each(|i| drop(s.spawn(move || work(i)))));
        };
        let none = |_: usize, _: &(dyn Fn(usize) + Sync)| {};
        let runners: [&Runner<'_>; 2] = [&wide, &none];
        for run in runners {
            let seen: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
            let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            Par { threads: 3, run }.for_each(seen.len(), &|i| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(1));
                seen[i].fetch_add(1, Ordering::Relaxed);
                now.fetch_sub(1, Ordering::SeqCst);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
            assert!(most.load(Ordering::SeqCst) <= 3);
        }
    }
}
