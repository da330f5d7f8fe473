//! Tests across the torsh crates: the file test harness, random values and graphs, and how results are
//! compared.

pub mod compare;
pub mod far;
pub mod filetest;
pub mod fuzz;
pub mod values;
