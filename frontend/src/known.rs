//! Indices whose values the host has before anything runs: they are checked at once, where the user wrote them.

use crate::node::NodeRef;
use crate::trace;
use torsh_ir::{AttrsExt, DType, Error, Result};

/// Refuses indices of a write that are known to be out of range for `dim` of `size` elements; those that are yet to be
/// computed are checked when they are. Negative ones may count from the end.
pub(crate) fn check(index: &NodeRef, size: usize, dim: usize, negative: bool) -> Result<()> {
    let low = if negative { -(size as i64) } else { 0 };
    match first(index, &|i| i < low || i >= size as i64) {
        Some(i) => Err(Error::index(format!("index {i} is out of bounds for dimension {dim} with size {size}"))),
        None => Ok(()),
    }
}

// The first known element of an integer tensor for which `wanted` holds: of a constant, of data of the host, or of
// what only looks at either.
fn first(index: &NodeRef, wanted: &dyn Fn(i64) -> bool) -> Option<i64> {
    let mut node = index.clone();
    loop {
        if !node.ty.dtype.is_int() {
            return None;
        }
        // In a trace the data of an argument is that of one call.
        if trace::active() == 0
            && let Some(buffer) = node.buffer()
        {
            return elements(buffer.host_bytes()?, node.ty.dtype, wanted);
        }
        if node.op.name == "constant" {
            return elements(node.attrs.bytes(0), node.ty.dtype, wanted);
        }
        if !(node.is_alias() || node.moves() || matches!(node.op.name, "cast" | "reshape" | "expand")) {
            return None;
        }
        node = node.operands().first()?.clone();
    }
}

fn elements(bytes: &[u8], dtype: DType, wanted: &dyn Fn(i64) -> bool) -> Option<i64> {
    macro_rules! of {
        ($t:ty) => {{
            let (all, _) = bytes.as_chunks::<{ size_of::<$t>() }>();
            all.iter().map(|b| i64::from(<$t>::from_ne_bytes(*b))).find(|&i| wanted(i))
        }};
    }
    match dtype {
        DType::U8 => of!(u8),
        DType::I8 => of!(i8),
        DType::I16 => of!(i16),
        DType::I32 => of!(i32),
        DType::I64 => of!(i64),
        DType::Bool | DType::F16 | DType::BF16 | DType::F32 | DType::F64 => None,
    }
}
