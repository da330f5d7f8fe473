//! The passes of torsh: free functions from graph to graph, and from graph to program.
//!
//! [`pipeline`] lists them in order and is the one driver: it verifies, dumps and times after each pass, so
//! that no pass does. The crate knows only `torsh-ir`.

pub mod attention;
pub mod autodiff;
pub mod decompose;
pub mod fuse;
mod layout;
pub mod limits;
pub mod lower;
pub mod pipeline;
pub mod plan;
mod rebuild;
pub mod schedule;
pub mod simplify;
pub mod split;
mod stats;

pub use pipeline::{Options, compile};
