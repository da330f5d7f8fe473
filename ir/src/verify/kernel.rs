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
        let uses = Uses::of(self.kernel);
        for p in 0..self.kernel.params.len() as u32 {
            uses.conflict(p, p).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

/// Stores of a parameter: the stage of the first, its map, and whether all the others have the same.
struct Stores<'k> {
    stage: usize,
    map: &'k Affine,
    uniform: bool,
}

/// Where a kernel loads and stores each parameter.
pub(super) struct Uses<'k> {
    kernel: &'k Kernel,
    loads: Vec<Vec<(usize, ValueId, &'k Affine)>>,
    stores: Vec<Option<Stores<'k>>>,
}

impl<'k> Uses<'k> {
    pub(super) fn of(kernel: &'k Kernel) -> Uses<'k> {
        let n = kernel.params.len();
        let mut uses = Uses { kernel, loads: vec![Vec::new(); n], stores: (0..n).map(|_| None).collect() };
        for (s, stage) in kernel.stages.iter().enumerate() {
            for &id in &stage.insts {
                if let Some(Inst::Load { param, index }) = kernel.values.get(id.0 as usize).map(|v| &v.inst)
                    && let Some(loads) = uses.loads.get_mut(*param as usize)
                {
                    loads.push((s, id, index));
                }
            }
            for store in &stage.stores {
                match uses.stores.get_mut(store.param as usize) {
                    Some(Some(known)) => known.uniform &= same_map(kernel, known.map, &store.index),
                    Some(empty) => *empty = Some(Stores { stage: s, map: &store.index, uniform: true }),
                    None => {}
                }
            }
        }
        uses
    }

    /// What stands against `loaded` and `stored` being the same memory: the line and the reason.
    pub(super) fn conflict(&self, loaded: u32, stored: u32) -> Option<(Line, String)> {
        let stores = self.stores.get(stored as usize)?.as_ref()?;
        for &(s, id, index) in self.loads.get(loaded as usize)? {
            // Maps that differ from each other cannot all be that of the load.
            if !stores.uniform || !same_map(self.kernel, stores.map, index) {
                return Some((Line::Inst(id), format!("p{loaded} is stored in place through another map")));
            }
            if s > stores.stage {
                return Some((Line::Inst(id), format!("p{loaded} is loaded after it was stored in place")));
            }
        }
        None
    }
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

#[cfg(test)]
mod tests {
    use super::super::examples::{at, kernel};
    use super::*;
    use crate::attr::Scalar;
    use crate::kernel::Value;
    use smallvec::smallvec;

    /// The example kernel after `change` is refused with `message` under the line that starts with `line`.
    #[track_caller]
    fn refused(change: impl FnOnce(&mut Kernel), line: &str, message: &str) {
        let mut k = kernel();
        change(&mut k);
        let text = k.verify().expect_err("the kernel is wrong").message().to_string();
        let lines: Vec<&str> = text.lines().collect();
        let mark = lines.iter().position(|l| l.trim_start().starts_with("^ ")).expect(&text);
        assert!(lines[mark].contains(message), "{text}");
        assert!(lines[mark - 1].trim_start().starts_with(line), "{text}");
    }

    #[test]
    fn a_correct_kernel_passes_and_prints() {
        let k = kernel();
        k.verify().unwrap();
        let want = "kernel sum_exp_mul grid [2] inner [3] {
  p0: f32[6] read
  p1: f32[2] write
  p2: f32[6] write
  full {
    v0: f32 = load p0[3*g0 + i0]
    v1: f32 = reduce sum v0
  }
  row {
    store p1[g0] = v1
  }
  full {
    v2: f32 = exp(v0)
    v3: f32 = mul(v2, v1)
    store p2[3*g0 + i0] = v3
  }
}
";
        assert_eq!(crate::text::kernel(&k), want);
    }

    #[test]
    fn addresses_stay_inside() {
        let map = |k: &mut Kernel, map| k.stages[2].stores[0].index = map;
        refused(|k| map(k, at(&[3, 2])), "store p2", "addresses elements 0 to 7 of 6");
        refused(|k| map(k, at(&[3, -1])), "store p2", "addresses elements -2 to 3 of 6");
        refused(|k| map(k, at(&[3])), "store p2", "1 strides for 2 axes");
        refused(|k| map(k, at(&[i64::MAX, i64::MAX])), "store p2", "addresses elements 0 to");
        refused(|k| k.params[0].numel = 5, "v0", "addresses elements 0 to 5 of 5");
        refused(|k| k.grid = smallvec![usize::MAX], "kernel", "does not fit in i64");
    }

    #[test]
    fn points_store_to_distinct_elements() {
        refused(|k| k.stages[2].stores[0].index = at(&[1, 1]), "store p2", "two points store to one element");
        refused(|k| k.stages[2].stores[0].index = at(&[3, 0]), "store p2", "two points store to one element");
    }

    #[test]
    fn values_are_defined_and_visible() {
        refused(|k| k.stages[2].insts.swap(0, 1), "v3", "v2 is not defined above");
        refused(|k| k.stages[2].insts.push(ValueId(0)), "v0", "v0 is defined twice");
        refused(|k| k.stages[2].insts.push(ValueId(9)), "v9", "there is no value v9");
        refused(|k| k.stages[1].stores[0].value = ValueId(0), "store p1", "a row stage uses v0");
        let early = |k: &mut Kernel| k.values[2].inst = Inst::Op(ScalarOp::Un(UnOp::Exp), smallvec![ValueId(1)]);
        refused(
            |k| {
                early(k);
                k.stages[2].insts.remove(0);
                k.stages[0].insts.push(ValueId(2));
            },
            "v2",
            "v1 is not defined above",
        );
        refused(|k| k.stages[2].insts.push(ValueId(1)), "v1", "not an instruction");
        refused(|k| k.stages[1].stores[0].index = at(&[1, 1]), "store p1", "a row stage has an inner stride");
    }

    #[test]
    fn dtypes_fit() {
        refused(|k| k.values[2].dtype = DType::F64, "v2", "exp(f32) does not give f64");
        refused(|k| k.params[0].dtype = DType::F16, "v0", "p0 holds float16, the value is float32");
        refused(|k| k.values[1].dtype = DType::F64, "v1", "sum of float32 to float64");
        let constant = |dtype| Value { inst: Inst::Const(Scalar::Float(0.1)), dtype };
        refused(|k| k.values[2] = constant(DType::F32), "v2", "is not represented in float32");
        refused(|k| k.values[2].inst = Inst::Index(at(&[1, 1])), "v2", "an index is int64");
    }

    #[test]
    fn parameters_are_used_as_declared() {
        refused(|k| k.params[2].access = Access::Read, "store p2", "p2 is declared read only");
        refused(|k| k.params[0].access = Access::Write, "v0", "p0 is declared write only");
    }

    #[test]
    fn in_place_means_one_map_and_load_before_store() {
        let mut k = kernel();
        k.params[0].access = Access::ReadWrite;
        k.stages[2].stores[0].param = 0;
        k.verify().unwrap();
        let in_place = |k: &mut Kernel| {
            k.params[0].access = Access::ReadWrite;
            k.stages[2].stores[0].param = 0;
        };
        let reversed = Affine { offset: 5, strides: [-3, -1][..].into() };
        refused(
            |k| {
                in_place(k);
                k.stages[2].stores[0].index = reversed;
            },
            "v0",
            "p0 is stored in place through another map",
        );
        refused(
            |k| {
                in_place(k);
                k.values.push(k.values[0].clone());
                let again = Stage { domain: Domain::Full, insts: vec![ValueId(4)], reduces: vec![], stores: vec![] };
                k.stages.push(again);
            },
            "v4",
            "p0 is loaded after it was stored in place",
        );
    }
}
