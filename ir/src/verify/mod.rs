//! The verifiers: one per level, each with the list of its checks in its module's docs. They run at the
//! door (parsing, loading) always and after each pass in tests and debug builds.
//!
//! A failure shows the IR with the message under the offending line, and the user's line where one is
//! known.

#[cfg(test)]
pub(crate) mod examples;
mod graph;
mod kernel;
pub(crate) mod program;
mod report;

pub use graph::graph;
