//! The reference interpreter: the meaning of the IR. Slow, obvious, and independent of every pass and
//! backend.
//!
//! [`eval_graph`] is the meaning of level 1: elementwise ops by `scalar.rs`, other primitives by their
//! `eval`, composites by their decomposition. [`run_program`] is the meaning of level 2: kernels as
//! [`kernel`](crate::kernel) says, over real bytes where buffers may overlap, so that a wrong memory plan
//! gives wrong numbers here too. [`InterpExecutor`] puts both behind the runtime's contract.

mod exec;
mod fold;
mod graph;
mod host;
mod kernel;
mod memory;
mod program;
mod scalar_op;
mod scan;

pub use exec::{GraphExecutable, HostBuffer, InterpExecutor};
pub use graph::{Observer, eval_graph, eval_graph_with, expand_composites};
pub use host::HostTensor;
pub use program::run_program;
pub use scan::scan;

use crate::error::Result;
use crate::scalar::ReduceOp;
use crate::shape::Type;
use fold::Fold;

/// Folds `x` into the shape of `ty`, whose reduced dims are 1, in row-major order. Sum and Prod of floats
/// accumulate in f64 and round once. ArgMax/ArgMin give the row-major position among the reduced dims.
pub fn reduce(op: ReduceOp, x: &HostTensor, ty: &Type) -> Result<HostTensor> {
    let (in_shape, out_strides) = (&x.ty.shape, ty.shape.strides());
    let in_strides = in_shape.strides();
    let mut folds = vec![Fold::new(op, x.dtype()); ty.numel()];
    for i in 0..x.len() {
        let mut o = 0;
        for d in 0..in_shape.rank() {
            if ty.shape[d] != 1 {
                o += i / in_strides[d] as usize % in_shape[d] * out_strides[d] as usize;
            }
        }
        folds[o].push(x.get(i));
    }
    Ok(HostTensor::from_fn(ty.clone(), |i| folds[i].finish()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Executable, Executor};
    use crate::{Builder, DType, Graph, Scalar, Shape};

    fn tensor(shape: &[usize], values: &[f64]) -> HostTensor {
        HostTensor::from_fn(Type::new(DType::F32, Shape::of(shape)), |i| Scalar::Float(values[i]))
    }

    fn softmax_graph() -> Graph {
        let b = Builder::new(Graph::new());
        let x = b.input(Type::new(DType::F32, Shape::of(&[2, 2])));
        let y = b.op("softmax", &[x], &[crate::Attr::Int(1)]).id();
        let mut g = b.finish().unwrap();
        g.set_outputs(vec![y]);
        g
    }

    #[test]
    fn a_composite_means_its_decomposition() {
        let out = eval_graph(&softmax_graph(), &[tensor(&[2, 2], &[0.0, 0.0, 1.0, 1.0])]).unwrap();
        assert_eq!(out[0].to_f64(), vec![0.5; 4]);
    }

    #[test]
    fn an_executable_of_a_graph_counts_its_memory() {
        let exec = InterpExecutor::new();
        let loaded = exec.load_graph(softmax_graph());
        let ty = Type::new(DType::F32, Shape::of(&[2, 2]));
        let mut inputs = vec![exec.upload(&ty, &[0; 16]).unwrap()];
        let out = loaded.run(&mut inputs).unwrap();
        assert_eq!(out[0].host_bytes().unwrap()[..4], 0.5f32.to_le_bytes());
        assert_eq!(exec.memory_stats().live, 32);
        drop((inputs, out));
        assert_eq!((exec.memory_stats().live, exec.memory_stats().peak), (0, 32));
        exec.set_memory_limit(8);
        assert_eq!(exec.upload(&ty, &[0; 16]).err().unwrap().kind(), crate::ErrorKind::Limit);
    }

    #[test]
    fn stages_see_rows_and_inner_points() {
        let program = crate::verify::examples::program();
        let out = run_program(&program, &[tensor(&[2, 3], &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0])]).unwrap();
        let e = f64::from(std::f32::consts::E);
        assert_eq!(out[0].to_f64(), [0.0, 0.0, 0.0, 1.0, e, 1.0]);
    }
}
