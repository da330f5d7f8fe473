//! Which processors threads run on: a sleeping helper is moved off the processor of its caller.
//!
//! Linux wakes a thread on the processor where it last ran, or on that of the waker; on small machines under some load
//! it does not look for an idle one. A helper that shares its caller's processor leaves the other idle until the
//! load balancer notices, which takes some 20 ms. So the caller looks before it wakes a helper, and takes its own
//! processor from the helper's mask; the helper puts the mask back when it runs, or the caller does when the region
//! closes, so that nothing stays pinned. (Linux takes the mask that was put back for the user's wish: processors that the
//! process is given later are not among those of such a helper.)

#[cfg(target_os = "linux")]
mod linux {
    use libc::{CPU_CLR, CPU_COUNT, CPU_EQUAL, CPU_ISSET, cpu_set_t, pid_t};

    /// The processor of the calling thread.
    pub(crate) fn here() -> Option<usize> {
        // SAFETY: takes no argument and reads nothing of ours.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    fn mask(thread: pid_t) -> Option<cpu_set_t> {
        // SAFETY: all zeros is the empty set.
        let mut mask: cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes at most so many bytes into `mask`, which is ours.
        let got = unsafe { libc::sched_getaffinity(thread, size_of::<cpu_set_t>(), &raw mut mask) };
        (got == 0).then_some(mask)
    }

    fn set_mask(thread: pid_t, mask: &cpu_set_t) -> bool {
        // SAFETY: the kernel reads so many bytes of `mask`.
        unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), std::ptr::from_ref(mask)) == 0 }
    }

    /// A change of a thread's mask that is to be taken back.
    struct Moved {
        before: cpu_set_t,
        after: cpu_set_t,
    }

    /// Where a helper ran when it went to sleep.
    #[derive(Default)]
    pub(crate) struct Place {
        thread: pid_t,
        cpu: Option<usize>,
        moved: Option<Moved>,
    }

    impl Place {
        /// The calling thread's.
        pub(crate) fn current() -> Place {
            // SAFETY: takes no argument and reads nothing of ours.
            let thread = unsafe { libc::syscall(libc::SYS_gettid) };
            Place { thread: pid_t::try_from(thread).unwrap_or(0), cpu: here(), moved: None }
        }

        /// Called for a helper that sleeps, by who wakes it on the processor `caller`: where it would wake there, it
        /// will wake on another that it may use, if there is one.
        pub(crate) fn leave(&mut self, caller: Option<usize>) {
            // Thread 0 would be the caller itself.
            if caller.is_none() || self.cpu != caller || self.moved.is_some() || self.thread == 0 {
                return;
            }
            let (Some(cpu), Some(before)) = (caller, mask(self.thread)) else { return };
            if cpu >= 8 * size_of::<cpu_set_t>() {
                return;
            }
            let mut after = before;
            // SAFETY: `cpu` is a bit of the set, by the check above.
            let alone = unsafe {
                let set = CPU_ISSET(cpu, &after);
                CPU_CLR(cpu, &mut after);
                !set || CPU_COUNT(&after) == 0
            };
            if !alone && set_mask(self.thread, &after) {
                self.moved = Some(Moved { before, after });
            }
        }

        /// Called by the helper when it has woken: goes elsewhere if it runs beside its caller all the same, takes back
        /// the moves, and notes where it is.
        pub(crate) fn arrive(&mut self, caller: Option<usize>) {
            self.cpu = here();
            if self.cpu == caller && self.moved.is_none() {
                self.leave(caller);
                self.cpu = here();
            }
            self.take_back();
        }

        /// Notes where the thread, which is the calling one, is about to sleep.
        pub(crate) fn note(&mut self) {
            self.cpu = here();
        }

        /// The mask is again what it was, unless someone has set another.
        pub(crate) fn take_back(&mut self) {
            let Some(Moved { before, after }) = self.moved.take() else { return };
            // SAFETY: both are sets.
            if mask(self.thread).is_some_and(|now| unsafe { CPU_EQUAL(&now, &after) }) {
                set_mask(self.thread, &before);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_move_is_taken_back() {
            let all = mask(0).unwrap();
            let mut place = Place::current();
            assert_eq!(place.thread, unsafe { libc::gettid() });
            let cpu = place.cpu;
            place.leave(None);
            place.leave(cpu.map(|c| c + 1));
            assert!(place.moved.is_none() && unsafe { CPU_EQUAL(&mask(0).unwrap(), &all) });
            place.leave(cpu);
            let several = unsafe { CPU_COUNT(&all) } > 1;
            assert_eq!(place.moved.is_some(), several);
            if several {
                assert_ne!(here(), cpu);
                assert!(!unsafe { CPU_ISSET(cpu.unwrap(), &mask(0).unwrap()) });
            }
            place.arrive(None);
            assert!(place.moved.is_none() && unsafe { CPU_EQUAL(&mask(0).unwrap(), &all) });
        }

        #[test]
        fn a_mask_that_someone_else_set_is_kept() {
            let all = mask(0).unwrap();
            let mut place = Place::current();
            place.leave(place.cpu);
            let mut one = mask(0).unwrap();
            let first = (0..8 * size_of::<cpu_set_t>()).find(|&c| unsafe { CPU_ISSET(c, &all) }).unwrap();
            unsafe {
                libc::CPU_ZERO(&mut one);
                libc::CPU_SET(first, &mut one);
            }
            assert!(set_mask(0, &one));
            place.arrive(None);
            let moved = unsafe { CPU_COUNT(&all) } > 2;
            // With two processors the move may have left the same mask, which then counts as the move's.
            if moved {
                assert!(unsafe { CPU_EQUAL(&mask(0).unwrap(), &one) });
            }
            // Pinned: nowhere to go.
            set_mask(0, &one);
            let mut place = Place::current();
            place.leave(place.cpu);
            assert!(place.moved.is_none());
            set_mask(0, &all);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    /// Not known.
    pub(crate) fn here() -> Option<usize> {
        None
    }

    /// Where a helper last ran: not known, and nothing is moved.
    #[derive(Default)]
    pub(crate) struct Place;

    impl Place {
        pub(crate) fn current() -> Place {
            Place
        }

        pub(crate) fn leave(&mut self, _caller: Option<usize>) {}

        pub(crate) fn arrive(&mut self, _caller: Option<usize>) {}

        pub(crate) fn note(&mut self) {}

        pub(crate) fn take_back(&mut self) {}
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{Place, here};
#[cfg(target_os = "linux")]
pub(crate) use linux::{Place, here};
