//! A correct kernel and program, for tests to break.

use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Param, Reduce, Stage, Store, Value, ValueId};
use crate::program::{BufDecl, BufId, Place, Program, Step, StepOp};
use crate::scalar::{BinOp, ReduceOp, ScalarOp, UnOp};
use crate::{DType, Shape, Type};
use smallvec::smallvec;
use std::sync::Arc;

/// An affine map from the origin.
pub(crate) fn at(strides: &[i64]) -> Affine {
    Affine { offset: 0, strides: strides.into() }
}

/// Row sums of p0 to p1, then `exp(x) * sum` to p2.
pub(crate) fn kernel() -> Kernel {
    let value = |inst| Value { inst, dtype: DType::F32 };
    let (load, sum, exp, mul) = (ValueId(0), ValueId(1), ValueId(2), ValueId(3));
    let param = |numel, access| Param { dtype: DType::F32, numel, access };
    Kernel {
        name: "sum_exp_mul".into(),
        params: vec![param(6, Access::Read), param(2, Access::Write), param(6, Access::Write)],
        grid: smallvec![2],
        inner: smallvec![3],
        values: vec![
            value(Inst::Load { param: 0, index: at(&[3, 1]) }),
            value(Inst::Reduced),
            value(Inst::Op(ScalarOp::Un(UnOp::Exp), smallvec![load])),
            value(Inst::Op(ScalarOp::Bin(BinOp::Mul), smallvec![exp, sum])),
        ],
        stages: vec![
            Stage {
                domain: Domain::Full,
                insts: vec![load],
                reduces: vec![Reduce { op: ReduceOp::Sum, value: load, out: sum }],
                stores: vec![],
            },
            Stage {
                domain: Domain::Row,
                insts: vec![],
                reduces: vec![],
                stores: vec![Store { param: 1, index: at(&[1, 0]), value: sum }],
            },
            Stage {
                domain: Domain::Full,
                insts: vec![exp, mul],
                reduces: vec![],
                stores: vec![Store { param: 2, index: at(&[3, 1]), value: mul }],
            },
        ],
    }
}

/// The kernel on an input, its sums in the arena.
pub(crate) fn program() -> Program {
    let x = Type::new(DType::F32, Shape::of(&[2, 3]));
    let decl = |ty: &Type, place| BufDecl { ty: ty.clone(), place };
    Program {
        buffers: vec![
            decl(&x, Place::Input(0)),
            decl(&Type::new(DType::F32, Shape::of(&[2, 1])), Place::Arena { offset: 64 }),
            decl(&x, Place::Output),
        ],
        steps: vec![Step {
            op: StepOp::Kernel { kernel: Arc::new(kernel()), args: vec![BufId(0), BufId(1), BufId(2)] },
            ops: vec!["sum"],
            loc: None,
        }],
        inputs: vec![x],
        outputs: vec![BufId(2)],
        arena_bytes: 128,
        peak_bytes: 152,
        ..Program::default()
    }
}
