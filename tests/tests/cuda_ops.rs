//! The op matrix on the CUDA executor over the simulator: NVRTC, the driver's calls, the arena and the launches as on a
//! device, against the interpreter.
//!
//! `TORSH_CUDA_SIM` must name the simulator (`make test-cuda` builds and names it); without it the tests are skipped and
//! say so. A share of the matrix runs by default, all of it in parts with `--run-ignored all` (`make test-cuda-full`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use torsh_ir::exec::{Device, DeviceProvider, Executor};
use torsh_ir::op::Op;
use torsh_ir::{env, ops};
use torsh_runtime::cuda::CudaProvider;
use torsh_tests::fuzz::check::{Backend, check};
use torsh_tests::matrix::{case, layouts};

/// Ops that the code generator still refuses, so that programs with them are an error on a CUDA device.
const HOLES: &[&str] = &[];

fn executor() -> Option<Arc<dyn Executor>> {
    if env::cuda_sim().is_none() {
        println!("skipped: TORSH_CUDA_SIM is not set (`make test-cuda` runs these tests)");
        return None;
    }
    let folders =
        torsh_tests::cuda::nvrtc().and_then(|path| PathBuf::from(path).parent()?.parent()?.parent().map(PathBuf::from));
    let opened = CudaProvider::new(folders.into_iter().collect()).open(Device::Cuda(0));
    Some(opened.unwrap_or_else(|e| panic!("{e}")))
}

/// Runs one of `share` cases, beginning with number `first`.
fn run(first: usize, share: usize) {
    let Some(executor) = executor() else { return };
    let backends = [Backend { name: "cuda".to_string(), executor }];
    let (mut n, mut ran, mut failures, mut refused) = (0, 0, Vec::new(), BTreeSet::new());
    for def in ops::OPS {
        for dtype in def.dtypes.iter() {
            for (i, sample) in (def.samples)().iter().enumerate() {
                for layout in layouts(def, i) {
                    n += 1;
                    if n % share != first {
                        continue;
                    }
                    ran += 1;
                    let checked = case(Op(def), sample, dtype, *layout)
                        .map_err(|e| e.to_string())
                        .and_then(|case| check(&case, &backends).map_err(|f| f.to_string()));
                    match checked {
                        Ok(()) => {}
                        Err(e) if e.contains("no CUDA kernel") => {
                            refused.insert(def.name);
                        }
                        Err(e) => failures.push(format!("{} of {dtype}, sample {i}, {layout:?}: {e}", def.name)),
                    }
                }
            }
        }
    }
    println!("{ran} cases; refused: {refused:?}");
    assert!(failures.is_empty(), "{} of {ran}:\n{}", failures.len(), failures.join("\n"));
    let new: Vec<&&str> = refused.iter().filter(|op| !HOLES.contains(op)).collect();
    assert!(new.is_empty(), "refused, and not among the known holes: {new:?}");
    assert!(ran > 20, "{ran} cases only");
}

#[test]
fn a_share_of_the_matrix() {
    run(5, 53);
}

/// The whole matrix, in parts that can be run by themselves.
macro_rules! parts {
    ($share:literal: $($name:ident $first:literal,)*) => { $(
        #[test]
        #[ignore = "a minute of compilation: make test-cuda-full"]
        fn $name() {
            run($first, $share);
        }
    )* };
}

parts! { 16:
    matrix_0 0,
    matrix_1 1,
    matrix_2 2,
    matrix_3 3,
    matrix_4 4,
    matrix_5 5,
    matrix_6 6,
    matrix_7 7,
    matrix_8 8,
    matrix_9 9,
    matrix_10 10,
    matrix_11 11,
    matrix_12 12,
    matrix_13 13,
    matrix_14 14,
    matrix_15 15,
}
