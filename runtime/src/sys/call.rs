//! Calls of compiled kernels, and the spans of memory that they work on.

use super::mem::{ALIGN, Block};
use super::slices::{Plain, count};
use std::ops::Range;
use torsh_codegen::cpu::Emitted;
use torsh_ir::Result;

/// A span of memory that a run may read, and write if it owns it. Only a run holds spans, and only while it
/// holds what they point into.
#[derive(Copy, Clone, Debug)]
pub struct Span {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: a span is an address and a length; the run that made it shares it with the threads that work
// for it, on disjoint parts (see `KernelFn::call`).
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Default for Span {
    /// No bytes.
    fn default() -> Span {
        Span { ptr: ALIGN as *mut u8, len: 0 }
    }
}

impl Span {
    /// Part of a block.
    pub fn of(block: &Block, range: Range<usize>) -> Option<Span> {
        if range.start > range.end || range.end > block.len() {
            return None;
        }
        Some(Span { ptr: block.address().wrapping_add(range.start), len: range.end - range.start })
    }

    /// Bytes that nobody writes while a run holds them; the run reads them only.
    pub fn read_only(bytes: &[u8]) -> Span {
        Span { ptr: bytes.as_ptr().cast_mut(), len: bytes.len() }
    }

    /// Part of this span.
    pub fn slice(&self, range: Range<usize>) -> Option<Span> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        Some(Span { ptr: self.ptr.wrapping_add(range.start), len: range.end - range.start })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of the first byte.
    #[cfg(test)]
    pub fn address(&self) -> *mut u8 {
        self.ptr
    }

    /// True when two spans share a byte.
    pub fn overlaps(&self, other: &Span) -> bool {
        let (a, b) = (self.ptr as usize, other.ptr as usize);
        self.len > 0 && other.len > 0 && a < b.saturating_add(other.len) && b < a.saturating_add(self.len)
    }

    /// True when it shares a byte with a slice.
    pub(super) fn touches<T>(&self, slice: &[T]) -> bool {
        self.overlaps(&Span { ptr: slice.as_ptr().cast_mut().cast(), len: size_of_val(slice) })
    }

    /// The first of its elements, and how many there are.
    pub(super) fn elements<T: Plain>(&self) -> Result<(*mut T, usize)> {
        if self.len == 0 {
            return Ok((std::ptr::NonNull::dangling().as_ptr(), 0));
        }
        Ok((self.ptr.cast(), count::<T>(self.ptr as usize, self.len)?))
    }

    /// The memory of so many elements.
    ///
    /// # Safety
    /// Whoever gets the span may write the elements for as long as it is used.
    pub(super) unsafe fn of_elements<T: Plain>(first: *mut T, count: usize) -> Span {
        Span { ptr: first.cast(), len: count * size_of::<T>() }
    }

    /// The memory of a slice, to be used for as long as it is borrowed.
    pub(super) fn of_slice<T: Plain>(slice: &mut [T]) -> Span {
        Span { ptr: slice.as_mut_ptr().cast(), len: size_of_val(slice) }
    }

    /// Copies all bytes of `from`, which must be as long and either disjoint or the same.
    pub fn copy_from(&self, from: &Span) -> bool {
        if self.len != from.len {
            return false;
        }
        // SAFETY: both spans are as long as stated and `copy` allows any overlap. The run owns `self`.
        unsafe { std::ptr::copy(from.ptr, self.ptr, self.len) };
        true
    }
}

/// An argument of a library call, seen beside its result.
pub enum View<'a> {
    /// Its own memory.
    Bytes(&'a [u8]),
    /// Exactly the memory of the result.
    Out,
}

/// The arguments and the result of a library call as slices. `None` when an argument overlaps the result
/// without being it. The run that calls owns `out` and holds all the others.
pub fn views<'a>(args: &'a [Span], out: &'a mut Span) -> Option<(Vec<View<'a>>, &'a mut [u8])> {
    let mut seen = Vec::with_capacity(args.len());
    for arg in args {
        let same = arg.ptr == out.ptr && arg.len == out.len;
        if same && arg.len > 0 {
            seen.push(View::Out);
        } else if arg.overlaps(out) {
            return None;
        } else {
            // SAFETY: the span points to so many initialised bytes for as long as the run holds them, and
            // nothing writes them meanwhile: the only writer is the call, into `out`, which is disjoint.
            seen.push(View::Bytes(unsafe { std::slice::from_raw_parts(arg.ptr, arg.len) }));
        }
    }
    // SAFETY: as above; the run owns `out`, and no slice made here overlaps it.
    let out = unsafe { std::slice::from_raw_parts_mut(out.ptr, out.len) };
    Some((seen, out))
}

/// Spans that a call reads while it writes `out`, as slices. `None` when one of them overlaps `out`. The run that calls
/// holds all of them, and whatever else writes meanwhile (kernels on the rows of a product) writes none of them.
pub fn reads<'a, const N: usize>(args: &'a [Span; N], out: &Span) -> Option<[&'a [u8]; N]> {
    if args.iter().any(|arg| arg.overlaps(out)) {
        return None;
    }
    // SAFETY: each span points to so many initialised bytes for as long as the run holds them, and nothing writes them
    // meanwhile: neither the call, since `out` is disjoint, nor what runs beside it.
    Some(args.each_ref().map(|arg| unsafe { std::slice::from_raw_parts(arg.ptr, arg.len) }))
}

type Entry = unsafe extern "C" fn(*const *mut u8, u64, u64, u64, u64, *mut u8);

/// A compiled kernel.
pub struct KernelFn {
    entry: Entry,
    info: Emitted,
    param_bytes: Vec<usize>,
}

/// Which rows and columns a call computes.
#[derive(Clone, Debug)]
pub struct Part {
    /// Rows of [`Emitted::rows`].
    pub rows: Range<usize>,
    /// Columns of [`Emitted::cols`].
    pub cols: Range<usize>,
}

impl KernelFn {
    /// # Safety
    /// `address` is a function emitted with `info` for parameters of `param_bytes` bytes; its memory
    /// outlives this value.
    pub(super) unsafe fn new(address: *const u8, info: Emitted, param_bytes: Vec<usize>) -> KernelFn {
        // SAFETY: the caller's promise.
        let entry = unsafe { std::mem::transmute::<*const u8, Entry>(address) };
        KernelFn { entry, info, param_bytes }
    }

    /// What was emitted.
    pub fn info(&self) -> &Emitted {
        &self.info
    }

    /// Computes a part. False when an argument or the scratch is smaller than the kernel needs, the scratch is
    /// not aligned, or the part is not inside the kernel; then nothing has been done.
    ///
    /// The run that calls owns every argument that the kernel writes, and gives concurrent calls disjoint
    /// parts and disjoint scratch.
    pub fn call(&self, args: &[Span], part: &Part, scratch: &Span) -> bool {
        self.call_apart(args, None, part, scratch)
    }

    /// [`KernelFn::call`], where the memory of argument `apart` has only the part of the parameter that belongs to the
    /// rows of the call (or to its columns, where the kernel is one row), in equal shares and in their order. The run
    /// has proven that the call touches nothing else of it.
    pub fn call_apart(&self, args: &[Span], apart: Option<usize>, part: &Part, scratch: &Span) -> bool {
        let (points, own) =
            if self.info.rows == 1 { (self.info.cols, &part.cols) } else { (self.info.rows, &part.rows) };
        let share = |need: usize, points_of: usize| {
            let all = need as u128 * points_of as u128;
            let whole = points > 0 && all.is_multiple_of(points as u128);
            whole.then(|| (all / points as u128) as usize)
        };
        // How many bytes an argument must have, and how many of the parameter are before them.
        let want = |p: usize, need: usize| {
            if apart == Some(p) { Some((share(need, own.len())?, share(need, own.start)?)) } else { Some((need, 0)) }
        };
        let fits = args.len() == self.param_bytes.len()
            && args
                .iter()
                .zip(&self.param_bytes)
                .enumerate()
                .all(|(p, (arg, &need))| want(p, need).is_some_and(|(bytes, _)| arg.len >= bytes))
            && scratch.len >= self.info.scratch_bytes
            && (self.info.scratch_bytes == 0 || (scratch.ptr as usize).is_multiple_of(ALIGN))
            && part.rows.start <= part.rows.end
            && part.rows.end <= self.info.rows
            && part.cols.start <= part.cols.end
            && part.cols.end <= self.info.cols;
        if !fits {
            return false;
        }
        let mut pointers: [*mut u8; 32] = [std::ptr::null_mut(); 32];
        let mut many: Vec<*mut u8>;
        let table = if args.len() <= pointers.len() {
            for (slot, arg) in pointers.iter_mut().zip(args) {
                *slot = arg.ptr;
            }
            &mut pointers[..args.len()]
        } else {
            many = args.iter().map(|a| a.ptr).collect();
            &mut many[..]
        };
        if let Some(p) = apart {
            // Where the parameter would begin.
            let before = self.param_bytes.get(p).and_then(|&need| want(p, need)).map_or(0, |(_, before)| before);
            table[p] = table[p].wrapping_sub(before);
        }
        let table = table.as_ptr();
        let (rows, cols) = (&part.rows, &part.cols);
        // SAFETY: the code was generated for parameters of exactly these sizes from a kernel whose verifier
        // keeps every index map inside its parameter, and for scratch of `scratch_bytes`; the checks above
        // establish both. The pointer table outlives the call.
        unsafe {
            (self.entry)(table, rows.start as u64, rows.end as u64, cols.start as u64, cols.end as u64, scratch.ptr);
        }
        true
    }
}
