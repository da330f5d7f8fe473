//! IR level 2: loop kernels. One kernel is an iteration space and a short list of stages over it; both
//! backends and the reference interpreter (`interp::kernel`) read it.
//!
//! # Meaning
//! `grid` are the parallel axes (rows), `inner` the axes of one row: those that are reduced, or the last
//! axis of an elementwise kernel. For every grid point, independently and in any order, the stages run in
//! order:
//! * a [`Domain::Row`] stage runs once per grid point: its values are row scalars;
//! * a [`Domain::Full`] stage runs for every inner point in row-major order: its values are one number per
//!   inner point. Its `reduces` fold such values into row scalars, visible to later stages.
//!
//! A value is visible to later instructions of its stage and to later stages. A `Full` stage that uses a
//! value of an earlier `Full` stage reads it at the same inner point: the backend keeps that value for the
//! whole row in scratch memory. A `Row` stage may use only row scalars and constants.
//!
//! Loads and stores address elements (not bytes) of a contiguous buffer by an affine function of the axes.
//! No store of a kernel may alias a load of it, except an in-place store: the same parameter index map as
//! every load of that buffer (the memory plan makes these; the element is read before it is written).
//! Distinct points of (grid x inner) store to distinct elements.
//!
//! # Checked by [`Kernel::verify`]
//! ids in range and defined before use; dtypes as `scalar.rs` demands; row stages use no inner value and no
//! inner stride; every affine map stays inside its parameter's extent for all points; stores match dtypes;
//! a stored parameter is declared writable; sizes fit in i64.

use crate::attr::Scalar;
use crate::dtype::DType;
use crate::scalar::{ReduceOp, ScalarOp};
use crate::shape::{Dims, Ints};
use smallvec::SmallVec;

/// Index of a value in [`Kernel::values`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// How a kernel uses a parameter.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Only loaded.
    Read,
    /// Only stored.
    Write,
    /// Loaded, then stored at the same index: an in-place update.
    ReadWrite,
}

/// A buffer argument.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Param {
    /// Element type in memory.
    pub dtype: DType,
    /// Element count of the buffer.
    pub numel: usize,
    /// How it is used.
    pub access: Access,
}

/// `offset + sum(grid[i] * strides[i]) + sum(inner[j] * strides[grid.len() + j])`, in elements.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Affine {
    /// Element offset at the origin.
    pub offset: i64,
    /// One stride per grid axis, then one per inner axis.
    pub strides: Ints,
}

/// What computes a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Inst {
    /// A constant, represented in the value's dtype.
    Const(Scalar),
    /// An element of a parameter.
    Load {
        /// Which parameter.
        param: u32,
        /// Where.
        index: Affine,
    },
    /// The affine function itself, as i64.
    Index(Affine),
    /// A scalar operation; operand dtypes as `scalar.rs` says, the result has the value's dtype.
    Op(ScalarOp, SmallVec<[ValueId; 3]>),
    /// The result of a [`Reduce`] of a `Full` stage: a row scalar. Never listed in a stage's `insts`.
    Reduced,
}

/// One SSA value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Value {
    /// What computes it.
    pub inst: Inst,
    /// Its dtype. 16-bit floats are rounded to 16 bits after each operation.
    pub dtype: DType,
}

/// Over which points a stage runs.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Domain {
    /// Once per grid point.
    Row,
    /// Once per grid point and inner point.
    Full,
}

/// A fold over the inner axes of a row.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reduce {
    /// The operation. Sum and Prod of f16, bf16 and f32 accumulate in f64 and round once at the end.
    pub op: ReduceOp,
    /// The folded value of this stage. For ArgMax/ArgMin the result is the row-major position in `inner`.
    pub value: ValueId,
    /// The [`Inst::Reduced`] value that receives the result (the folded value's dtype; i64 for ArgMax/ArgMin).
    pub out: ValueId,
}

/// A write of a value to a parameter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store {
    /// Which parameter.
    pub param: u32,
    /// Where.
    pub index: Affine,
    /// What; its dtype is the parameter's.
    pub value: ValueId,
}

/// One stage.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Stage {
    /// Row or full.
    pub domain: Domain,
    /// Values computed here, in order.
    pub insts: Vec<ValueId>,
    /// Folds (only in a full stage).
    pub reduces: Vec<Reduce>,
    /// Writes.
    pub stores: Vec<Store>,
}

/// A fused loop nest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Kernel {
    /// For dumps: the fused ops, such as `mul_add_gelu`.
    pub name: String,
    /// Buffer arguments, in call order.
    pub params: Vec<Param>,
    /// Extents of the parallel axes.
    pub grid: Dims,
    /// Extents of the axes of one row.
    pub inner: Dims,
    /// All values.
    pub values: Vec<Value>,
    /// Stages, in order.
    pub stages: Vec<Stage>,
}

impl Kernel {
    /// Number of grid points.
    pub fn rows(&self) -> usize {
        self.grid.iter().product()
    }
    /// Number of inner points per row.
    pub fn row_len(&self) -> usize {
        self.inner.iter().product()
    }
    /// True when no stage reduces and no value crosses stages: the inner axis may be split between threads.
    pub fn is_map(&self) -> bool {
        self.stages.len() == 1 && self.stages[0].reduces.is_empty()
    }
    /// The parameters that it writes.
    pub fn written(&self) -> impl Iterator<Item = usize> {
        self.params.iter().enumerate().filter(|(_, p)| p.access != Access::Read).map(|(i, _)| i)
    }
    /// A value by id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
}
