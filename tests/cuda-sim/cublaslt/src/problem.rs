//! One product: what is checked, and how it is computed.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::driver;
use crate::matrix::{Layout, Rounding, Type};

/// Status codes of cublas.
pub(crate) const NOT_INITIALIZED: i32 = 1;
pub(crate) const INVALID_VALUE: i32 = 7;
pub(crate) const EXECUTION_FAILED: i32 = 13;
pub(crate) const NOT_SUPPORTED: i32 = 15;

/// What follows the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    None,
    Relu,
    Gelu,
}

/// A product descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Desc {
    pub compute: i32,
    pub scale: Type,
    pub trans: [bool; 2],
    pub device_scalars: bool,
    pub activation: Activation,
    pub bias: bool,
    pub bias_at: u64,
    pub bias_ty: Option<Type>,
    pub bias_stride: i64,
}

/// A product without its pointers: what an algorithm is chosen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub desc: Desc,
    pub a: Layout,
    pub b: Layout,
    pub c: Layout,
    pub d: Layout,
}

fn refuse<T>(code: i32, text: impl AsRef<str>) -> Result<T, i32> {
    driver::complain(text.as_ref());
    Err(code)
}

/// What a compute type does to the operands, with the type that scales must have; none if it is not known.
fn compute(number: i32) -> Option<(Rounding, Type)> {
    Some(match number {
        64 | 65 => (Rounding::None, Type::F16),
        68 | 69 => (Rounding::None, Type::F32),
        74 => (Rounding::F16, Type::F32),
        75 => (Rounding::Bf16, Type::F32),
        77 => (Rounding::Tf32, Type::F32),
        70 | 71 => (Rounding::None, Type::F64),
        72 | 73 => (Rounding::None, Type::I32),
        _ => return None,
    })
}

/// Types of A, B, C and D that a compute type takes.
fn types_ok(number: i32, ab: Type, cd: Type) -> bool {
    use Type::{Bf16, F16, F32, F64, I8, I32};
    match number {
        64 | 65 => (ab, cd) == (F16, F16),
        68 | 69 => matches!((ab, cd), (F32, F32) | (F16, F16 | F32) | (Bf16, Bf16 | F32) | (I8, F32)),
        74 | 75 | 77 => (ab, cd) == (F32, F32),
        70 | 71 => (ab, cd) == (F64, F64),
        _ => (ab, cd) == (I8, I32),
    }
}

impl Problem {
    /// A number that two products share only if they are the same but for their pointers.
    pub fn hash(&self) -> u64 {
        let mut h = DefaultHasher::new();
        (Desc { bias_at: 0, ..self.desc }, self.a, self.b, self.c, self.d).hash(&mut h);
        h.finish()
    }

    /// Extents m, n, k.
    fn extents(&self) -> (u64, u64, u64) {
        let k = if self.desc.trans[0] { self.a.rows } else { self.a.cols };
        (self.d.rows, self.d.cols, k)
    }

    /// Everything that can be said without pointers.
    pub fn check(&self) -> Result<(), i32> {
        for (name, l) in [("A", &self.a), ("B", &self.b), ("C", &self.c), ("D", &self.d)] {
            if let Some(p) = l.problem() {
                return refuse(INVALID_VALUE, format!("layout of {name}: {p}"));
            }
        }
        let turn = |l: &Layout, t: bool| if t { (l.cols, l.rows) } else { (l.rows, l.cols) };
        let ((am, ak), (bk, bn)) = (turn(&self.a, self.desc.trans[0]), turn(&self.b, self.desc.trans[1]));
        let (c, d) = ((self.c.rows, self.c.cols), (self.d.rows, self.d.cols));
        if ak != bk || (am, bn) != d || c != d {
            let text = format!("shapes do not fit: op(A) {am} x {ak}, op(B) {bk} x {bn}, C {c:?}, D {d:?}");
            return refuse(INVALID_VALUE, text);
        }
        let n = self.d.batch;
        if [self.a.batch, self.b.batch, self.c.batch].iter().any(|b| *b != n) {
            let text =
                format!("batch counts differ: A {}, B {}, C {}, D {n}", self.a.batch, self.b.batch, self.c.batch);
            return refuse(INVALID_VALUE, text);
        }
        if n > 1 && self.d.stride.unsigned_abs() < self.d.span() {
            let text = format!("results of the batch overlap: stride {}, span {}", self.d.stride, self.d.span());
            return refuse(INVALID_VALUE, text);
        }
        let Some((_, scale)) = compute(self.desc.compute) else {
            return refuse(NOT_SUPPORTED, format!("compute type {}", self.desc.compute));
        };
        if self.a.ty != self.b.ty || self.c.ty != self.d.ty || !types_ok(self.desc.compute, self.a.ty, self.d.ty) {
            let text = format!(
                "types A {:?}, B {:?}, C {:?}, D {:?} with compute type {}",
                self.a.ty, self.b.ty, self.c.ty, self.d.ty, self.desc.compute
            );
            return refuse(NOT_SUPPORTED, text);
        }
        if self.desc.scale != scale {
            let text = format!("scale type {:?}, compute type {} needs {scale:?}", self.desc.scale, self.desc.compute);
            return refuse(NOT_SUPPORTED, text);
        }
        if self.desc.device_scalars {
            return refuse(NOT_SUPPORTED, "alpha and beta in device memory");
        }
        Ok(())
    }
}

/// A product with its pointers, ready to be computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub p: Problem,
    pub alpha: f64,
    pub beta: f64,
    pub at: [u64; 4],
    pub workspace: (u64, u64),
    /// Alignments of A, B, C and D that the algorithm was chosen for.
    pub align: [u32; 4],
}

impl Job {
    fn bias_type(&self) -> Type {
        self.p.desc.bias_ty.unwrap_or(self.p.d.ty)
    }

    /// Everything that pointers decide.
    pub fn check(&self) -> Result<(), i32> {
        let layouts = [&self.p.a, &self.p.b, &self.p.c, &self.p.d];
        let mut extents = [(0, 0); 4];
        for (k, name) in ["A", "B", "C", "D"].iter().enumerate() {
            if k == 2 && self.beta == 0.0 {
                continue;
            }
            let (l, at) = (layouts[k], self.at[k]);
            let align = u64::from(self.align[k]).max(l.ty.bytes());
            if !at.is_multiple_of(align) {
                let text = format!("{name} at {at:#x} is no multiple of {align}, for which the algorithm was chosen");
                return refuse(INVALID_VALUE, text);
            }
            let (first, bytes) = l.extent(at);
            if driver::range(first, bytes).is_none() {
                // The driver has left its own text; this one says whose bytes they are.
                let text = format!("{name}: {bytes} bytes at {first:#x} are not inside one live allocation ({l:?})");
                return refuse(INVALID_VALUE, text);
            }
            extents[k] = (first, bytes);
        }
        let meet = |x: (u64, u64), y: (u64, u64)| x.1 > 0 && y.1 > 0 && x.0 < y.0 + y.1 && y.0 < x.0 + x.1;
        for (k, name) in ["A", "B"].iter().enumerate() {
            if meet(extents[k], extents[3]) {
                return refuse(INVALID_VALUE, format!("D overlaps {name}"));
            }
        }
        if meet(extents[2], extents[3]) && (self.at[2] != self.at[3] || self.p.c != self.p.d) {
            return refuse(INVALID_VALUE, "D overlaps C without being the same matrix");
        }
        if self.workspace.1 > 0 {
            if !self.workspace.0.is_multiple_of(256) || driver::range(self.workspace.0, self.workspace.1).is_none() {
                let (at, n) = self.workspace;
                return refuse(INVALID_VALUE, format!("workspace of {n} bytes at {at:#x}"));
            }
            if extents.iter().any(|e| meet(*e, self.workspace)) {
                return refuse(INVALID_VALUE, "the workspace overlaps an operand");
            }
        }
        if self.p.desc.bias {
            let (n, at) = (self.p.d.rows, self.p.desc.bias_at);
            let far = self.p.desc.bias_stride.unsigned_abs() * (self.p.d.batch as u64 - 1);
            if driver::range(at, (n + far) * self.bias_type().bytes()).is_none() {
                return refuse(
                    INVALID_VALUE,
                    format!("bias of {n} elements at {at:#x} is not inside one live allocation"),
                );
            }
        }
        Ok(())
    }

    /// Computes the product; gives the driver's code when memory is not as it was.
    pub fn run(&self) -> Result<(), i32> {
        let p = &self.p;
        let (m, n, k) = p.extents();
        let (m, n, k) = (m as usize, n as usize, k as usize);
        let rounding = compute(p.desc.compute).map_or(Rounding::None, |c| c.0);
        if self.workspace.1 > 0 {
            driver::write(self.workspace.0, &vec![0xee; self.workspace.1 as usize])?;
        }
        for batch in 0..p.d.batch {
            // A by rows and B by columns, so that a sum runs over neighbours.
            let pick = |l: &Layout, at: u64, flip: bool, outer: usize| -> Result<Vec<f64>, i32> {
                let data = l.read(at, batch)?;
                let cols = l.cols as usize;
                let at = |o: usize, i: usize| if flip { i * cols + o } else { o * cols + i };
                Ok((0..outer)
                    .flat_map(|o| (0..k).map(move |i| (o, i)))
                    .map(|(o, i)| rounding.apply(data[at(o, i)]))
                    .collect())
            };
            let a = pick(&p.a, self.at[0], p.desc.trans[0], m)?;
            let b = pick(&p.b, self.at[1], !p.desc.trans[1], n)?;
            let c = if self.beta == 0.0 { vec![0.0; m * n] } else { p.c.read(self.at[2], batch)? };
            let bias = self.bias(batch)?;
            let mut d = vec![0.0; m * n];
            for row in 0..m {
                for col in 0..n {
                    let (x, y) = (&a[row * k..(row + 1) * k], &b[col * k..(col + 1) * k]);
                    let sum: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                    let i = row * n + col;
                    let scaled = if self.beta == 0.0 { self.alpha * sum } else { self.alpha * sum + self.beta * c[i] };
                    d[i] = activate(p.desc.activation, scaled + bias.get(row).copied().unwrap_or(0.0));
                }
            }
            p.d.write(self.at[3], batch, &d)?;
        }
        Ok(())
    }

    fn bias(&self, batch: i32) -> Result<Vec<f64>, i32> {
        if !self.p.desc.bias {
            return Ok(Vec::new());
        }
        let ty = self.bias_type();
        let size = ty.bytes() as usize;
        let at = self.p.desc.bias_at.wrapping_add_signed(self.p.desc.bias_stride * i64::from(batch) * size as i64);
        let mut buf = vec![0; self.p.d.rows as usize * size];
        driver::read(at, &mut buf)?;
        Ok(buf.chunks_exact(size).map(|b| ty.decode(b)).collect())
    }
}

fn activate(f: Activation, x: f64) -> f64 {
    match f {
        Activation::None => x,
        Activation::Relu => {
            if x > 0.0 || x.is_nan() {
                x
            } else {
                0.0
            }
        }
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}
