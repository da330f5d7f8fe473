//! A crew of threads that helps whoever calls with one region of work at a time.
//!
//! The caller never waits for a helper that has not begun: it does what is there to do, closes the region, and
//! waits only for those who are still at work. So a region on a busy machine, where helpers get no processor, takes
//! no longer than the work does on one thread. Helpers watch for the next region for as long as waking one takes,
//! then they sleep; who watches leaves the processor to whatever else is to run there.

use crate::sys::cpus::{self, Place};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a helper looks for the next region, and a caller for the last helper to finish, before it offers its
/// processor to others between looks: each look takes some 20 to 60 nanoseconds.
const LOOKS: usize = 200;
/// How long it looks in all before it sleeps: about what it takes to wake a thread.
const WATCH: Duration = Duration::from_micros(50);

/// What a region runs; the argument is the worker's number, 0 for the caller.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// The open region's work.
#[derive(Copy, Clone)]
struct Job(*const Work<'static>);

// SAFETY: the pointee is `Sync`, and `Crew::run` keeps it alive for as long as a helper may reach it.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    /// The open region: its work, how many more helpers may join, and the number of the next.
    open: Option<Job>,
    seats: usize,
    next: usize,
    /// Helpers inside the region.
    inside: usize,
    /// Helpers that sleep.
    asleep: usize,
    /// Where each sleeping helper ran, by its number, and where the caller that wakes them runs.
    places: Vec<Place>,
    caller: Option<usize>,
    stop: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes helpers for a region, or to stop.
    begin: Condvar,
    /// Wakes the caller when the last helper has left.
    end: Condvar,
    /// Counts regions: what helpers watch before they sleep.
    regions: AtomicU64,
    /// `State::inside`, to be watched without the lock.
    inside: AtomicUsize,
    /// A caller has the crew.
    taken: AtomicBool,
}

/// The helpers.
pub(crate) struct Crew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    /// So many helpers, or as many as the system gives.
    pub fn new(helpers: usize) -> Crew {
        Crew::named(helpers, "torsh")
    }

    fn named(helpers: usize, name: &str) -> Crew {
        let shared = Arc::<Shared>::default();
        shared.lock().places.resize_with(helpers, Place::default);
        let start = |i: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("{name}-{i}")).spawn(move || help(&shared, i)).ok()
        };
        let helpers = (0..helpers).map_while(start).collect();
        Crew { shared, helpers }
    }

    /// Number of helpers.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.helpers.len()
    }

    /// Runs `work(0)` on the calling thread and `work(1)`, `work(2)`, ... on at most `helpers` others, each number
    /// at most once, and returns when all that have begun are done. Helpers may come late or not at all: `work(0)`
    /// alone must do everything that the others leave. While another thread has the crew there are no helpers.
    pub fn run(&self, helpers: usize, work: &Work<'_>) {
        let shared = &*self.shared;
        if helpers == 0 || self.helpers.is_empty() || shared.taken.swap(true, Ordering::Acquire) {
            work(0);
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is in `State::open` until `Region` closes, which happens
        // before this function returns or unwinds; a helper copies it only while it is there and is counted in
        // `State::inside` from then until it no longer uses it; closing waits for that count to be zero.
        let job = Job(unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) });
        let region = Region { shared };
        let mut state = shared.lock();
        state.open = Some(job);
        state.seats = helpers.min(self.helpers.len());
        state.next = 1;
        let wake = state.seats.min(state.asleep);
        if wake > 0 {
            state.caller = cpus::here();
            let caller = state.caller;
            state.places.iter_mut().for_each(|place| place.leave(caller));
        }
        // Who watches asks for the lock as soon as this has changed.
        shared.regions.fetch_add(1, Ordering::Release);
        drop(state);
        for _ in 0..wake {
            shared.begin.notify_one();
        }
        work(0);
        let panic = region.close();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.regions.fetch_add(1, Ordering::Release);
        self.shared.begin.notify_all();
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

/// An open region; closes when it goes.
struct Region<'a> {
    shared: &'a Shared,
}

impl Region<'_> {
    fn close(self) -> Option<Box<dyn Any + Send>> {
        self.wait();
        let panic = self.shared.lock().panic.take();
        drop(self);
        panic
    }

    /// Nobody joins any more; waits for those inside.
    fn wait(&self) {
        let mut state = self.shared.lock();
        state.open = None;
        state.seats = 0;
        // Of those who were not woken, or have not run yet.
        state.places.iter_mut().for_each(Place::take_back);
        if state.inside == 0 {
            return;
        }
        drop(state);
        watch(|| self.shared.inside.load(Ordering::Acquire) == 0);
        // The helper that leaves last has the lock while it says so: having had it too, we know that it is done.
        state = self.shared.lock();
        while state.inside > 0 {
            state = self.shared.end.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.wait();
        // Of two panics the caller's goes on; the other one does not belong to the next region.
        self.shared.lock().panic = None;
        self.shared.taken.store(false, Ordering::Release);
    }
}

/// Looks until it is so, or for some time. Where another thread wants this processor the first offer ends the looking:
/// it lasts longer than the rest of the time.
fn watch(so: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if so() {
            return;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    while !so() && start.elapsed() < WATCH {
        std::thread::yield_now();
    }
}

/// The life of a helper.
fn help(shared: &Shared, number: usize) {
    let mut state = shared.lock();
    let (mut place, mut woken) = (Place::current(), false);
    loop {
        if state.stop {
            return;
        }
        let job = state.open.filter(|_| state.seats > 0);
        let Some(job) = job else {
            state.asleep += 1;
            place.note();
            state.places[number] = std::mem::take(&mut place);
            state = shared.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
            place = std::mem::take(&mut state.places[number]);
            woken = true;
            continue;
        };
        let worker = state.next;
        state.next += 1;
        state.seats -= 1;
        state.inside += 1;
        shared.inside.store(state.inside, Ordering::Relaxed);
        let seen = shared.regions.load(Ordering::Relaxed);
        let caller = state.caller;
        drop(state);
        if std::mem::take(&mut woken) {
            place.arrive(caller);
        }
        // SAFETY: the job was open and this helper is counted inside, so that `Crew::run`, whose argument it is,
        // has not returned and will not before the count below.
        let work = unsafe { &*job.0 };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(worker)));
        state = shared.lock();
        if let Err(panic) = outcome {
            state.panic = Some(panic);
        }
        state.inside -= 1;
        shared.inside.store(state.inside, Ordering::Release);
        if state.inside == 0 {
            shared.end.notify_one();
        }
        drop(state);
        watch(|| shared.regions.load(Ordering::Acquire) != seen);
        state = shared.lock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(crew: &Crew, helpers: usize, parts: usize) -> usize {
        let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        crew.run(helpers, &|worker| {
            assert!(worker <= helpers);
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts {
                    break;
                }
                total.fetch_add(part, Ordering::Relaxed);
            }
        });
        total.into_inner()
    }

    #[test]
    fn every_region_is_whole() {
        let crew = Crew::new(3);
        assert_eq!(crew.size(), 3);
        for i in 0..20_000 {
            let parts = i % 40;
            assert_eq!(sum(&crew, i % 5, parts), parts * parts.saturating_sub(1) / 2);
        }
    }

    #[test]
    fn several_callers_share_a_crew() {
        let crew = Crew::new(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..3000).for_each(|_| assert_eq!(sum(&crew, 2, 30), 435)));
            }
        });
    }

    #[test]
    fn helpers_do_take_part() {
        let crew = Crew::new(1);
        let seen = AtomicUsize::new(0);
        // The caller waits for the helper, which must come.
        crew.run(1, &|worker| {
            seen.fetch_or(1 << worker, Ordering::SeqCst);
            while worker == 0 && seen.load(Ordering::SeqCst) != 3 {
                std::thread::yield_now();
            }
        });
        assert_eq!(seen.into_inner(), 3);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn no_helper_stays_where_it_was_moved() {
        let masks = || -> Vec<String> {
            let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).ok();
            let all = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| status(task.unwrap()));
            let ours = all.filter(|text| text.starts_with("Name:\tmoved-"));
            let mask = |text: &str| text.lines().find(|line| line.starts_with("Cpus_allowed:")).map(str::to_owned);
            ours.filter_map(|text| mask(&text)).collect()
        };
        let crew = Crew::named(3, "moved");
        let before = loop {
            let found = masks();
            if found.len() == 3 {
                break found;
            }
            std::thread::yield_now();
        };
        for i in 0..400u64 {
            sum(&crew, 1 + i as usize % 3, 20 * (i as usize % 7));
            std::thread::sleep(Duration::from_micros(i % 11 * 30));
        }
        // A region that helpers have joined late ends before they have put their masks back.
        for _ in 0..1000 {
            if masks() == before {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{before:?} became {:?}", masks());
    }

    #[test]
    fn panics_reach_the_caller_and_the_crew_works_on() {
        let crew = Crew::new(1);
        let came = AtomicBool::new(false);
        for bad in [0, 1] {
            came.store(false, Ordering::SeqCst);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                crew.run(1, &|worker| {
                    if worker == 1 {
                        came.store(true, Ordering::SeqCst);
                    }
                    while !came.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    assert!(worker != bad, "on purpose");
                });
            }));
            assert!(outcome.is_err());
            assert_eq!(sum(&crew, 1, 10), 45);
        }
    }

    #[test]
    fn a_region_inside_a_region_runs_on_its_caller() {
        let crew = Crew::new(2);
        crew.run(2, &|_| assert_eq!(sum(&crew, 2, 10), 45));
    }
}
