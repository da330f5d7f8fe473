//! The exported functions, and the objects that have handles.

use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::driver;
use crate::matrix::{Layout, Type};
use crate::problem::{Activation, Desc, EXECUTION_FAILED, INVALID_VALUE, Job, NOT_INITIALIZED, NOT_SUPPORTED, Problem};

type Status = i32;

/// Bytes of workspace that the one algorithm wants, where the preference allows so many.
const WORKSPACE: u64 = 4096;
/// Begins the data of an algorithm that this library chose.
const MAGIC: u64 = 0x746f_7273_685f_6c74;

#[derive(Clone, Copy, Debug)]
enum Object {
    Handle,
    Layout(Layout),
    Desc(Desc),
    Preference { workspace: u64, align: [u32; 4] },
}

#[derive(Default)]
struct Objects {
    map: HashMap<u64, Object>,
    next: u64,
}

fn objects() -> MutexGuard<'static, Objects> {
    static OBJECTS: OnceLock<Mutex<Objects>> = OnceLock::new();
    OBJECTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The algorithm and its figures, as the caller holds them.
#[repr(C)]
pub struct Heuristic {
    algo: [u64; 8],
    workspace: usize,
    state: i32,
    waves: f32,
    reserved: [i32; 4],
}

fn put<T>(to: *mut T, v: T) -> Result<(), Status> {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller promises that result pointers that are not null are valid for writes.
    unsafe { to.write_unaligned(v) };
    Ok(())
}

fn create(to: *mut u64, o: Object) -> Result<(), Status> {
    let mut s = objects();
    s.next += 0x10;
    let h = 0x1b00_0000 + s.next;
    s.map.insert(h, o);
    drop(s);
    put(to, h)
}

fn destroy(h: u64, kind: fn(&Object) -> bool) -> Result<(), Status> {
    let mut s = objects();
    if s.map.get(&h).is_some_and(kind) {
        s.map.remove(&h);
        return Ok(());
    }
    Err(INVALID_VALUE)
}

fn layout(h: u64) -> Result<Layout, Status> {
    match objects().map.get(&h) {
        Some(Object::Layout(l)) => Ok(*l),
        _ => Err(INVALID_VALUE),
    }
}

fn refuse(code: Status, text: impl AsRef<str>) -> Result<(), Status> {
    driver::complain(text.as_ref());
    Err(code)
}

/// Little-endian number of an attribute; the size must be one of those that it may have.
fn attribute(buf: *const c_void, size: usize, sizes: &[usize]) -> Result<u64, Status> {
    if buf.is_null() || !sizes.contains(&size) {
        refuse(INVALID_VALUE, format!("an attribute of {size} bytes, it has {sizes:?}"))?;
    }
    let mut b = [0u8; 8];
    // SAFETY: the caller promises `size` readable bytes, and that is at most eight.
    unsafe { std::ptr::copy_nonoverlapping(buf.cast::<u8>(), b.as_mut_ptr(), size) };
    Ok(u64::from_le_bytes(b))
}

fn data_type(n: u64) -> Result<Type, Status> {
    let known = Type::from_number(n as i32);
    if known.is_none() {
        refuse(NOT_SUPPORTED, format!("data type {n}"))?;
    }
    known.ok_or(NOT_SUPPORTED)
}

fn problem(desc: u64, l: [u64; 4]) -> Result<Problem, Status> {
    let d = match objects().map.get(&desc) {
        Some(Object::Desc(d)) => *d,
        _ => return Err(INVALID_VALUE),
    };
    Ok(Problem { desc: d, a: layout(l[0])?, b: layout(l[1])?, c: layout(l[2])?, d: layout(l[3])? })
}

/// A scale factor in host memory.
fn scalar(p: *const c_void, ty: Type) -> Result<f64, Status> {
    if p.is_null() {
        return Err(INVALID_VALUE);
    }
    let mut b = [0u8; 8];
    // SAFETY: the caller promises a value of the scale type, which has at most eight bytes.
    unsafe { std::ptr::copy_nonoverlapping(p.cast::<u8>(), b.as_mut_ptr(), ty.bytes() as usize) };
    Ok(ty.decode(&b))
}

fn set_desc(d: &mut Desc, attr: i32, buf: *const c_void, size: usize) -> Result<(), Status> {
    match attr {
        0 => d.compute = attribute(buf, size, &[4])? as i32,
        1 => d.scale = data_type(attribute(buf, size, &[4])?)?,
        2 => d.device_scalars = attribute(buf, size, &[4])? != 0,
        3 | 4 => {
            let v = attribute(buf, size, &[4])?;
            if v > 2 {
                return Err(INVALID_VALUE);
            }
            d.trans[attr as usize - 3] = v != 0;
        }
        7 => {
            (d.activation, d.bias) = match attribute(buf, size, &[4])? {
                1 => (Activation::None, false),
                2 => (Activation::Relu, false),
                4 => (Activation::None, true),
                6 => (Activation::Relu, true),
                32 => (Activation::Gelu, false),
                36 => (Activation::Gelu, true),
                v => return refuse(NOT_SUPPORTED, format!("epilogue {v}")),
            };
        }
        8 => d.bias_at = attribute(buf, size, &[8])?,
        10 => d.bias_stride = attribute(buf, size, &[8])? as i64,
        26 => d.bias_ty = Some(data_type(attribute(buf, size, &[4])?)?),
        _ => return refuse(NOT_SUPPORTED, format!("attribute {attr} of a product")),
    }
    Ok(())
}

fn set_layout(l: &mut Layout, attr: i32, buf: *const c_void, size: usize) -> Result<(), Status> {
    match attr {
        0 => l.ty = data_type(attribute(buf, size, &[4])?)?,
        1 => match attribute(buf, size, &[4])? {
            0 => l.row_major = false,
            1 => l.row_major = true,
            v => return refuse(NOT_SUPPORTED, format!("order {v} of a matrix")),
        },
        2 => l.rows = attribute(buf, size, &[8])?,
        3 => l.cols = attribute(buf, size, &[8])?,
        4 => l.ld = attribute(buf, size, &[8])? as i64,
        5 => l.batch = attribute(buf, size, &[4])? as i32,
        6 => l.stride = attribute(buf, size, &[8])? as i64,
        _ => return refuse(NOT_SUPPORTED, format!("attribute {attr} of a layout")),
    }
    Ok(())
}

macro_rules! api {
    ($(fn $name:ident($($a:ident: $t:ty),* $(,)?) $body:block)*) => { $(
        /// The cublasLt function of this name; see its manual.
        ///
        /// # Safety
        /// Pointers must be as the manual asks.
        #[allow(non_snake_case, reason = "the name is the library's")]
        #[allow(clippy::too_many_arguments, reason = "the arguments are the library's")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($a: $t),*) -> Status {
            let body = || -> Result<(), Status> { $body };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
                Ok(r) => r.err().unwrap_or(0),
                Err(_) => 14,
            }
        }
    )* };
}

api! {
    fn cublasLtCreate(handle: *mut u64) {
        if !driver::present() {
            eprintln!("torsh-cublaslt-sim: libcuda.so.1 of this process is not the simulator");
            return Err(NOT_INITIALIZED);
        }
        create(handle, Object::Handle)
    }

    fn cublasLtDestroy(handle: u64) { destroy(handle, |o| matches!(o, Object::Handle)) }

    fn cublasLtMatrixLayoutCreate(to: *mut u64, ty: i32, rows: u64, cols: u64, ld: i64) {
        let ty = data_type(ty as u64)?;
        create(to, Object::Layout(Layout { ty, rows, cols, ld, row_major: false, batch: 1, stride: 0 }))
    }

    fn cublasLtMatrixLayoutSetAttribute(h: u64, attr: i32, buf: *const c_void, size: usize) {
        let mut l = layout(h)?;
        set_layout(&mut l, attr, buf, size)?;
        objects().map.insert(h, Object::Layout(l));
        Ok(())
    }

    fn cublasLtMatrixLayoutDestroy(h: u64) { destroy(h, |o| matches!(o, Object::Layout(_))) }

    fn cublasLtMatmulDescCreate(to: *mut u64, compute: i32, scale: i32) {
        let scale = data_type(scale as u64)?;
        create(to, Object::Desc(Desc {
            compute,
            scale,
            trans: [false; 2],
            device_scalars: false,
            activation: Activation::None,
            bias: false,
            bias_at: 0,
            bias_ty: None,
            bias_stride: 0,
        }))
    }

    fn cublasLtMatmulDescSetAttribute(h: u64, attr: i32, buf: *const c_void, size: usize) {
        let mut d = match objects().map.get(&h) {
            Some(Object::Desc(d)) => *d,
            _ => return Err(INVALID_VALUE),
        };
        set_desc(&mut d, attr, buf, size)?;
        objects().map.insert(h, Object::Desc(d));
        Ok(())
    }

    fn cublasLtMatmulDescDestroy(h: u64) { destroy(h, |o| matches!(o, Object::Desc(_))) }

    fn cublasLtMatmulPreferenceCreate(to: *mut u64) {
        create(to, Object::Preference { workspace: 0, align: [256; 4] })
    }

    fn cublasLtMatmulPreferenceSetAttribute(h: u64, attr: i32, buf: *const c_void, size: usize) {
        let (mut w, mut al) = match objects().map.get(&h) {
            Some(Object::Preference { workspace, align }) => (*workspace, *align),
            _ => return Err(INVALID_VALUE),
        };
        match attr {
            1 => w = attribute(buf, size, &[8])?,
            5..=8 => {
                let v = attribute(buf, size, &[4])? as u32;
                if !v.is_power_of_two() {
                    return refuse(INVALID_VALUE, format!("alignment {v} is no power of two"));
                }
                al[attr as usize - 5] = v;
            }
            // Search modes and masks choose among algorithms, of which there is one here.
            0 | 3 | 9..=13 => {}
            _ => return refuse(NOT_SUPPORTED, format!("attribute {attr} of a preference")),
        }
        objects().map.insert(h, Object::Preference { workspace: w, align: al });
        Ok(())
    }

    fn cublasLtMatmulPreferenceDestroy(h: u64) { destroy(h, |o| matches!(o, Object::Preference { .. })) }

    fn cublasLtMatmulAlgoGetHeuristic(
        handle: u64,
        desc: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        preference: u64,
        wanted: i32,
        results: *mut Heuristic,
        found: *mut i32,
    ) {
        let (workspace, align) = {
            let s = objects();
            match (s.map.get(&handle), s.map.get(&preference)) {
                (Some(Object::Handle), Some(Object::Preference { workspace, align })) => (*workspace, *align),
                _ => return Err(INVALID_VALUE),
            }
        };
        put(found, 0)?;
        if wanted < 1 {
            return Err(INVALID_VALUE);
        }
        let p = problem(desc, [a, b, c, d])?;
        p.check()?;
        let workspace = if workspace >= WORKSPACE { WORKSPACE } else { 0 };
        let pair = |x: u32, y: u32| u64::from(x) | u64::from(y) << 32;
        let algo = [MAGIC, p.hash(), workspace, pair(align[0], align[1]), pair(align[2], align[3]), 0, 0, 0];
        put(results, Heuristic { algo, workspace: workspace as usize, state: 0, waves: 1.0, reserved: [0; 4] })?;
        put(found, 1)
    }

    fn cublasLtMatmul(
        handle: u64,
        desc: u64,
        alpha: *const c_void,
        a: u64,
        a_layout: u64,
        b: u64,
        b_layout: u64,
        beta: *const c_void,
        c: u64,
        c_layout: u64,
        d: u64,
        d_layout: u64,
        algo: *const [u64; 8],
        workspace: u64,
        workspace_bytes: usize,
        stream: u64,
    ) {
        if !matches!(objects().map.get(&handle), Some(Object::Handle)) {
            return Err(INVALID_VALUE);
        }
        let p = problem(desc, [a_layout, b_layout, c_layout, d_layout])?;
        p.check()?;
        let (mut needs, mut align) = (0, [1; 4]);
        if !algo.is_null() {
            // SAFETY: the caller promises an algorithm at a pointer that is not null.
            let [magic, hash, w, ab, cd, ..] = unsafe { algo.read_unaligned() };
            if magic != MAGIC {
                return refuse(INVALID_VALUE, "the algorithm was not chosen by this library");
            }
            if hash != p.hash() {
                return refuse(INVALID_VALUE, "the algorithm was chosen for another product");
            }
            needs = w;
            align = [ab as u32, (ab >> 32) as u32, cd as u32, (cd >> 32) as u32];
        }
        if (workspace_bytes as u64) < needs {
            return refuse(INVALID_VALUE, format!("{workspace_bytes} bytes of workspace, the algorithm needs {needs}"));
        }
        let (alpha, beta) = (scalar(alpha, p.desc.scale)?, scalar(beta, p.desc.scale)?);
        let job = Job { p, alpha, beta, at: [a, b, c, d], workspace: (workspace, needs), align };
        job.check()?;
        driver::submit(stream, Box::new(move || job.run())).map_err(|_| EXECUTION_FAILED)
    }
}

/// The version of cublasLt that this library stands in for.
#[allow(non_snake_case, reason = "the name is the library's")]
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

/// Name of a status.
#[allow(non_snake_case, reason = "the name is the library's")]
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: Status) -> *const c_char {
    let name = match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        NOT_INITIALIZED => c"CUBLAS_STATUS_NOT_INITIALIZED",
        INVALID_VALUE => c"CUBLAS_STATUS_INVALID_VALUE",
        EXECUTION_FAILED => c"CUBLAS_STATUS_EXECUTION_FAILED",
        14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
        NOT_SUPPORTED => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"unknown status",
    };
    name.as_ptr()
}
