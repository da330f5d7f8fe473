//! Meaning of programs.

use super::graph::check_inputs;
use super::memory::Memory;
use super::{HostTensor, kernel};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::EvalCall;
use crate::ops;
use crate::program::{Attend, BufId, DotOperand, DotStep, LibCall, Program, Step, StepOp, digits_at};
use crate::scalar::{self, BinOp, ReduceOp, from_bits, to_bits};

/// Runs a program on one tensor per input; gives one tensor per output. Every input counts as given up:
/// donated buffers are written in place (in this run's own copy).
pub fn run_program(program: &Program, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    check_inputs(&program.inputs, inputs)?;
    let mut memory = Memory::new(program, inputs)?;
    for step in &program.steps {
        run_step(step, &mut memory).map_err(|e| {
            let e = e.with_loc(step.loc.clone());
            step.ops.last().map_or(e.clone(), |op| e.with_op(op))
        })?;
    }
    program.outputs.iter().map(|&o| memory.tensor(o)).collect()
}

fn run_step(step: &Step, memory: &mut Memory) -> Result<()> {
    match &step.op {
        StepOp::Kernel { kernel, args } => kernel::run(kernel, args, memory),
        StepOp::Dot(dot) => run_dot(dot, memory),
        StepOp::Lib { call, args, out } => run_lib(call, args, *out, memory),
    }
}

/// Products are summed in f64 and rounded once; integers wrap. Each element is stored as soon as it is
/// known, so a result that overlaps an operand gives wrong numbers.
fn run_dot(dot: &DotStep, memory: &mut Memory) -> Result<()> {
    let dtype = memory.ty(dot.out)?.dtype;
    let wide = if dtype.is_float() { DType::F64 } else { dtype };
    let batches: usize = dot.batch.iter().product();
    let mut at = 0;
    for b in 0..batches {
        let (l0, r0) = (batch_offset(&dot.lhs, &dot.batch, b), batch_offset(&dot.rhs, &dot.batch, b));
        for m in 0..dot.m {
            let l0 = l0 + digits_at(&dot.lhs.rows, m);
            for n in 0..dot.n {
                let r0 = r0 + digits_at(&dot.rhs.cols, n);
                let mut acc = scalar::identity(ReduceOp::Sum, wide);
                for k in 0..dot.k {
                    let l = memory.load(dot.lhs.buf, l0 + digits_at(&dot.lhs.cols, k))?;
                    let r = memory.load(dot.rhs.buf, r0 + digits_at(&dot.rhs.rows, k))?;
                    let p = scalar::eval_bin(BinOp::Mul, from_bits(l, dtype), from_bits(r, dtype), wide);
                    acc = scalar::eval_bin(BinOp::Add, acc, p, wide);
                }
                memory.store(dot.out, at, to_bits(acc.to_dtype(dtype), dtype))?;
                at += 1;
            }
        }
    }
    Ok(())
}

fn batch_offset(x: &DotOperand, batch: &[usize], b: usize) -> i64 {
    batch_at(x.offset, &x.batch_strides, batch, b)
}

fn batch_at(mut at: i64, strides: &[i64], batch: &[usize], mut b: usize) -> i64 {
    for (&n, &s) in batch.iter().zip(strides).rev() {
        at += (b % n) as i64 * s;
        b /= n;
    }
    at
}

/// A library call means what the tensor op of that name means.
fn run_lib(call: &LibCall, args: &[BufId], out: BufId, memory: &mut Memory) -> Result<()> {
    let Some((name, attrs)) = call.tensor_op() else {
        let value = match (call, args) {
            (LibCall::Fill(value), _) => HostTensor::from_fn(memory.ty(out)?.clone(), |_| *value),
            (_, [from]) => memory.tensor(*from)?,
            _ => return Err(Error::internal("copy takes one buffer")),
        };
        return memory.write(out, &value);
    };
    let op = ops::find(name).ok_or_else(|| Error::internal(format!("no op named {name}")))?;
    let eval = op.eval.ok_or_else(|| Error::internal(format!("{name} has no meaning of its own")))?;
    // Only the base of an update may be its result; any other overlap must show.
    let in_place = matches!(call, LibCall::Scatter { .. } | LibCall::IndexPut { .. })
        && match args.first() {
            Some(&base) => memory.same_place(base, out)?,
            None => false,
        };
    if !in_place {
        memory.poison(out)?;
    }
    let x: Vec<HostTensor> = match call.attend() {
        Some(attend) => gather(attend, matches!(call, LibCall::Attention(_)), args, memory)?,
        None => args.iter().map(|&a| memory.tensor(a)).collect::<Result<_>>()?,
    };
    let types: Vec<_> = x.iter().map(|t| t.ty.clone()).collect();
    let ty = op.infer(&types, &attrs)?;
    let refs: Vec<&HostTensor> = x.iter().collect();
    let value = eval(&EvalCall { x: &refs, attrs: &attrs, ty: &ty })?;
    memory.write(out, &value)
}

/// Contiguous copies of the operands of an attention.
fn gather(attend: &Attend, forward: bool, args: &[BufId], memory: &Memory) -> Result<Vec<HostTensor>> {
    let mask = match args.get(3) {
        Some(&mask) if attend.mask => memory.ty(mask)?.dtype,
        _ => DType::Bool,
    };
    let mut out = Vec::with_capacity(args.len());
    let types = attend.types(forward, mask);
    for (((ty, (rows, cols, batched)), side), &arg) in
        types.into_iter().zip(attend.extents(forward)).zip(&attend.sides).zip(args)
    {
        let mut bits = Vec::with_capacity(ty.numel());
        let batches: usize = if batched { attend.batch.iter().product() } else { 1 };
        for b in 0..batches {
            let at = batch_at(side.offset, &side.batch, &attend.batch, if batched { b } else { 0 });
            for i in 0..rows as i64 {
                for j in 0..cols as i64 {
                    bits.push(memory.load(arg, at + i * side.row + j * side.col)?);
                }
            }
        }
        out.push(HostTensor::from_bits(ty, bits));
    }
    Ok(out)
}
