//! DLPack, the array exchange protocol, both ways and by copy: a consumer may write what it was given, and a
//! torsh buffer is never written behind the back of the graph.
#![allow(unsafe_code, reason = "the protocol passes C structures through capsules")]

use crate::convert;
use crate::source;
use crate::tensor::{PyTensor, wrap};
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{CStr, c_void};
use torsh_ir::{DType, Shape, Type};

const CPU: i32 = 1;
const NAME: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
#[derive(Copy, Clone)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

// What an exported structure points into. u64 keeps the data aligned for every dtype.
struct Holder {
    managed: Managed,
    shape: Vec<i64>,
    strides: Vec<i64>,
    data: Vec<u64>,
}

fn to_code(dtype: DType) -> DataType {
    let code = match dtype {
        DType::Bool => 6,
        DType::U8 => 1,
        DType::BF16 => 4,
        d if d.is_float() => 2,
        _ => 0,
    };
    DataType { code, bits: (dtype.size() * 8) as u8, lanes: 1 }
}

fn from_code(d: DataType) -> Option<DType> {
    DType::ALL.into_iter().find(|&t| {
        let c = to_code(t);
        (c.code, c.bits, c.lanes) == (d.code, d.bits, d.lanes)
    })
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    if managed.is_null() {
        return;
    }
    // SAFETY: `managed` came from `export`, whose context is the box of the holder, and a consumer calls this
    // once.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Holder>()) });
}

unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: called by Python with the capsule that `export` made; a consumer that took the structure has
    // renamed the capsule.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}

/// A capsule that holds a copy of the tensor.
#[pyfunction]
#[pyo3(signature = (x, stream = None, max_version = None, dl_device = None, copy = None))]
fn to_dlpack(
    x: &Bound<'_, PyTensor>,
    stream: Option<&Bound<'_, PyAny>>,
    max_version: Option<&Bound<'_, PyAny>>,
    dl_device: Option<(i32, i32)>,
    copy: Option<bool>,
) -> PyResult<Py<PyAny>> {
    let py = x.py();
    source::enter(py);
    let _ = (stream, max_version);
    if dl_device.is_some_and(|(kind, _)| kind != CPU) {
        return Err(PyBufferError::new_err("the tensor is on the CPU and cannot be exported to another device"));
    }
    if copy == Some(false) {
        return Err(PyBufferError::new_err("torsh exports copies only; copy=False is not possible"));
    }
    let t = &x.get().t;
    if t.device() != torsh_ir::exec::Device::Cpu {
        return Err(PyBufferError::new_err(format!(
            "a tensor on {} is not exported through DLPack; export a copy on the host: x.cpu()",
            t.device()
        )));
    }
    if t.requires_grad() {
        return Err(PyBufferError::new_err("Can't export tensors that require gradient, use tensor.detach()"));
    }
    convert::with_bytes(py, t, "__dlpack__()", |ty, bytes| {
        let mut data = Vec::with_capacity(bytes.len().div_ceil(8));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            data.push(u64::from_ne_bytes(word));
        }
        let shape: Vec<i64> = ty.shape.iter().map(|&d| d as i64).collect();
        let mut holder = Box::new(Holder {
            managed: Managed {
                tensor: DlTensor {
                    data: std::ptr::null_mut(),
                    device: Device { kind: CPU, id: 0 },
                    ndim: shape.len() as i32,
                    dtype: to_code(ty.dtype),
                    shape: std::ptr::null_mut(),
                    strides: std::ptr::null_mut(),
                    byte_offset: 0,
                },
                context: std::ptr::null_mut(),
                deleter: Some(delete),
            },
            strides: ty.shape.strides().to_vec(),
            shape,
            data,
        });
        holder.managed.tensor.data = holder.data.as_mut_ptr().cast();
        holder.managed.tensor.shape = holder.shape.as_mut_ptr();
        holder.managed.tensor.strides = holder.strides.as_mut_ptr();
        let raw = Box::into_raw(holder);
        // SAFETY: `raw` is a live box that nothing else refers to; the capsule, or the consumer that renames
        // it, frees it through `delete`.
        let capsule = unsafe {
            (*raw).managed.context = raw.cast();
            ffi::PyCapsule_New((&raw mut (*raw).managed).cast(), NAME.as_ptr(), Some(drop_capsule))
        };
        if capsule.is_null() {
            // SAFETY: no capsule was made, so the box is still ours alone.
            drop(unsafe { Box::from_raw(raw) });
            return Err(PyErr::fetch(py));
        }
        // SAFETY: a new reference that is not null.
        Ok(unsafe { Bound::from_owned_ptr(py, capsule) }.unbind())
    })
}

/// A tensor that holds a copy of what another library exports.
#[pyfunction]
fn from_dlpack(py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<Py<PyTensor>> {
    source::enter(py);
    let capsule = if obj.hasattr("__dlpack__")? { obj.call_method0("__dlpack__")? } else { obj.clone() };
    // SAFETY: checks only the name of the object.
    if unsafe { ffi::PyCapsule_IsValid(capsule.as_ptr(), NAME.as_ptr()) } != 1 {
        return Err(PyTypeError::new_err(
            "from_dlpack: expected an object with __dlpack__ or an unused DLPack capsule",
        ));
    }
    // SAFETY: a capsule of this name holds a `Managed` by the protocol; it stays alive until its deleter is
    // called below, after the last use, and the capsule is renamed so that nobody else calls it.
    let (ty, bytes) = unsafe {
        let managed: *mut Managed = ffi::PyCapsule_GetPointer(capsule.as_ptr(), NAME.as_ptr()).cast();
        let copied = copy_out(&(*managed).tensor);
        ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr());
        if let Some(deleter) = (*managed).deleter {
            deleter(managed);
        }
        copied?
    };
    wrap(py, convert::upload(ty, &bytes, torsh_ir::exec::Device::Cpu)?)
}

// SAFETY (of callers): `t` describes readable memory, as the protocol demands.
unsafe fn copy_out(t: &DlTensor) -> PyResult<(Type, Vec<u8>)> {
    let invalid = |text: &str| PyValueError::new_err(format!("from_dlpack: {text}"));
    if t.device.kind != CPU {
        return Err(invalid("only memory of the CPU can be read"));
    }
    let dtype = from_code(t.dtype).ok_or_else(|| PyTypeError::new_err("from_dlpack: the dtype is not supported"))?;
    let rank = usize::try_from(t.ndim).ok().filter(|&n| n <= 64).ok_or_else(|| invalid("bad number of dims"))?;
    let list = |p: *mut i64| -> Vec<i64> {
        // SAFETY: shape and strides hold one number per dim.
        (0..rank).map(|i| unsafe { *p.add(i) }).collect()
    };
    if rank > 0 && t.shape.is_null() {
        return Err(invalid("no shape"));
    }
    let dims: Vec<usize> = list(t.shape)
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("a negative size"))?;
    let shape = Shape::new(&dims).map_err(|e| invalid(e.message()))?;
    let strides = if t.strides.is_null() { shape.strides().to_vec() } else { list(t.strides) };
    let (size, count) = (dtype.size(), shape.numel());
    let ty = Type::new(dtype, shape);
    torsh_frontend::ops::check_size(&ty).map_err(|e| invalid(e.message()))?;
    let mut out = Vec::with_capacity(ty.nbytes());
    if count > 0 && t.data.is_null() {
        return Err(invalid("no data"));
    }
    let mut position = vec![0usize; rank];
    for _ in 0..count {
        let at: i64 =
            position.iter().zip(&strides).map(|(&p, &s)| (p as i64).wrapping_mul(s)).fold(0, i64::wrapping_add);
        // SAFETY: the exporter's shape and strides stay within its memory.
        let element = unsafe {
            let base = t.data.cast::<u8>().wrapping_add(t.byte_offset as usize);
            std::slice::from_raw_parts(base.wrapping_offset((at as isize).wrapping_mul(size as isize)), size)
        };
        out.extend_from_slice(element);
        for d in (0..rank).rev() {
            position[d] += 1;
            if position[d] < dims[d] {
                break;
            }
            position[d] = 0;
        }
    }
    Ok((ty, out))
}

/// Adds the functions, and the protocol's methods to the class.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(to_dlpack, m)?)?;
    m.add_function(wrap_pyfunction!(from_dlpack, m)?)
}
