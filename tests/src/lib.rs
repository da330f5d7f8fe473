//! Tests across the torsh crates: the file test harness, random values and graphs, and how results are
//! compared.

pub mod c_library;
pub mod compare;
pub mod cuda;
pub mod cuda_mutants;
pub mod far;
pub mod filetest;
pub mod fuzz;
pub mod matrix;
pub mod values;
