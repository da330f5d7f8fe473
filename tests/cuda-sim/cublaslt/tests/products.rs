//! cudarc's `cublaslt::result` on the simulated library: results against the host, and refusals.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cublasLtMatmulDescAttributes_t as D,
    cublasLtMatmulPreferenceAttributes_t as P, cublasLtMatrixLayoutAttribute_t as L, cublasStatus_t as Status,
    cudaDataType,
};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};

/// Opens the driver and the library beside this program, one test at a time.
fn sim() -> (MutexGuard<'static, ()>, &'static libloading::Library) {
    static SERIAL: Mutex<()> = Mutex::new(());
    static LIBS: OnceLock<[libloading::Library; 2]> = OnceLock::new();
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let libs = LIBS.get_or_init(|| {
        let dir = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        ["libtorsh_cuda_sim.so", "libtorsh_cublaslt_sim.so"].map(|n| {
            // SAFETY: loading the simulators runs no code of their own.
            unsafe { libloading::Library::new(dir.join(n)) }.unwrap_or_else(|e| panic!("{n}: {e}"))
        })
    });
    // SAFETY: the type is that of the function, and nothing of earlier tests is alive.
    unsafe { assert_eq!(libs[0].get::<unsafe extern "C" fn() -> i32>("torsh_cuda_sim_reset").unwrap()(), 0) };
    (guard, &libs[0])
}

fn fault(lib: &libloading::Library) -> String {
    // SAFETY: the function gives a text that ends in a zero byte.
    let p = unsafe { lib.get::<unsafe extern "C" fn() -> *const c_char>("torsh_cuda_sim_last_fault").unwrap()() };
    // SAFETY: as above.
    unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_string()
}

/// A matrix: rows, columns, leading dimension, row major, batches, stride.
#[derive(Clone, Copy)]
struct Shape {
    rows: u64,
    cols: u64,
    ld: i64,
    row_major: bool,
    batch: i32,
    stride: i64,
}

impl Shape {
    fn new(rows: u64, cols: u64) -> Shape {
        Shape { rows, cols, ld: rows as i64, row_major: false, batch: 1, stride: 0 }
    }

    fn at(&self, batch: usize, row: usize, col: usize) -> usize {
        let i = if self.row_major { row * self.ld as usize + col } else { col * self.ld as usize + row };
        (i as i64 + batch as i64 * self.stride) as usize
    }
}

struct Product {
    compute: Compute,
    scale: cudaDataType,
    ab: cudaDataType,
    cd: cudaDataType,
    trans: [i32; 2],
    epilogue: Epilogue,
    bias: u64,
    shapes: [Shape; 4],
    workspace: usize,
    /// Workspace that is really given.
    given: usize,
    alignment: u32,
}

impl Product {
    fn f32(shapes: [Shape; 4]) -> Product {
        Product {
            compute: Compute::CUBLAS_COMPUTE_32F,
            scale: cudaDataType::CUDA_R_32F,
            ab: cudaDataType::CUDA_R_32F,
            cd: cudaDataType::CUDA_R_32F,
            trans: [0, 0],
            epilogue: Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            bias: 0,
            shapes,
            workspace: 0,
            given: 0,
            alignment: 16,
        }
    }

    /// Chooses an algorithm and computes; `scalars` has the scale type.
    fn go<T>(&self, stream: &CudaStream, scalars: [T; 2], at: [u64; 4], workspace: u64) -> Result<(), CublasError> {
        // SAFETY: all descriptors are made here and alive, attributes have the types that the library asks for, and
        // that pointers are right is what the library checks.
        unsafe {
            let handle = result::create_handle()?;
            let desc = result::create_matmul_desc(self.compute, self.scale)?;
            let set = |attr, v: *const c_void, n| result::set_matmul_desc_attribute(desc, attr, v, n);
            set(D::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const self.trans[0]).cast(), 4)?;
            set(D::CUBLASLT_MATMUL_DESC_TRANSB, (&raw const self.trans[1]).cast(), 4)?;
            set(D::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const self.epilogue).cast(), 4)?;
            set(D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const self.bias).cast(), 8)?;
            let mut layouts = Vec::new();
            for (k, s) in self.shapes.iter().enumerate() {
                let l = result::create_matrix_layout(if k < 2 { self.ab } else { self.cd }, s.rows, s.cols, s.ld)?;
                let order = i32::from(s.row_major);
                let set = |attr, v: *const c_void, n| result::set_matrix_layout_attribute(l, attr, v, n);
                set(L::CUBLASLT_MATRIX_LAYOUT_ORDER, (&raw const order).cast(), 4)?;
                set(L::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (&raw const s.batch).cast(), 4)?;
                set(L::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, (&raw const s.stride).cast(), 8)?;
                layouts.push(l);
            }
            let pref = result::create_matmul_pref()?;
            let set = |attr, v: *const c_void, n| result::set_matmul_pref_attribute(pref, attr, v, n);
            set(P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const self.workspace).cast(), 8)?;
            for attr in [
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                set(attr, (&raw const self.alignment).cast(), 4)?;
            }
            let (a, b, c, d) = (layouts[0], layouts[1], layouts[2], layouts[3]);
            let h = result::get_matmul_algo_heuristic(handle, desc, a, b, c, d, pref)?;
            result::matmul(
                handle,
                desc,
                (&raw const scalars[0]).cast(),
                (&raw const scalars[1]).cast(),
                at[0] as *const c_void,
                a,
                at[1] as *const c_void,
                b,
                at[2] as *const c_void,
                c,
                at[3] as *mut c_void,
                d,
                &raw const h.algo,
                workspace as *mut c_void,
                self.given,
                stream.cu_stream().cast(),
            )?;
            for l in layouts {
                result::destroy_matrix_layout(l)?;
            }
            result::destroy_matmul_pref(pref)?;
            result::destroy_matmul_desc(desc)?;
            result::destroy_handle(handle)
        }
    }
}

fn at<T>(s: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    s.device_ptr(stream).0
}

fn start() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let ctx = CudaContext::new(0).unwrap();
    let s = ctx.new_stream().unwrap();
    (ctx, s)
}

fn fill(n: usize, by: usize) -> Vec<f32> {
    (0..n).map(|i| (i * by % 13) as f32 - 6.0).collect()
}

#[test]
fn products_of_every_orientation() {
    let (_one, _lib) = sim();
    let (_ctx, s) = start();
    let (m, n, k) = (5u64, 3u64, 4u64);
    for case in 0..16 {
        let (ta, tb, row_major, pad) = (case & 1 == 1, case & 2 == 2, case & 4 == 4, (case & 8) / 4);
        let shape = |r: u64, c: u64, t: bool| {
            let (rows, cols) = if t { (c, r) } else { (r, c) };
            let inner = if row_major { cols } else { rows };
            let ld = inner as i64 + i64::from(pad);
            let stride = ld * if row_major { rows } else { cols } as i64;
            Shape { rows, cols, ld, row_major, batch: 2, stride }
        };
        let shapes = [shape(m, k, ta), shape(k, n, tb), shape(m, n, false), shape(m, n, false)];
        let len = |s: &Shape| (s.stride * 2) as usize;
        let (a, b, c) = (fill(len(&shapes[0]), 5), fill(len(&shapes[1]), 7), fill(len(&shapes[2]), 3));
        let (da, db, dc) = (s.clone_htod(&a).unwrap(), s.clone_htod(&b).unwrap(), s.clone_htod(&c).unwrap());
        let dd = s.alloc_zeros::<f32>(len(&shapes[3])).unwrap();
        let p = Product { trans: [i32::from(ta), i32::from(tb)], ..Product::f32(shapes) };
        p.go(&s, [2f32, 3.0], [at(&da, &s), at(&db, &s), at(&dc, &s), at(&dd, &s)], 0).unwrap();
        let out = s.clone_dtoh(&dd).unwrap();
        for z in 0..2 {
            for row in 0..m as usize {
                for col in 0..n as usize {
                    let sum: f32 = (0..k as usize)
                        .map(|i| {
                            let x = if ta { shapes[0].at(z, i, row) } else { shapes[0].at(z, row, i) };
                            let y = if tb { shapes[1].at(z, col, i) } else { shapes[1].at(z, i, col) };
                            a[x] * b[y]
                        })
                        .sum();
                    let i = shapes[3].at(z, row, col);
                    assert_eq!(out[i], 2.0 * sum + 3.0 * c[i], "case {case} ({z}, {row}, {col})");
                }
            }
        }
    }
}

#[test]
fn compute_types_round_their_operands() {
    let (_one, _lib) = sim();
    let (_ctx, s) = start();
    let one = Shape::new(1, 1);
    let x = 1.0f32 + 2f32.powi(-20);
    let da = s.clone_htod(&[x]).unwrap();
    let mut db = s.clone_htod(&[1f32]).unwrap();
    let dd = s.alloc_zeros::<f32>(1).unwrap();
    for (compute, want) in [
        (Compute::CUBLAS_COMPUTE_32F, x),
        (Compute::CUBLAS_COMPUTE_32F_PEDANTIC, x),
        (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, 1.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16F, 1.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16BF, 1.0),
    ] {
        let p = Product { compute, ..Product::f32([one; 4]) };
        p.go(&s, [1f32, 0.0], [at(&da, &s), at(&db, &s), at(&dd, &s), at(&dd, &s)], 0).unwrap();
        assert_eq!(s.clone_dtoh(&dd).unwrap(), [want], "{compute:?}");
    }
    // f16 keeps more than bf16, and less range than TF32.
    for (compute, value, want) in [
        (Compute::CUBLAS_COMPUTE_32F_FAST_16F, 1.0 + 2f32.powi(-9), 1.0 + 2f32.powi(-9)),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16BF, 1.0 + 2f32.powi(-9), 1.0),
        (Compute::CUBLAS_COMPUTE_32F_FAST_16F, 1e6, f32::INFINITY),
        (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, 1e6, 1e6),
    ] {
        let p = Product { compute, ..Product::f32([one; 4]) };
        s.memcpy_htod(&[value], &mut db).unwrap();
        let ones = s.clone_htod(&[1f32]).unwrap();
        p.go(&s, [1f32, 0.0], [at(&ones, &s), at(&db, &s), at(&dd, &s), at(&dd, &s)], 0).unwrap();
        let got = s.clone_dtoh(&dd).unwrap()[0];
        assert!(got == want || (want == 1e6 && (got / want - 1.0).abs() < 1e-3), "{compute:?} {value}: {got}");
    }
    // f64 throughout, 16 bits in, 16 or 32 bits out, whole numbers.
    let (a, d) = (s.clone_htod(&[1.0f64 + 1e-15]).unwrap(), s.alloc_zeros::<f64>(1).unwrap());
    let p = Product {
        compute: Compute::CUBLAS_COMPUTE_64F,
        scale: cudaDataType::CUDA_R_64F,
        ab: cudaDataType::CUDA_R_64F,
        cd: cudaDataType::CUDA_R_64F,
        ..Product::f32([one; 4])
    };
    p.go(&s, [1f64, 0.0], [at(&a, &s), at(&a, &s), at(&d, &s), at(&d, &s)], 0).unwrap();
    assert_eq!(s.clone_dtoh(&d).unwrap(), [(1.0f64 + 1e-15) * (1.0 + 1e-15)]);
    let half = s.clone_htod(&[0x3f81u16, 0x3c01]).unwrap();
    for (ab, cd, offset, want) in [
        (cudaDataType::CUDA_R_16BF, cudaDataType::CUDA_R_32F, 0, (1.0f32 + 2f32.powi(-7)).powi(2).to_bits()),
        (cudaDataType::CUDA_R_16BF, cudaDataType::CUDA_R_16BF, 0, 0x3f82),
        (cudaDataType::CUDA_R_16F, cudaDataType::CUDA_R_16F, 2, 0x3c02),
    ] {
        let out = s.alloc_zeros::<u32>(1).unwrap();
        let x = at(&half, &s) + offset;
        let p = Product { ab, cd, alignment: 2, ..Product::f32([one; 4]) };
        p.go(&s, [1f32, 0.0], [x, x, at(&out, &s), at(&out, &s)], 0).unwrap();
        assert_eq!(s.clone_dtoh(&out).unwrap(), [want]);
    }
    let bytes = s.clone_htod(&[0xfdu8]).unwrap();
    let out = s.alloc_zeros::<i32>(1).unwrap();
    let p = Product {
        compute: Compute::CUBLAS_COMPUTE_32I,
        scale: cudaDataType::CUDA_R_32I,
        ab: cudaDataType::CUDA_R_8I,
        cd: cudaDataType::CUDA_R_32I,
        ..Product::f32([one; 4])
    };
    p.go(&s, [1i32, 0], [at(&bytes, &s), at(&bytes, &s), at(&out, &s), at(&out, &s)], 0).unwrap();
    assert_eq!(s.clone_dtoh(&out).unwrap(), [9]);
}

#[test]
fn epilogues() {
    let (_one, _lib) = sim();
    let (_ctx, s) = start();
    let (m, n) = (3u64, 2u64);
    let shapes = [Shape::new(m, 1), Shape::new(1, n), Shape::new(m, n), Shape::new(m, n)];
    let (a, b, bias) = ([1f32, -2.0, 0.5], [1f32, 3.0], [0.25f32, 0.5, -4.0]);
    let (da, db, dbias) = (s.clone_htod(&a).unwrap(), s.clone_htod(&b).unwrap(), s.clone_htod(&bias).unwrap());
    let gelu = |x: f32| 0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh());
    let relu = |x: f32| x.max(0.0);
    let same = |x: f32| x;
    for (epilogue, with, f) in [
        (Epilogue::CUBLASLT_EPILOGUE_BIAS, true, same as fn(f32) -> f32),
        (Epilogue::CUBLASLT_EPILOGUE_RELU, false, relu),
        (Epilogue::CUBLASLT_EPILOGUE_RELU_BIAS, true, relu),
        (Epilogue::CUBLASLT_EPILOGUE_GELU, false, gelu),
        (Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS, true, gelu),
    ] {
        let dd = s.alloc_zeros::<f32>(6).unwrap();
        let p = Product { epilogue, bias: at(&dbias, &s), ..Product::f32(shapes) };
        p.go(&s, [1f32, 0.0], [at(&da, &s), at(&db, &s), at(&dd, &s), at(&dd, &s)], 0).unwrap();
        let out = s.clone_dtoh(&dd).unwrap();
        for col in 0..2 {
            for row in 0..3 {
                let want = f(a[row] * b[col] + if with { bias[row] } else { 0.0 });
                assert!((out[col * 3 + row] - want).abs() < 1e-6, "{epilogue:?} {row} {col}");
            }
        }
    }
}

#[test]
fn what_is_refused() {
    let (_one, lib) = sim();
    let (_ctx, s) = start();
    let sq = Shape::new(4, 4);
    let (a, b) = (s.clone_htod(&[1f32; 17]).unwrap(), s.clone_htod(&[1f32; 16]).unwrap());
    let (d, w) = (s.alloc_zeros::<f32>(16).unwrap(), s.alloc_zeros::<u8>(8192).unwrap());
    let good = || [at(&a, &s), at(&b, &s), at(&d, &s), at(&d, &s)];
    let base = || Product::f32([sq; 4]);
    let try_ = |p: Product, ptr: [u64; 4], beta: f32, workspace: u64, part: &str, status: Status| {
        let e = p.go(&s, [1f32, beta], ptr, workspace).expect_err(part);
        assert_eq!(e.0, status, "{part}: {}", fault(lib));
        assert!(fault(lib).contains(part), "{part} in {}", fault(lib));
    };
    base().go(&s, [1f32, 1.0], good(), 0).unwrap();
    let invalid = Status::CUBLAS_STATUS_INVALID_VALUE;
    let with = |k: usize, f: fn(&mut Shape)| {
        let mut p = base();
        f(&mut p.shapes[k]);
        p
    };
    try_(with(0, |s| s.cols = 3), good(), 0.0, 0, "shapes do not fit", invalid);
    try_(with(1, |s| s.ld = 3), good(), 0.0, 0, "layout of B: leading dimension 3 is below 4", invalid);
    try_(with(2, |s| s.batch = 2), good(), 0.0, 0, "batch counts differ", invalid);
    let mut p = base();
    p.shapes.iter_mut().for_each(|s| (s.batch, s.stride) = (2, 8));
    try_(p, good(), 0.0, 0, "results of the batch overlap", invalid);
    // One element too far: the leading dimension, or the pointer.
    try_(with(1, |s| s.ld = 5), good(), 0.0, 0, "B: 76 bytes", invalid);
    let p = Product { alignment: 4, ..base() };
    p.go(&s, [1f32, 0.0], [at(&a, &s) + 4, good()[1], good()[2], good()[3]], 0).unwrap();
    let p = Product { alignment: 4, ..base() };
    try_(p, [at(&a, &s) + 8, good()[1], good()[2], good()[3]], 0.0, 0, "A: 64 bytes", invalid);
    try_(base(), [at(&a, &s) + 4, good()[1], good()[2], good()[3]], 0.0, 0, "no multiple of 16", invalid);
    try_(base(), [good()[3], good()[1], good()[2], good()[3]], 0.0, 0, "D overlaps A", invalid);
    let p = Product { workspace: 8192, given: 100, ..base() };
    try_(p, good(), 0.0, at(&w, &s), "100 bytes of workspace", invalid);
    let p = Product { workspace: 8192, given: 4096, ..base() };
    p.go(&s, [1f32, 0.0], good(), at(&w, &s)).unwrap();
    assert_eq!(s.clone_dtoh(&w).unwrap()[..4096], [0xee; 4096], "the workspace is used");
    let unsupported = Status::CUBLAS_STATUS_NOT_SUPPORTED;
    try_(Product { cd: cudaDataType::CUDA_R_64F, ..base() }, good(), 0.0, 0, "types A F32", unsupported);
    let p = Product { scale: cudaDataType::CUDA_R_64F, ..base() };
    try_(p, good(), 0.0, 0, "scale type F64", unsupported);
    try_(
        Product { epilogue: Epilogue::CUBLASLT_EPILOGUE_GELU_AUX, ..base() },
        good(),
        0.0,
        0,
        "epilogue 160",
        unsupported,
    );
    let p = Product { epilogue: Epilogue::CUBLASLT_EPILOGUE_BIAS, bias: at(&d, &s) + 52, ..base() };
    try_(p, good(), 0.0, 0, "bias of 4 elements", invalid);
    // Operands that nobody wrote: found when the product is computed.
    // SAFETY: that the memory is not written is what is tested.
    let raw = unsafe { s.alloc::<f32>(16) }.unwrap();
    let p = [good()[0], at(&raw, &s), good()[2], good()[3]];
    try_(base(), p, 0.0, 0, "never written", Status::CUBLAS_STATUS_EXECUTION_FAILED);
}

#[test]
fn products_are_recorded_in_graphs() {
    let (_one, _lib) = sim();
    let (ctx, s) = start();
    // SAFETY: all work goes to one stream.
    unsafe { ctx.disable_event_tracking() };
    let one = Shape::new(1, 1);
    let (a, b, d) = (s.clone_htod(&[2f32]).unwrap(), s.clone_htod(&[3f32]).unwrap(), s.alloc_zeros::<f32>(1).unwrap());
    s.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    Product::f32([one; 4]).go(&s, [1f32, 1.0], [at(&a, &s), at(&b, &s), at(&d, &s), at(&d, &s)], 0).unwrap();
    let graph = s.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph");
    assert_eq!(s.clone_dtoh(&d).unwrap(), [0.0]);
    for turn in 1..4 {
        graph.launch().unwrap();
        assert_eq!(s.clone_dtoh(&d).unwrap(), [6.0 * turn as f32]);
    }
}
