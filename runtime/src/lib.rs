//! Executes torsh programs on the CPU: machine code from `torsh-codegen`, precompiled block primitives,
//! library calls, memory and threads. All `unsafe` of the crate is in [`sys`].

pub mod sys;
