//! The passes of torsh: free functions from graph to graph, and from graph to program.
//!
//! [`pipeline`] lists them in order and is the one driver: it verifies, dumps and times after each pass, so
//! that no pass does. The crate knows only `torsh-ir`.

pub mod autodiff;
pub mod decompose;
pub mod limits;
pub mod lower;
pub mod pipeline;
mod rebuild;
pub mod simplify;

pub use pipeline::{Options, compile};
