//! Programs that have passed the verifier, so that nobody need run it a second time: a package verifies its programs when it
//! is read, and an executor whatever it is to run.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use torsh_ir::Result;
use torsh_ir::program::Program;

/// A weak handle keeps its program's address from another, and the program from being changed where it is.
static KNOWN: Mutex<Vec<Weak<Program>>> = Mutex::new(Vec::new());

/// Verifies a program, and remembers it for as long as it is held.
pub fn remember(program: &Arc<Program>) -> Result<()> {
    program.verify()?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() == known.capacity() {
        known.retain(|other| other.strong_count() > 0);
    }
    known.push(Arc::downgrade(program));
    Ok(())
}

/// Verifies a program that is not remembered.
pub fn check(program: &Arc<Program>) -> Result<()> {
    if is_known(program) { Ok(()) } else { program.verify() }
}

fn is_known(program: &Arc<Program>) -> bool {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(program)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::program::BufId;

    #[test]
    fn what_has_changed_is_verified_again() {
        let mut program = Arc::new(Program::default());
        assert!(!is_known(&program));
        remember(&program).unwrap();
        assert!(is_known(&program) && check(&program).is_ok());
        let equal = Arc::new(Program::clone(&program));
        assert!(!is_known(&equal), "another object");
        assert!(Arc::get_mut(&mut program).is_none());
        Arc::make_mut(&mut program).outputs.push(BufId(7));
        assert!(!is_known(&program) && check(&program).is_err());
        assert!(remember(&program).is_err() && !is_known(&program));
    }
}
