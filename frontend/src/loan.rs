//! Memory on loan: a run may overwrite the memory of a tensor in place, and has it for itself meanwhile.
//!
//! The node of such a tensor is data without a buffer until the run gives it one: the new value, or the old one
//! when the run failed. No lock is held over a run. Who needs the value waits for the loan to end; who needs only
//! dtype, shape or a place in a lazy graph need not wait. Nobody waits while it holds a lock or a loan, so that
//! no two threads wait for each other, and the front's own locks are let go by the hook that is installed here.

use crate::node::{Node, lock};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Duration;
use torsh_ir::{Error, ErrorKind, Result};

/// Runs its argument, which waits for another thread, with every lock given up that the other may need.
pub type Unlocked = fn(&mut (dyn FnMut() + Send));

/// What waiting needs of whoever embeds the front.
pub struct Hooks {
    /// Gives up the embedder's lock for a wait.
    pub unlocked: Unlocked,
    /// Whether the user wants to stop.
    pub interrupted: fn() -> bool,
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());
static ENDED: Condvar = Condvar::new();
static WAITERS: AtomicUsize = AtomicUsize::new(0);

/// How often a wait asks for interrupts.
const ASK: Duration = Duration::from_millis(50);

thread_local! {
    // Runs of this thread that have memory on loan; more than one when a signal handler runs within a run.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// Installs the hooks; the first call wins.
pub fn set_hooks(hooks: Hooks) {
    let _ = HOOKS.set(hooks);
}

/// This thread has begun a run with memory on loan.
pub(crate) fn begin() {
    OPEN.with(|open| open.set(open.get() + 1));
}

/// Such a run is over.
pub(crate) fn end() {
    OPEN.with(|open| open.set(open.get() - 1));
}

/// What was on loan has buffers again.
pub(crate) fn ended() {
    // Either this sees the waiter, or the waiter, which looks again after it has said so, sees the buffers.
    fence(Ordering::SeqCst);
    if WAITERS.load(Ordering::Relaxed) > 0 {
        drop(lock(&TURN));
        ENDED.notify_all();
    }
}

/// Waits until the node is no longer on loan.
pub(crate) fn wait(node: &Node) -> Result<()> {
    if !node.is_lent() {
        return Ok(());
    }
    if OPEN.with(Cell::get) > 0 {
        return Err(Error::runtime(
            "this tensor cannot be read or written here: a compiled function on this thread is updating it in place, and \
             this code runs in the middle of that call, as a signal handler does. The tensor has its new value once the \
             function has returned: let the handler set a flag, and read the tensor after the call",
        ));
    }
    let hooks = HOOKS.get();
    while node.is_lent() {
        let mut once = || wait_once(node);
        match hooks {
            Some(hooks) => (hooks.unlocked)(&mut once),
            None => once(),
        }
        if node.is_lent() && hooks.is_some_and(|hooks| (hooks.interrupted)()) {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted while waiting for a running function"));
        }
    }
    Ok(())
}

fn wait_once(node: &Node) {
    struct Waiting;
    impl Drop for Waiting {
        fn drop(&mut self) {
            WAITERS.fetch_sub(1, Ordering::SeqCst);
        }
    }
    WAITERS.fetch_add(1, Ordering::SeqCst);
    let _waiting = Waiting;
    fence(Ordering::SeqCst);
    let turn = lock(&TURN);
    drop(ENDED.wait_timeout_while(turn, ASK, |()| node.is_lent()));
}
