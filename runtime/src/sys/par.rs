//! The threads that a library call may use, and writes to disjoint parts of one slice from them.

use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Runs every part exactly once, whatever the runner does.
    pub fn for_each(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.threads <= 1 {
            (0..parts).for_each(work);
            return;
        }
        let taken: Vec<AtomicBool> = (0..parts).map(|_| AtomicBool::new(false)).collect();
        let once = |i: usize| {
            if taken.get(i).is_some_and(|t| !t.swap(true, Ordering::Relaxed)) {
                work(i);
            }
        };
        (self.run)(parts, &once);
        (0..parts).for_each(once);
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
