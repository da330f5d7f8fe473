//! Attributes of nodes: compile-time data that is part of the hash key.

use crate::dtype::DType;
use crate::shape::Ints;
use smallvec::SmallVec;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A scalar constant. Floats compare and hash by bits, so that NaN and -0.0 are themselves.
#[derive(Copy, Clone, Debug)]
pub enum Scalar {
    /// A boolean.
    Bool(bool),
    /// An integer of any integer dtype.
    Int(i64),
    /// A float of any float dtype, held as f64.
    Float(f64),
}

impl Scalar {
    /// The value as f64 (integers beyond 2^53 round to nearest).
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Bool(b) => f64::from(u8::from(b)),
            Scalar::Int(i) => i as f64,
            Scalar::Float(x) => x,
        }
    }
    /// The value as i64: floats truncate toward zero and saturate, NaN is 0.
    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::Bool(b) => i64::from(b),
            Scalar::Int(i) => i,
            Scalar::Float(x) => x as i64,
        }
    }
    /// The same number, represented as `dtype` represents it (rounded, wrapped, or compared with 0 for bool).
    pub fn to_dtype(self, dtype: DType) -> Scalar {
        crate::scalar::convert(self, dtype)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        match (self, other) {
            (Scalar::Bool(a), Scalar::Bool(b)) => a == b,
            (Scalar::Int(a), Scalar::Int(b)) => a == b,
            (Scalar::Float(a), Scalar::Float(b)) => a.to_bits() == b.to_bits(),
            _ => false,
        }
    }
}
impl Eq for Scalar {}
impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Scalar::Bool(b) => b.hash(state),
            Scalar::Int(i) => i.hash(state),
            Scalar::Float(x) => x.to_bits().hash(state),
        }
    }
}

/// One attribute value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Attr {
    /// A signed integer.
    Int(i64),
    /// A flag.
    Bool(bool),
    /// A list of signed integers.
    Ints(Ints),
    /// An element type.
    DType(DType),
    /// A scalar constant.
    Scalar(Scalar),
    /// A word out of a set that the op's doc lists.
    Str(Arc<str>),
    /// Raw little-endian elements of a constant.
    Bytes(Arc<[u8]>),
}

/// The attributes of a node, in the order of its op's [`AttrSpec`] list.
pub type Attrs = SmallVec<[Attr; 2]>;

/// Which variant an attribute must be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum AttrKind {
    /// [`Attr::Int`].
    Int,
    /// [`Attr::Bool`].
    Bool,
    /// [`Attr::Ints`].
    Ints,
    /// [`Attr::DType`].
    DType,
    /// [`Attr::Scalar`].
    Scalar,
    /// [`Attr::Str`].
    Str,
    /// [`Attr::Bytes`].
    Bytes,
}

/// Name and kind of one attribute of an op.
#[derive(Copy, Clone, Debug)]
pub struct AttrSpec {
    /// Name in the text form.
    pub name: &'static str,
    /// Kind that the verifier demands.
    pub kind: AttrKind,
}

impl Attr {
    /// The kind of this value.
    pub fn kind(&self) -> AttrKind {
        match self {
            Attr::Int(_) => AttrKind::Int,
            Attr::Bool(_) => AttrKind::Bool,
            Attr::Ints(_) => AttrKind::Ints,
            Attr::DType(_) => AttrKind::DType,
            Attr::Scalar(_) => AttrKind::Scalar,
            Attr::Str(_) => AttrKind::Str,
            Attr::Bytes(_) => AttrKind::Bytes,
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $fn:ident -> $ty:ty, $variant:ident, |$v:ident| $e:expr;)*) => {
        /// Typed access to attributes by position. The verifier has checked count and kinds, so a
        /// mismatch here is a bug in an op file and returns the type's neutral value only in that case.
        pub trait AttrsExt {
            $($(#[$doc])* fn $fn(&self, i: usize) -> $ty;)*
        }
        impl AttrsExt for [Attr] {
            $(fn $fn(&self, i: usize) -> $ty {
                match &self[i] {
                    Attr::$variant($v) => $e,
                    other => unreachable!("attribute {i} is {other:?}, not {}", stringify!($variant)),
                }
            })*
        }
    };
}

getters! {
    /// Attribute `i` as an integer.
    int -> i64, Int, |v| *v;
    /// Attribute `i` as a flag.
    bool -> bool, Bool, |v| *v;
    /// Attribute `i` as a list of integers.
    ints -> &[i64], Ints, |v| v.as_slice();
    /// Attribute `i` as a dtype.
    dtype -> DType, DType, |v| *v;
    /// Attribute `i` as a scalar.
    scalar -> Scalar, Scalar, |v| *v;
    /// Attribute `i` as a word.
    str -> &str, Str, |v| v;
    /// Attribute `i` as raw bytes.
    bytes -> &Arc<[u8]>, Bytes, |v| v;
}

impl From<i64> for Attr {
    fn from(v: i64) -> Attr {
        Attr::Int(v)
    }
}
impl From<bool> for Attr {
    fn from(v: bool) -> Attr {
        Attr::Bool(v)
    }
}
impl From<DType> for Attr {
    fn from(v: DType) -> Attr {
        Attr::DType(v)
    }
}
impl From<Scalar> for Attr {
    fn from(v: Scalar) -> Attr {
        Attr::Scalar(v)
    }
}
impl From<&[i64]> for Attr {
    fn from(v: &[i64]) -> Attr {
        Attr::Ints(Ints::from_slice(v))
    }
}
impl From<&[usize]> for Attr {
    fn from(v: &[usize]) -> Attr {
        Attr::Ints(v.iter().map(|&x| x as i64).collect())
    }
}
impl From<&str> for Attr {
    fn from(v: &str) -> Attr {
        Attr::Str(v.into())
    }
}
