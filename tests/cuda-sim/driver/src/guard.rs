//! What every driver function does first: counting, errors asked for, errors that stick, panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::code::{self, Code};
use crate::state::lock;

/// How a call is checked before its body runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: works before `cuInit` and after a fault.
    Nothing,
    /// `cuInit`: works after a fault, whose context may be left for another.
    Started,
    /// `cuInit`, and no fault before.
    Init,
}

pub(crate) fn guard(name: &'static str, needs: Needs, body: impl FnOnce() -> Result<(), Code>) -> Code {
    let run = || -> Result<(), Code> {
        {
            let mut s = lock();
            let n = s.calls.entry(name).or_insert(0);
            *n += 1;
            if let Some(code) = s.injected(name) {
                return Err(code);
            }
            if needs != Needs::Nothing && !s.initialised {
                return Err(code::NOT_INITIALIZED);
            }
            if needs == Needs::Init
                && let Some(code) = s.here().sticky
            {
                return Err(code);
            }
        }
        body()
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => {
            lock().complain(format!("{name}: the simulator panicked, which is a bug of the simulator"));
            code::UNKNOWN
        }
    }
}

/// Defines an exported driver function.
macro_rules! api {
    ($needs:ident; $(fn $name:ident($($a:ident: $t:ty),* $(,)?) $body:block)*) => { $(
        /// The driver function of this name; see the CUDA manual.
        ///
        /// # Safety
        /// Pointers must be as the manual of the driver asks.
        #[allow(non_snake_case, reason = "the name is the driver's")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($a: $t),*) -> crate::code::Code {
            crate::guard::guard(stringify!($name), crate::guard::Needs::$needs, || $body)
        }
    )* };
}

/// Writes a result through a pointer of the caller.
pub(crate) fn put<T>(to: *mut T, v: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the driver's caller promises that result pointers that are not null are valid for writes.
    unsafe { to.write_unaligned(v) };
    Ok(())
}
