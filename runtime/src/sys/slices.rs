//! Bytes as elements.

use half::{bf16, f16};
use torsh_ir::{Error, Result};

/// Types without padding for which every bit pattern is a value.
///
/// # Safety
/// Exactly that.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($t:ty)*) => { $(
        // SAFETY: a number type of the language, or a transparent wrapper of one.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 f16 bf16 Bool);

/// A bool in memory: a byte, 0 or 1.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bool(pub u8);

/// How many elements so many bytes at an address are.
pub(super) fn count<T>(address: usize, bytes: usize) -> Result<usize> {
    if !address.is_multiple_of(align_of::<T>()) || !bytes.is_multiple_of(size_of::<T>()) {
        return Err(Error::internal(format!(
            "{bytes} bytes at {address:#x} are not elements of {} bytes",
            size_of::<T>()
        )));
    }
    Ok(bytes / size_of::<T>())
}

/// The elements that `bytes` hold.
pub fn elements<T: Plain>(bytes: &[u8]) -> Result<&[T]> {
    if bytes.is_empty() {
        return Ok(&[]);
    }
    let n = count::<T>(bytes.as_ptr() as usize, bytes.len())?;
    // SAFETY: aligned and `n * size_of::<T>()` bytes long by `count`; `Plain` allows any bits.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), n) })
}

/// The elements that `bytes` hold, to be written.
pub fn elements_mut<T: Plain>(bytes: &mut [u8]) -> Result<&mut [T]> {
    if bytes.is_empty() {
        return Ok(&mut []);
    }
    let n = count::<T>(bytes.as_ptr() as usize, bytes.len())?;
    // SAFETY: as `elements`; the borrow is unique and passes on.
    Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) })
}

/// The bytes of elements, to be written.
pub fn bytes_of<T: Plain>(elements: &mut [T]) -> &mut [u8] {
    let n = std::mem::size_of_val(elements);
    // SAFETY: as long as the elements, without padding by `Plain`, which allows any bits; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), n) }
}
