//! Verifier of kernels. Checks:
//! 1. the numbers of grid points, inner points and their product fit in i64;
//! 2. parameters and values exist; a value is defined once, before its uses, and visible where it is used:
//!    in its own stage or an earlier one, a reduction's result only in later stages;
//! 3. a row stage uses no value of a full stage except constants, has no inner stride and no reduction;
//! 4. constants are represented in their dtype; operand and result dtypes are those of `scalar.rs`;
//!    a load has its parameter's dtype, an index is i64, a store's value has its parameter's dtype;
//! 5. an affine map has a stride per axis, and addresses only elements of its parameter;
//! 6. a loaded parameter is declared readable, a stored one writable;
//! 7. distinct points store to distinct elements;
//! 8. every load of a stored parameter has the map of every store, and no load stands after a store.

use super::report::failure;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::{Access, Affine, Domain, Inst, Kernel, Reduce, Stage, Store, ValueId};
use crate::scalar::{BinOp, ReduceOp, ScalarOp, UnOp};
use crate::text::kernel::{Line, lines, op_name};

impl Kernel {
    /// Checks the kernel; the list stands in the docs of `verify/kernel.rs`.
    pub fn verify(&self) -> Result<()> {
        Checker::new(self).run().map_err(|(line, message)| {
            let listing = lines(self);
            let at = listing.iter().position(|(l, _)| *l == line).unwrap_or(0);
            let listing: Vec<String> = listing.into_iter().map(|(_, text)| text).collect();
            failure("kernel", &listing, at, &message, None)
        })
    }
}

/// A line of the listing and what is wrong there.
type Check<T = ()> = std::result::Result<T, (Line, String)>;

/// Where a value is defined.
#[derive(Copy, Clone)]
struct Def {
    stage: usize,
    /// One number per row: row values, constants and reductions.
    row: bool,
    /// A reduction's result is not visible in its own stage.
    reduced: bool,
}

struct Checker<'a> {
    kernel: &'a Kernel,
    defs: Vec<Option<Def>>,
}

impl<'a> Checker<'a> {
    fn new(kernel: &'a Kernel) -> Checker<'a> {
        Checker { kernel, defs: vec![None; kernel.values.len()] }
    }

    fn run(mut self) -> Check {
        let points = self.kernel.grid.iter().chain(&self.kernel.inner);
        let empty = points.clone().any(|&n| n == 0);
        let product = points.clone().try_fold(1i64, |a, &n| a.checked_mul(i64::try_from(n.max(1)).ok()?));
        if product.is_none() {
            return Err((Line::Head, "the number of points does not fit in i64".to_string()));
        }
        for (s, stage) in self.kernel.stages.iter().enumerate() {
            self.stage(s, stage)?;
        }
        if empty { Ok(()) } else { self.in_place() }
    }

    fn stage(&mut self, s: usize, stage: &Stage) -> Check {
        if stage.domain == Domain::Row && !stage.reduces.is_empty() {
            return Err((Line::Stage(s), "a row stage reduces".to_string()));
        }
        for &id in &stage.insts {
            let at = Line::Inst(id);
            self.inst(s, stage.domain, id).map_err(|m| (at, m))?;
        }
        for (i, reduce) in stage.reduces.iter().enumerate() {
            self.reduce(s, reduce).map_err(|m| (Line::Reduce(s, i), m))?;
        }
        for (i, store) in stage.stores.iter().enumerate() {
            self.store(s, stage.domain, store).map_err(|m| (Line::Store(s, i), m))?;
        }
        Ok(())
    }

    fn define(&mut self, id: ValueId, def: Def) -> Result<(), String> {
        match self.defs.get_mut(id.0 as usize) {
            None => Err(format!("there is no value v{}", id.0)),
            Some(Some(_)) => Err(format!("v{} is defined twice", id.0)),
            Some(slot) => {
                *slot = Some(def);
                Ok(())
            }
        }
    }

    /// The dtype of a used value, after the checks of visibility.
    fn used(&self, s: usize, domain: Domain, id: ValueId) -> Result<DType, String> {
        let Some(Some(def)) = self.defs.get(id.0 as usize) else {
            return Err(format!("v{} is not defined above", id.0));
        };
        if def.reduced && def.stage >= s {
            return Err(format!("v{} is a reduction of this stage, known only after it", id.0));
        }
        if domain == Domain::Row && !def.row {
            return Err(format!("a row stage uses v{}, a value of inner points", id.0));
        }
        Ok(self.kernel.value(id).dtype)
    }

    fn inst(&mut self, s: usize, domain: Domain, id: ValueId) -> Result<(), String> {
        let Some(value) = self.kernel.values.get(id.0 as usize) else {
            return Err(format!("there is no value v{}", id.0));
        };
        let mut row = domain == Domain::Row;
        match &value.inst {
            Inst::Const(c) => {
                row = true;
                if c.to_dtype(value.dtype) != *c {
                    return Err(format!("{c:?} is not represented in {}", value.dtype));
                }
            }
            Inst::Load { param, index } => {
                let p = self.kernel.params.get(*param as usize).ok_or_else(|| format!("there is no p{param}"))?;
                if p.access == Access::Write {
                    return Err(format!("p{param} is declared write only"));
                }
                if p.dtype != value.dtype {
                    return Err(format!("p{param} holds {}, the value is {}", p.dtype, value.dtype));
                }
                self.affine(domain, index, Some(p.numel))?;
            }
            Inst::Index(index) => {
                if value.dtype != DType::I64 {
                    return Err(format!("an index is int64, not {}", value.dtype));
                }
                self.affine(domain, index, None)?;
            }
            Inst::Op(op, operands) => {
                let dtypes: Vec<DType> =
                    operands.iter().map(|&o| self.used(s, domain, o)).collect::<Result<_, String>>()?;
                scalar_op(*op, &dtypes, value.dtype)?;
            }
            Inst::Reduced => return Err("a reduction's result is not an instruction".to_string()),
        }
        self.define(id, Def { stage: s, row, reduced: false })
    }

    fn reduce(&mut self, s: usize, reduce: &Reduce) -> Result<(), String> {
        let dtype = self.used(s, Domain::Full, reduce.value)?;
        let out = self.kernel.values.get(reduce.out.0 as usize);
        let out = out.ok_or_else(|| format!("there is no value v{}", reduce.out.0))?;
        if out.inst != Inst::Reduced {
            return Err(format!("v{} is not a reduction's result", reduce.out.0));
        }
        let (fits, result) = match reduce.op {
            ReduceOp::Sum | ReduceOp::Prod => (dtype != DType::Bool, dtype),
            ReduceOp::Max | ReduceOp::Min => (true, dtype),
            ReduceOp::Any | ReduceOp::All => (dtype == DType::Bool, dtype),
            ReduceOp::ArgMax | ReduceOp::ArgMin => (true, DType::I64),
        };
        if !fits || out.dtype != result {
            return Err(format!("{} of {dtype} to {}", reduce.op.name(), out.dtype));
        }
        self.define(reduce.out, Def { stage: s, row: true, reduced: true })
    }

    fn store(&self, s: usize, domain: Domain, store: &Store) -> Result<(), String> {
        let dtype = self.used(s, domain, store.value)?;
        let p = self.kernel.params.get(store.param as usize).ok_or_else(|| format!("there is no p{}", store.param))?;
        if p.access == Access::Read {
            return Err(format!("p{} is declared read only", store.param));
        }
        if p.dtype != dtype {
            return Err(format!("p{} holds {}, the value is {dtype}", store.param, p.dtype));
        }
        self.affine(domain, &store.index, Some(p.numel))?;
        if !self.injective(domain, &store.index) {
            return Err("two points store to one element".to_string());
        }
        Ok(())
    }

    fn affine(&self, domain: Domain, index: &Affine, numel: Option<usize>) -> Result<(), String> {
        let axes = self.kernel.grid.len() + self.kernel.inner.len();
        if index.strides.len() != axes {
            return Err(format!("{} strides for {axes} axes", index.strides.len()));
        }
        if domain == Domain::Row && index.strides[self.kernel.grid.len()..].iter().any(|&s| s != 0) {
            return Err("a row stage has an inner stride".to_string());
        }
        let Some((lo, hi)) = self.range(domain, index) else { return Ok(()) };
        let (min, max) = numel.map_or((i128::from(i64::MIN), i128::from(i64::MAX)), |n| (0, n as i128 - 1));
        if lo < min || hi > max {
            return Err(match numel {
                Some(n) => format!("it addresses elements {lo} to {hi} of {n}"),
                None => format!("it ranges from {lo} to {hi}, beyond i64"),
            });
        }
        Ok(())
    }

    /// Extents of the axes that a domain runs over.
    fn extents(&self, domain: Domain) -> impl Iterator<Item = usize> + '_ {
        let inner = self.kernel.inner.iter().map(move |&n| if domain == Domain::Full { n } else { 1 });
        self.kernel.grid.iter().copied().chain(inner)
    }

    /// Smallest and largest value of a map; `None` without points.
    fn range(&self, domain: Domain, index: &Affine) -> Option<(i128, i128)> {
        let (mut lo, mut hi) = (i128::from(index.offset), i128::from(index.offset));
        for (n, &stride) in self.extents(domain).zip(&index.strides) {
            let reach = i128::from(stride) * (n as i128).checked_sub(1).filter(|&n| n >= 0)?;
            lo += reach.min(0);
            hi += reach.max(0);
        }
        Some((lo, hi))
    }

    /// True when distinct points have distinct addresses: each stride steps over all that the smaller ones
    /// reach. Every map that lowering makes is of this form.
    fn injective(&self, domain: Domain, index: &Affine) -> bool {
        if self.range(domain, index).is_none() {
            return true;
        }
        let axes = self.extents(domain).zip(&index.strides).filter(|(n, _)| *n > 1);
        let mut axes: Vec<(u64, u64)> = axes.map(|(n, s)| (s.unsigned_abs(), n as u64)).collect();
        axes.sort_unstable();
        let mut reach: u128 = 0;
        for (stride, n) in axes {
            if u128::from(stride) <= reach {
                return false;
            }
            reach += u128::from(stride) * u128::from(n - 1);
        }
        true
    }

    /// Loads of a stored parameter.
    fn in_place(&self) -> Check {
        for p in 0..self.kernel.params.len() as u32 {
            conflict(self.kernel, p, p).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

/// What stands against `loaded` and `stored` being the same memory: the line and the reason.
pub(super) fn conflict(kernel: &Kernel, loaded: u32, stored: u32) -> Option<(Line, String)> {
    let mut stores: Vec<(usize, &Affine)> = Vec::new();
    for (s, stage) in kernel.stages.iter().enumerate() {
        for store in stage.stores.iter().filter(|st| st.param == stored) {
            stores.push((s, &store.index));
        }
    }
    let first = stores.iter().map(|(s, _)| *s).min()?;
    for (s, stage) in kernel.stages.iter().enumerate() {
        for &id in &stage.insts {
            let Some(Inst::Load { param, index }) = kernel.values.get(id.0 as usize).map(|v| &v.inst) else { continue };
            if *param != loaded {
                continue;
            }
            if stores.iter().any(|(_, map)| !same_map(kernel, map, index)) {
                return Some((Line::Inst(id), format!("p{loaded} is stored in place through another map")));
            }
            if s > first {
                return Some((Line::Inst(id), format!("p{loaded} is loaded after it was stored in place")));
            }
        }
    }
    None
}

/// True when two maps give the same address at every point; strides of axes of one point do not count.
fn same_map(kernel: &Kernel, a: &Affine, b: &Affine) -> bool {
    let extents = kernel.grid.iter().chain(&kernel.inner);
    a.offset == b.offset && extents.zip(a.strides.iter().zip(&b.strides)).all(|(&n, (x, y))| n <= 1 || x == y)
}

/// Checks the dtypes of a scalar operation.
fn scalar_op(op: ScalarOp, x: &[DType], out: DType) -> Result<(), String> {
    let wrong = || {
        let names: Vec<&str> = x.iter().map(|d| d.short()).collect();
        format!("{}({}) does not give {}", op_name(op), names.join(", "), out.short())
    };
    if x.len() != op.arity() {
        return Err(format!("{} takes {} operands, got {}", op_name(op), op.arity(), x.len()));
    }
    let a = x[0];
    let bits = !a.is_float();
    let ok = match op {
        ScalarOp::Un(op) => {
            a == out
                && match op {
                    UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => true,
                    UnOp::Not => bits,
                    _ => a.is_float(),
                }
        }
        ScalarOp::Bin(BinOp::Philox) => a == DType::I64 && x[1] == DType::I64 && out == DType::I32,
        ScalarOp::Bin(op) => {
            x[1] == a
                && out == a
                && match op {
                    BinOp::Div | BinOp::Atan2 => a.is_float(),
                    BinOp::And | BinOp::Or | BinOp::Xor => bits,
                    BinOp::Shl | BinOp::Shr => a.is_int(),
                    _ => true,
                }
        }
        ScalarOp::Cmp(_) => x[1] == a && out == DType::Bool,
        ScalarOp::Select => a == DType::Bool && x[1] == out && x[2] == out,
        ScalarOp::Cast => true,
        ScalarOp::Bitcast => a.size() == out.size() && (a == DType::Bool) == (out == DType::Bool),
    };
    if ok { Ok(()) } else { Err(wrong()) }
}
