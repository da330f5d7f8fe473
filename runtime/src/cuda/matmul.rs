//! Matrix products by cublasLt, where it is installed. Algorithms are chosen once per shape.

use super::libraries;
use crate::sys::cuda::cublaslt::{self, CublasLt, Matrix, Product};
use crate::sys::cuda::driver::Context;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use torsh_codegen::cuda::{Compute, MatmulPlan, MatrixLayout};
use torsh_ir::{Error, Result, env};

/// More shapes than this, and the list of algorithms is begun anew.
const MAX_PLANS: usize = 4096;
/// What cublasLt asks of addresses at most.
const ALIGNMENT: u32 = 256;

/// cublasLt on one device, opened when the first product wants it.
pub(crate) struct Blas {
    context: Arc<Context>,
    places: Vec<std::ffi::OsString>,
    library: OnceLock<Option<Arc<CublasLt>>>,
    plans: Mutex<HashMap<Product, Option<Arc<cublaslt::Plan>>>>,
}

/// A product that the library computes.
pub(crate) struct LibraryProduct {
    pub plan: Arc<cublaslt::Plan>,
    /// Addresses of the operands and the result, as the library names them.
    pub a: u64,
    pub b: u64,
    pub d: u64,
}

impl Blas {
    pub fn new(context: &Arc<Context>, folders: &[PathBuf], max_version: Option<u32>) -> Blas {
        let driver = context.device().driver();
        let simulator = driver.is_simulator().then(|| Path::new(driver.name()));
        let places = libraries::cublaslt(folders, max_version, simulator);
        Blas { context: context.clone(), places, library: OnceLock::new(), plans: Mutex::default() }
    }

    /// The library; `None` where there is none. One that the environment names must be there.
    fn library(&self) -> Result<Option<&Arc<CublasLt>>> {
        if let Some(known) = self.library.get() {
            return Ok(known.as_ref());
        }
        let mut tried = Vec::new();
        let found = self.places.iter().find_map(|name| match CublasLt::open(name, &self.context) {
            Ok(library) => Some(Arc::new(library)),
            Err(e) => {
                tried.push(e);
                None
            }
        });
        if found.is_none() && !self.places.is_empty() && env::cublaslt().is_some() {
            return Err(Error::device(format!("TORSH_CUBLASLT names no cublasLt that works: {}", tried.join("; "))));
        }
        Ok(self.library.get_or_init(|| found).as_ref())
    }

    /// How the library computes a product on these addresses; `None` where it does not.
    pub fn product(&self, plan: &MatmulPlan, address: &dyn Fn(&MatrixLayout) -> u64) -> Result<Option<LibraryProduct>> {
        let Some(library) = self.library()? else { return Ok(None) };
        // Rows here are columns there, so it computes the transposed product of the transposed operands.
        let (a, b, d) = (address(&plan.rhs), address(&plan.lhs), address(&plan.out));
        let shape = (plan.m, plan.n, plan.k);
        let Some(product) = transposed(plan, shape, [a, b, d]) else { return Ok(None) };
        let known = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&product).cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let new = library.plan(&product)?.map(Arc::new);
                let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
                if plans.len() >= MAX_PLANS {
                    plans.clear();
                }
                plans.entry(product).or_insert(new).clone()
            }
        };
        Ok(found.map(|plan| LibraryProduct { plan, a, b, d }))
    }
}

/// The largest power of two that an address is a multiple of, as far as it matters.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(ALIGNMENT.trailing_zeros())
}

/// A row-major matrix of `rows` x `cols` as the transposed one of a library whose columns are contiguous.
fn operand(layout: &MatrixLayout, rows: usize, cols: usize, address: u64) -> Option<Matrix> {
    let (rows, cols) = (i64::try_from(rows).ok()?, i64::try_from(cols).ok()?);
    let small = |n: i64| (1..=i64::from(i32::MAX)).contains(&n);
    let new = |stored_rows: i64, stored_cols: i64, stride: i64, transposed| {
        let ld = if stored_cols == 1 { stored_rows } else { stride };
        let fits = small(stored_rows) && small(stored_cols) && small(ld) && ld >= stored_rows;
        fits.then_some(Matrix {
            rows: stored_rows as u64,
            cols: stored_cols as u64,
            ld,
            batch_stride: layout.batch_stride,
            transposed,
            alignment: alignment(address),
        })
    };
    if layout.col_stride == 1 || cols == 1 {
        new(cols, rows, layout.row_stride, false)
    } else if layout.row_stride == 1 || rows == 1 {
        new(rows, cols, layout.col_stride, true)
    } else {
        None
    }
}

fn transposed(plan: &MatmulPlan, (m, n, k): (usize, usize, usize), addresses: [u64; 3]) -> Option<Product> {
    let compute = match plan.compute {
        Compute::F32 => cublaslt::Compute::F32,
        Compute::Tf32 => cublaslt::Compute::Tf32,
        Compute::F64 => cublaslt::Compute::F64,
    };
    let a = operand(&plan.rhs, k, n, addresses[0])?;
    let b = operand(&plan.lhs, m, k, addresses[1])?;
    let d = operand(&plan.out, m, n, addresses[2]).filter(|d| !d.transposed)?;
    let batch = i32::try_from(plan.batch).ok().filter(|&b| b > 0)?;
    Some(Product { dtype: plan.dtype, compute, batch, a, b, d })
}

#[cfg(test)]
mod tests {
    use super::*;
    use torsh_ir::program::BufId;

    fn layout(row_stride: i64, col_stride: i64) -> MatrixLayout {
        MatrixLayout { buf: BufId(0), offset: 0, row_stride, col_stride, batch_stride: 7 }
    }

    #[test]
    fn rows_become_columns() {
        // 3 x 5, contiguous rows.
        let m = operand(&layout(5, 1), 3, 5, 0x100).unwrap();
        assert_eq!((m.rows, m.cols, m.ld, m.transposed, m.alignment), (5, 3, 5, false, 256));
        // The transposed view of a 5 x 3 matrix.
        let m = operand(&layout(1, 3), 3, 5, 0x104).unwrap();
        assert_eq!((m.rows, m.cols, m.ld, m.transposed, m.alignment), (3, 5, 3, true, 4));
        // One row or one column: the stride of the axis of extent 1 says nothing.
        let m = operand(&layout(0, 1), 1, 5, 0).unwrap();
        assert_eq!((m.rows, m.cols, m.ld, m.transposed), (5, 1, 5, false));
        let m = operand(&layout(4, 9), 3, 1, 0).unwrap();
        assert_eq!((m.rows, m.cols, m.ld, m.transposed), (1, 3, 4, false));
        // Rows that overlap, and steps in both directions, are not for the library.
        assert_eq!(operand(&layout(2, 1), 3, 5, 0), None);
        assert_eq!(operand(&layout(10, 2), 3, 5, 0), None);
        assert_eq!(operand(&layout(-5, 1), 3, 5, 0), None);
        assert_eq!(operand(&layout(0, 1), 0, 5, 0), None);
    }
}
