//! What is known of the integers in buffers: the range they lie in.
//!
//! [`Facts`] gives every content of a buffer a name, [`Values`]; a buffer that is written has another content from there on.
//! A content is within a range that was found at once (constants) or learned when a step checked it, and within what
//! follows from how it was made. The latter is computed when it is asked for, so that it counts what was learned of
//! the operands since. It is interval arithmetic over the values of a kernel; a `select` computes each side under its
//! condition, so that `select(i < 0, i + n, i)` lies in `0..n` if `i` lies in `-n..n`.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::kernel::{Affine, Domain, Inst, Kernel, Store, ValueId};
use crate::program::{LibCall, reach};
use crate::scalar::{BinOp, CmpOp, ReduceOp, ScalarOp, UnOp};
use crate::shape::Type;
use std::cell::Cell;
use std::rc::Rc;

/// Values that one question may look at.
const FUEL: u32 = 500;
/// How deep it may look.
const DEPTH: u32 = 40;

/// All numbers from `least` to `most`; none if `most` is less.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The smallest.
    pub least: i128,
    /// The largest.
    pub most: i128,
}

impl Bounds {
    const NONE: Bounds = Bounds { least: 0, most: -1 };

    fn one(n: i128) -> Bounds {
        Bounds { least: n, most: n }
    }

    /// Every value of a dtype; of integers at least.
    fn of(dtype: DType) -> Bounds {
        let (least, most) = match dtype {
            DType::Bool => (0, 1),
            DType::U8 => (0, 0xff),
            DType::I8 => (i128::from(i8::MIN), i128::from(i8::MAX)),
            DType::I16 => (i128::from(i16::MIN), i128::from(i16::MAX)),
            DType::I32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
            DType::I64 | DType::F16 | DType::BF16 | DType::F32 | DType::F64 => {
                (i128::from(i64::MIN), i128::from(i64::MAX))
            }
        };
        Bounds { least, most }
    }

    fn is_empty(self) -> bool {
        self.least > self.most
    }

    fn is_within(self, other: Bounds) -> bool {
        self.is_empty() || (self.least >= other.least && self.most <= other.most)
    }

    fn and(self, other: Bounds) -> Bounds {
        Bounds { least: self.least.max(other.least), most: self.most.min(other.most) }
    }

    fn or(self, other: Bounds) -> Bounds {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Bounds { least: self.least.min(other.least), most: self.most.max(other.most) },
        }
    }

    fn over(self, other: Bounds, f: impl Fn(i128, i128) -> i128) -> Bounds {
        let (a, b, c, d) = (
            f(self.least, other.least),
            f(self.least, other.most),
            f(self.most, other.least),
            f(self.most, other.most),
        );
        Bounds { least: a.min(b).min(c).min(d), most: a.max(b).max(c).max(d) }
    }
}

/// The content of a buffer from one write to the next.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Values(usize);

/// How a content was made.
enum Source<'a> {
    /// In a way that says nothing.
    Any,
    /// Each number is one of these.
    Among(Values),
    /// By a kernel on these contents of its parameters; the store wrote all of it.
    Stored(&'a Kernel, &'a Store, Rc<[Values]>),
}

struct Known<'a> {
    within: Bounds,
    source: Source<'a>,
}

/// What is known of all contents so far.
#[derive(Default)]
pub struct Facts<'a> {
    known: Vec<Known<'a>>,
}

/// Per parameter of a kernel: the store that writes it, if one alone does.
pub(super) fn stores(kernel: &Kernel) -> Vec<Option<(Domain, &Store)>> {
    let mut found = vec![(0, None); kernel.params.len()];
    for stage in &kernel.stages {
        for store in &stage.stores {
            if let Some((count, of)) = found.get_mut(store.param as usize) {
                *count += 1;
                *of = Some((stage.domain, store));
            }
        }
    }
    found.into_iter().map(|(count, of)| of.filter(|_| count == 1)).collect()
}

/// Whether a kernel writes indices anywhere.
pub(super) fn stores_integers(kernel: &Kernel) -> bool {
    kernel.written().any(|p| kernel.params[p].dtype == DType::I64)
}

impl<'a> Facts<'a> {
    fn add(&mut self, within: Bounds, source: Source<'a>) -> Values {
        self.known.push(Known { within, source });
        Values(self.known.len() - 1)
    }

    /// A content of which nothing is known.
    pub fn unknown(&mut self) -> Values {
        self.add(Bounds::of(DType::I64), Source::Any)
    }

    /// These numbers, little-endian.
    pub fn constant(&mut self, data: &[u8]) -> Values {
        let (all, _) = data.as_chunks::<8>();
        let one = |bytes: &[u8; 8]| Bounds::one(i128::from(i64::from_le_bytes(*bytes)));
        self.add(all.iter().map(one).fold(Bounds::NONE, Bounds::or), Source::Any)
    }

    /// What parameter `param` of a kernel holds after it ran on these contents.
    pub fn stored(
        &mut self,
        kernel: &'a Kernel,
        param: usize,
        store: Option<(Domain, &'a Store)>,
        args: &Rc<[Values]>,
    ) -> Values {
        let Some((domain, store)) = store else { return self.unknown() };
        let points = match domain {
            Domain::Row => Some(kernel.rows()),
            Domain::Full => kernel.rows().checked_mul(kernel.row_len()),
        };
        // Distinct points store to distinct elements: as many points as elements write all of them.
        if points != kernel.params.get(param).map(|p| p.numel) || kernel.params[param].dtype != DType::I64 {
            return self.unknown();
        }
        self.add(Bounds::of(DType::I64), Source::Stored(kernel, store, args.clone()))
    }

    /// What a call makes of its first operand.
    pub fn made(&mut self, call: &LibCall, operand: Option<Values>, ty: Option<&Type>) -> Values {
        let all = Bounds::of(DType::I64);
        match (call, operand) {
            (LibCall::Copy, Some(x)) => x,
            (LibCall::Take { .. } | LibCall::Gather { .. }, Some(x)) => self.add(all, Source::Among(x)),
            (LibCall::Scan { op: ReduceOp::Max | ReduceOp::Min, .. }, Some(x)) => self.add(all, Source::Among(x)),
            (LibCall::Fill(Scalar::Int(n)), _) => self.add(Bounds::one(i128::from(*n)), Source::Any),
            (LibCall::ArgSort { dim, .. }, _) => {
                let size = ty.and_then(|ty| ty.shape.get(*dim)).map_or(0, |&n| n as i128);
                self.add(Bounds { least: 0, most: size - 1 }, Source::Any)
            }
            _ => self.unknown(),
        }
    }

    /// The range that the values are known to lie in.
    pub(super) fn bounds(&self, values: Values) -> Bounds {
        Look { facts: self, fuel: Cell::new(FUEL) }.values(values, DEPTH)
    }

    /// A step is to check that the values lie in a range: whether it may find one outside. From here on they do.
    pub fn check(&mut self, values: Values, range: Bounds) -> bool {
        let found = self.bounds(values);
        if let Some(known) = self.known.get_mut(values.0) {
            known.within = known.within.and(range);
        }
        !found.is_within(range)
    }
}

/// Values of a kernel that are known to be in a range at the point that is looked at.
type Given = Vec<(ValueId, Bounds)>;

/// One question.
struct Look<'f, 'a> {
    facts: &'f Facts<'a>,
    fuel: Cell<u32>,
}

/// A kernel on contents.
#[derive(Copy, Clone)]
struct On<'f> {
    kernel: &'f Kernel,
    args: &'f [Values],
}

impl Look<'_, '_> {
    /// Whether there is fuel to look further.
    fn spend(&self, n: usize, depth: u32) -> bool {
        let left = u32::try_from(n).ok().and_then(|n| self.fuel.get().checked_sub(n));
        self.fuel.set(left.unwrap_or(0));
        left.is_some() && depth > 0
    }

    fn values(&self, values: Values, depth: u32) -> Bounds {
        let Some(known) = self.facts.known.get(values.0) else { return Bounds::of(DType::I64) };
        if !self.spend(1, depth) {
            return known.within;
        }
        match &known.source {
            Source::Any => known.within,
            Source::Among(of) => known.within.and(self.values(*of, depth - 1)),
            Source::Stored(kernel, store, args) => {
                known.within.and(self.value(On { kernel, args }, store.value, &Given::new(), depth - 1))
            }
        }
    }

    fn value(&self, on: On<'_>, id: ValueId, given: &Given, depth: u32) -> Bounds {
        let Some(value) = on.kernel.values.get(id.0 as usize) else { return Bounds::of(DType::I64) };
        let all = Bounds::of(value.dtype);
        // Of floats nothing is known or assumed: they round, and have no next smaller integer.
        if value.dtype.is_float() || !self.spend(1, depth) {
            return all;
        }
        let found = match &value.inst {
            Inst::Const(Scalar::Int(n)) => Bounds::one(i128::from(*n)),
            Inst::Const(Scalar::Bool(b)) => Bounds::one(i128::from(*b)),
            Inst::Const(Scalar::Float(_)) => all,
            Inst::Load { param, .. } => match on.args.get(*param as usize) {
                Some(&values) if value.dtype == DType::I64 => self.values(values, depth - 1),
                _ => all,
            },
            Inst::Index(map) => positions(on.kernel, map).unwrap_or(all),
            Inst::Op(op, x) => self.op(on, (*op, x), value.dtype, given, depth - 1),
            Inst::Reduced => self.reduced(on, id, depth - 1).unwrap_or(all),
        };
        // Integers wrap.
        let found = if found.is_within(all) { found } else { all };
        given.iter().filter(|(of, _)| *of == id).fold(found, |found, (_, to)| found.and(*to))
    }

    fn op(&self, on: On<'_>, (op, x): (ScalarOp, &[ValueId]), dtype: DType, given: &Given, depth: u32) -> Bounds {
        let all = Bounds::of(dtype);
        let get = |id: ValueId| self.value(on, id, given, depth);
        match (op, x) {
            (ScalarOp::Select, &[condition, yes, no]) => {
                let side = |id: ValueId, truth: bool| {
                    let mut given = given.clone();
                    self.assume(on, (condition, truth), &mut given, depth);
                    self.value(on, id, &given, depth)
                };
                side(yes, true).or(side(no, false))
            }
            (ScalarOp::Cast, &[x]) if dtype != DType::Bool => get(x),
            // Of bools these are logic.
            _ if dtype == DType::Bool => all,
            (ScalarOp::Un(op), &[x]) => unary(op, get(x)).unwrap_or(all),
            (ScalarOp::Bin(op), &[a, b]) => binary(op, get(a), get(b)).unwrap_or(all),
            _ => all,
        }
    }

    /// Adds what follows for other values when a condition is true, or false.
    fn assume(&self, on: On<'_>, (condition, truth): (ValueId, bool), given: &mut Given, depth: u32) {
        let Some(value) = on.kernel.values.get(condition.0 as usize) else { return };
        let Inst::Op(op, x) = &value.inst else { return };
        if value.dtype != DType::Bool || !self.spend(1, depth) {
            return;
        }
        match (op, &x[..]) {
            (ScalarOp::Un(UnOp::Not), &[x]) => self.assume(on, (x, !truth), given, depth - 1),
            (ScalarOp::Bin(BinOp::And), &[a, b]) if truth => {
                self.assume(on, (a, true), given, depth - 1);
                self.assume(on, (b, true), given, depth - 1);
            }
            (ScalarOp::Bin(BinOp::Or), &[a, b]) if !truth => {
                self.assume(on, (a, false), given, depth - 1);
                self.assume(on, (b, false), given, depth - 1);
            }
            (ScalarOp::Cmp(op), &[a, b]) => {
                let (x, y) = (self.value(on, a, given, depth - 1), self.value(on, b, given, depth - 1));
                if x.is_empty() || y.is_empty() {
                    return;
                }
                let upto = |most: i128| Bounds { least: i128::from(i64::MIN), most };
                let from = |least: i128| Bounds { least, most: i128::from(i64::MAX) };
                match (op, truth) {
                    (CmpOp::Lt, true) | (CmpOp::Ge, false) => {
                        given.extend([(a, upto(y.most - 1)), (b, from(x.least + 1))])
                    }
                    (CmpOp::Le, true) | (CmpOp::Gt, false) => given.extend([(a, upto(y.most)), (b, from(x.least))]),
                    (CmpOp::Gt, true) | (CmpOp::Le, false) => {
                        given.extend([(a, from(y.least + 1)), (b, upto(x.most - 1))])
                    }
                    (CmpOp::Ge, true) | (CmpOp::Lt, false) => given.extend([(a, from(y.least)), (b, upto(x.most))]),
                    (CmpOp::Eq, true) | (CmpOp::Ne, false) => given.extend([(a, y), (b, x)]),
                    (CmpOp::Eq, false) | (CmpOp::Ne, true) => {}
                }
            }
            _ => {}
        }
    }

    /// The result of a fold over inner points, of which what holds at one point says nothing.
    fn reduced(&self, on: On<'_>, id: ValueId, depth: u32) -> Option<Bounds> {
        let len = on.kernel.row_len();
        let mut folds = on.kernel.stages.iter().flat_map(|stage| &stage.reduces);
        let fold = folds.find(|r| self.spend(1, depth) && r.out == id).filter(|_| len > 0)?;
        match fold.op {
            ReduceOp::ArgMax | ReduceOp::ArgMin => Some(Bounds { least: 0, most: len as i128 - 1 }),
            ReduceOp::Max | ReduceOp::Min => Some(self.value(on, fold.value, &Given::new(), depth)),
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Any | ReduceOp::All => None,
        }
    }
}

/// The range of an affine map over all points.
fn positions(kernel: &Kernel, map: &Affine) -> Option<Bounds> {
    let extents = kernel.grid.iter().chain(&kernel.inner).copied();
    let axes = extents.zip(map.strides.iter().copied()).filter(|(n, _)| *n > 0);
    reach(map.offset, axes).map(|(least, most)| Bounds { least, most })
}

/// `None`: any value of the dtype. Results beyond it are those that wrap.
fn unary(op: UnOp, x: Bounds) -> Option<Bounds> {
    if x.is_empty() {
        return Some(x);
    }
    Some(match op {
        UnOp::Neg => Bounds { least: -x.most, most: -x.least },
        UnOp::Abs if x.least >= 0 => x,
        UnOp::Abs if x.most <= 0 => Bounds { least: -x.most, most: -x.least },
        UnOp::Abs => Bounds { least: 0, most: x.most.max(-x.least) },
        UnOp::Sign => Bounds { least: x.least.signum(), most: x.most.signum() },
        UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::Trunc => x,
        _ => return None,
    })
}

fn binary(op: BinOp, a: Bounds, b: Bounds) -> Option<Bounds> {
    if a.is_empty() || b.is_empty() {
        return Some(Bounds::NONE);
    }
    Some(match op {
        BinOp::Add => a.over(b, |a, b| a + b),
        BinOp::Sub => a.over(b, |a, b| a - b),
        BinOp::Mul => a.over(b, |a, b| a * b),
        BinOp::Max => a.over(b, i128::max),
        BinOp::Min => a.over(b, i128::min),
        BinOp::FloorDiv if b.least > 0 => a.over(b, i128::div_euclid),
        BinOp::Rem if a.least >= 0 && a.most < b.least => a,
        BinOp::Rem if b.least > 0 => Bounds { least: 0, most: b.most - 1 },
        BinOp::And if a.least >= 0 && b.least >= 0 => Bounds { least: 0, most: a.most.min(b.most) },
        BinOp::And if a.least >= 0 => Bounds { least: 0, most: a.most },
        BinOp::And if b.least >= 0 => Bounds { least: 0, most: b.most },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::{eval_bin, eval_un};

    /// Every value of the operands is tried: those of the results are in what is said of them.
    #[test]
    fn arithmetic_of_ranges_holds_for_every_value() {
        let numbers = || -6..=6i128;
        let ranges = || numbers().flat_map(move |least| (least..=6).map(move |most| Bounds { least, most }));
        let number = |n: i128| Scalar::Int(n as i64);
        let holds = |what: &str, bounds: Option<Bounds>, x: Scalar| {
            let (Some(bounds), Scalar::Int(x)) = (bounds, x) else { return };
            assert!(Bounds::one(i128::from(x)).is_within(bounds), "{what} gives {x}, which is not in {bounds:?}");
        };
        for a in ranges() {
            for x in a.least..=a.most {
                for &op in UnOp::ALL {
                    if unary(op, a).is_some() {
                        holds(op.name(), unary(op, a), eval_un(op, number(x), DType::I64));
                    }
                }
            }
            for b in ranges() {
                for &op in BinOp::ALL {
                    let Some(found) = binary(op, a, b) else { continue };
                    for (x, y) in (a.least..=a.most).flat_map(|x| (b.least..=b.most).map(move |y| (x, y))) {
                        holds(op.name(), Some(found), eval_bin(op, number(x), number(y), DType::I64));
                    }
                }
            }
        }
    }
}
