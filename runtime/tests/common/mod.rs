//! Helpers of the runtime's tests: programs of one kernel, and their comparison with the interpreter.

// Each test file uses its own share of this.
#![allow(dead_code, reason = "shared between test files")]

use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::interp::{HostTensor, run_program};
use torsh_ir::kernel::{Access, Affine, Inst, Kernel, Param, Value, ValueId};
use torsh_ir::program::{BufDecl, BufId, Place, Program, Step, StepOp};
use torsh_ir::scalar::ScalarOp;
use torsh_ir::shape::{Shape, Type};
use torsh_ir::{DType, Scalar};
use torsh_runtime::CpuExecutor;

/// A small deterministic generator (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A kernel under construction.
pub struct Make(pub Kernel);

impl Make {
    pub fn new(grid: &[usize], inner: &[usize]) -> Make {
        Make(Kernel {
            name: "test".to_string(),
            params: Vec::new(),
            grid: grid.iter().copied().collect(),
            inner: inner.iter().copied().collect(),
            values: Vec::new(),
            stages: Vec::new(),
        })
    }
    pub fn param(&mut self, dtype: DType, numel: usize, access: Access) -> u32 {
        self.0.params.push(Param { dtype, numel, access });
        self.0.params.len() as u32 - 1
    }
    pub fn value(&mut self, inst: Inst, dtype: DType) -> ValueId {
        self.0.values.push(Value { inst, dtype });
        ValueId(self.0.values.len() as u32 - 1)
    }
    pub fn load(&mut self, param: u32, offset: i64, strides: &[i64]) -> ValueId {
        let dtype = self.0.params[param as usize].dtype;
        self.value(Inst::Load { param, index: affine(offset, strides) }, dtype)
    }
    pub fn constant(&mut self, x: f64, dtype: DType) -> ValueId {
        self.value(Inst::Const(Scalar::Float(x).to_dtype(dtype)), dtype)
    }
    pub fn op(&mut self, op: ScalarOp, args: &[ValueId], dtype: DType) -> ValueId {
        self.value(Inst::Op(op, args.iter().copied().collect()), dtype)
    }
}

pub fn affine(offset: i64, strides: &[i64]) -> Affine {
    Affine { offset, strides: strides.iter().copied().collect() }
}

/// A program that runs one kernel: what it reads are inputs, what it writes outputs, what it updates
/// donated inputs.
pub fn program(kernel: Kernel) -> Program {
    let mut p = Program::default();
    let mut args = Vec::new();
    for param in &kernel.params {
        let ty = Type::new(param.dtype, Shape::of(&[param.numel]));
        let id = BufId(p.buffers.len() as u32);
        let place = match param.access {
            Access::Read => Place::Input(p.inputs.len() as u32),
            Access::Write => Place::Output,
            Access::ReadWrite => Place::Donated(p.inputs.len() as u32),
        };
        if param.access != Access::Write {
            p.inputs.push(ty.clone());
        }
        if param.access != Access::Read {
            p.outputs.push(id);
            p.peak_bytes += ty.nbytes();
        }
        p.buffers.push(BufDecl { ty, place });
        args.push(id);
    }
    p.steps.push(Step { op: StepOp::Kernel { kernel: Arc::new(kernel), args }, ops: vec!["test"], loc: None });
    p
}

/// Inputs for a program: numbers on which sums are exact, and some special values.
pub fn inputs(p: &Program, rng: &mut Rng) -> Vec<HostTensor> {
    let make = |ty: &Type| {
        HostTensor::from_fn(ty.clone(), |_| {
            let small = rng.below(129) as f64 - 64.0;
            let x = match rng.below(60) {
                0 if ty.dtype.is_float() => f64::NAN,
                1 if ty.dtype.is_float() => f64::INFINITY,
                2 => -0.0,
                _ if ty.dtype.is_float() => small / 8.0,
                _ => small,
            };
            Scalar::Float(x).to_dtype(ty.dtype)
        })
    };
    p.inputs.iter().map(make).collect()
}

/// Runs a program on an executor with host tensors; `keep` holds a second reference to each input.
pub fn run_on(exec: &CpuExecutor, p: &Program, inputs: &[HostTensor], keep: bool) -> Vec<HostTensor> {
    let exe = exec.load(Arc::new(p.clone())).unwrap();
    let mut buffers: Vec<BufferRef> = inputs.iter().map(|t| exec.upload(&t.ty, &t.to_bytes()).unwrap()).collect();
    let kept = if keep { buffers.clone() } else { Vec::new() };
    let out = exe.run(&mut buffers).unwrap();
    for (before, after) in inputs.iter().zip(&kept) {
        assert_eq!(before.to_bytes(), after.host_bytes().unwrap(), "an input that is still referenced changed");
    }
    let types = p.outputs.iter().map(|o| p.buffers[o.0 as usize].ty.clone());
    types.zip(out).map(|(ty, b)| HostTensor::from_bytes(ty, b.host_bytes().unwrap()).unwrap()).collect()
}

/// Asserts equality; any NaN equals any NaN, floats may differ by `tolerance` relative.
pub fn assert_same(want: &[HostTensor], got: &[HostTensor], tolerance: f64, context: &dyn Fn() -> String) {
    assert_eq!(want.len(), got.len());
    for (o, (w, g)) in want.iter().zip(got).enumerate() {
        // Elements between those that a kernel stores are the interpreter's poison.
        let poison = u64::MAX >> (64 - 8 * w.dtype().size()) & 0xA5A5_A5A5_A5A5_A5A5;
        for i in (0..w.len()).filter(|&i| w.bits(i) != poison) {
            let (x, y) = (w.get(i), g.get(i));
            let same = match (x, y) {
                (Scalar::Float(a), Scalar::Float(b)) => {
                    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(b.abs())
                }
                _ => x == y,
            };
            assert!(same, "output {o} element {i}: want {x:?}, got {y:?}\n{}", context());
        }
    }
}

/// Compares an executor with the interpreter, with inputs given up and kept.
pub fn check(exec: &CpuExecutor, p: &Program, inputs: &[HostTensor], tolerance: f64, label: &str) {
    let want = run_program(p, inputs).unwrap();
    for keep in [false, true] {
        let got = run_on(exec, p, inputs, keep);
        assert_same(&want, &got, tolerance, &|| format!("{label}, keep {keep}\n{}", torsh_ir::text::program(p)));
    }
}
