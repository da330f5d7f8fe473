//! The front: lazy tensors, views and in-place operations, gradients, tracing and compiled calls.
//!
//! Holds a `&dyn Executor` and knows no runtime and no Python. Handles ([`tensor`]) name nodes ([`node`]) of
//! a lazy graph; [`realise`] turns pending nodes into an IR graph, finds or compiles its executable in the
//! [`session`], and runs it. [`trace`] records a function once and [`compiled`] replays it; [`inline`] puts the graph of a package
//! into the lazy graph.

pub mod compiled;
pub mod grad;
pub mod index;
pub mod inline;
mod known;
pub mod live;
pub mod loan;
pub mod mode;
pub mod node;
pub mod ops;
mod place;
pub mod promote;
pub mod realise;
mod rollback;
pub mod session;
pub mod tensor;
pub mod trace;
pub mod view;

pub use promote::Arg;
pub use tensor::Tensor;
