//! The torsh tensor graph: types, operators, loop kernels and the reference interpreter.
//!
//! This crate knows nobody. Level 1 ([`graph`]) is a hash-consed tensor graph whose operators are defined
//! one per file in [`ops`]; level 2 ([`kernel`], [`program`]) is what code generators read. [`interp`] is the
//! meaning of both. [`exec`] is the contract with the runtime.

mod attend;
pub mod attr;
pub mod builder;
pub mod checks;
pub mod device;
pub mod distinct;
pub mod dtype;
pub mod env;
pub mod error;
pub mod exec;
pub mod graph;
pub mod interp;
pub mod kernel;
pub mod limits;
pub mod op;
pub mod ops;
pub mod program;
pub mod sample;
pub mod scalar;
pub mod shape;
pub mod text;
pub mod verify;
pub mod wire;

pub use attr::{Attr, Attrs, AttrsExt, Scalar};
pub use builder::{Builder, Val};
pub use dtype::{Category, DType};
pub use error::{Error, ErrorKind, Loc, Result};
pub use graph::{Graph, Node, NodeId};
pub use op::{Kind, Op, OpDef, View};
pub use scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
pub use shape::{Dims, Ints, Shape, Type};
