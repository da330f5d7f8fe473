//! The state's entry: a safetensors file of exactly the tensors that the manifest names.
//!
//! Tensors stand in the order of their element size, largest first, so that each is aligned to its elements in a file whose
//! data begins at a multiple of 64; among equals those whose size is a multiple of 64 bytes come first, so that the large
//! ones are aligned to cache lines.

use super::format::{ALIGN, MAX_WEIGHTS_HEADER, WEIGHTS, bad, refused};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use torsh_ir::{DType, Result, Type};

/// Names of dtypes in safetensors files.
fn word(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "BOOL",
        DType::U8 => "U8",
        DType::I8 => "I8",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F32 => "F32",
        DType::F64 => "F64",
    }
}

fn kind(dtype: DType) -> Dtype {
    match dtype {
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

/// The header of tensors with these names and types, and the order in which their data follows.
pub fn header(tensors: &[(&str, &Type)]) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| {
        let (name, ty) = tensors[i];
        let ragged = !(ty.nbytes() as u64).is_multiple_of(ALIGN);
        (std::cmp::Reverse(ty.dtype.size()), ragged, name)
    });
    let mut entries = BTreeMap::new();
    let mut at = 0usize;
    for &i in &order {
        let (name, ty) = tensors[i];
        let end =
            at.checked_add(ty.nbytes()).ok_or_else(|| refused("the state has more bytes than can be addressed"))?;
        let entry = serde_json::json!({
            "dtype": word(ty.dtype), "shape": ty.shape.dims(), "data_offsets": [at, end],
        });
        if name == "__metadata__" || entries.insert(name, entry).is_some() {
            return Err(refused(format!("the name {name:?} cannot stand for a tensor of the state, or stands twice")));
        }
        at = end;
    }
    let mut json = serde_json::to_vec(&entries).map_err(|e| refused(format!("the header of the state: {e}")))?;
    json.resize((json.len() + 8).next_multiple_of(ALIGN as usize) - 8, b' ');
    if json.len() as u64 > MAX_WEIGHTS_HEADER {
        return Err(refused("the state has too many tensors for one package"));
    }
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.append(&mut json);
    Ok((out, order))
}

/// Checks that an entry of `len` bytes has room for the header that it claims and for tensors of these types, and for
/// nothing else. `read` reads the first bytes of the entry.
pub fn check_size(len: u64, types: &[Type], read: impl FnOnce(&mut [u8]) -> std::io::Result<()>) -> Result<()> {
    let mut claimed = [0; 8];
    if len < claimed.len() as u64 {
        return Err(bad(WEIGHTS, "it ends within the length of its header"));
    }
    read(&mut claimed).map_err(|e| bad(WEIGHTS, format!("cannot be read: {e}")))?;
    let claimed = u64::from_le_bytes(claimed);
    if claimed > MAX_WEIGHTS_HEADER {
        return Err(bad(WEIGHTS, format!("a header of {claimed} bytes; the most is {MAX_WEIGHTS_HEADER}")));
    }
    let wanted = types.iter().try_fold(8 + claimed, |sum, ty| sum.checked_add(ty.nbytes() as u64));
    if wanted != Some(len) {
        let data = wanted.map_or_else(|| "more than can be counted".to_string(), |w| (w - 8 - claimed).to_string());
        return Err(bad(
            WEIGHTS,
            format!("{len} bytes, of which the header takes {}: the tensors of the manifest take {data}", 8 + claimed),
        ));
    }
    Ok(())
}

/// Where the tensors of the state lie in the entry's bytes, checked: the header is well formed, its tensors are exactly
/// those named, of these types, one after the other from the header to the end of the entry, and a bool is 0 or 1. The
/// size has been checked ([`check_size`]).
pub fn read(bytes: &[u8], wanted: &[(&str, &Type)]) -> Result<Vec<Range<usize>>> {
    let (len, found) =
        SafeTensors::read_metadata(bytes).map_err(|e| bad(WEIGHTS, format!("not a safetensors file: {e}")))?;
    let start = 8 + len;
    if !(start as u64).is_multiple_of(ALIGN) {
        return Err(bad(WEIGHTS, format!("its data begins at byte {start}, not at a multiple of {ALIGN}")));
    }
    let count = found.offset_keys().len();
    if count != wanted.len() {
        return Err(bad(WEIGHTS, format!("{count} tensors, where the manifest has {}", wanted.len())));
    }
    let mut out = Vec::with_capacity(count);
    for (name, ty) in wanted {
        let info = found.info(name).ok_or_else(|| bad(WEIGHTS, format!("the tensor {name:?} is missing")))?;
        if info.dtype != kind(ty.dtype) || info.shape != ty.shape.dims() {
            return Err(bad(
                WEIGHTS,
                format!("the tensor {name:?} is {:?} {:?}, in the manifest {ty}", info.dtype, info.shape),
            ));
        }
        let (from, to) = info.data_offsets;
        let range = start.checked_add(from).zip(start.checked_add(to)).map(|(from, to)| from..to);
        let data = range.clone().and_then(|r| bytes.get(r)).filter(|d| d.len() == ty.nbytes());
        let (Some(range), Some(data)) = (range, data) else {
            return Err(bad(WEIGHTS, format!("the tensor {name:?} lies outside of the entry")));
        };
        if !(range.start).is_multiple_of(ty.dtype.size()) {
            return Err(bad(WEIGHTS, format!("the tensor {name:?} is not aligned to its elements")));
        }
        if ty.dtype == DType::Bool && data.iter().any(|&b| b > 1) {
            return Err(bad(WEIGHTS, format!("the tensor {name:?} of bools has bytes that are neither 0 nor 1")));
        }
        out.push(range);
    }
    Ok(out)
}
