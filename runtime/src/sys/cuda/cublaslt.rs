//! cublasLt: matrix products, through a table of its functions.

use super::driver::{Context, Stream};
use super::load::{self, Code, functions};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
    cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, cublasStatus_t, cudaDataType, cudaDataType_t,
    cudaStream_t,
};
use libloading::Library;
use std::ffi::{OsStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use torsh_ir::{DType, Error, Result};

functions! {
    /// The functions of cublasLt that are used.
    Table, cudarc::cublaslt::sys, cublasStatus_t;
    cublasLtCreate(*mut cublasLtHandle_t);
    cublasLtDestroy(cublasLtHandle_t);
    cublasLtMatmulDescCreate(*mut cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType_t);
    cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t);
    cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, *const c_void, usize);
    cublasLtMatrixLayoutCreate(*mut cublasLtMatrixLayout_t, cudaDataType, u64, u64, i64);
    cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t);
    cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, *const c_void, usize);
    cublasLtMatmulPreferenceCreate(*mut cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, *const c_void, usize);
    cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int, *mut cublasLtMatmulHeuristicResult_t, *mut c_int);
    cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *const c_void, cublasLtMatrixLayout_t, *const c_void, *const c_void, cublasLtMatrixLayout_t, *mut c_void, cublasLtMatrixLayout_t, *const cublasLtMatmulAlgo_t, *mut c_void, usize, cudaStream_t);
}

/// The most scratch memory that an algorithm may want.
pub const WORKSPACE: usize = 32 << 20;

const NOT_SUPPORTED: Code = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as Code;

/// cublasLt on a device.
pub struct CublasLt {
    table: Table,
    handle: cublasLtHandle_t,
    context: Arc<Context>,
    /// Keeps the functions in place.
    _library: Library,
}

// SAFETY: cublasLt's functions may be called from any thread, with one handle.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// What to compute in.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Compute {
    /// f32 throughout.
    F32,
    /// TF32 products, f32 sums.
    Tf32,
    /// f64 throughout.
    F64,
}

/// A matrix as cublasLt sees it: columns are contiguous.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Matrix {
    /// Rows as stored.
    pub rows: u64,
    /// Columns as stored.
    pub cols: u64,
    /// Elements from one column to the next.
    pub ld: i64,
    /// Elements from one matrix to the next.
    pub batch_stride: i64,
    /// It is transposed before it is multiplied.
    pub transposed: bool,
    /// Its address is a multiple of this.
    pub alignment: u32,
}

/// `d = op(a) op(b)`, `batch` times.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Product {
    /// Element type of all three.
    pub dtype: DType,
    /// What to compute in.
    pub compute: Compute,
    /// Number of products.
    pub batch: i32,
    /// Left operand.
    pub a: Matrix,
    /// Right operand.
    pub b: Matrix,
    /// Result.
    pub d: Matrix,
}

/// A product with its descriptors and the algorithm chosen for it.
pub struct Plan {
    library: Arc<CublasLt>,
    desc: Option<cublasLtMatmulDesc_t>,
    layouts: [Option<cublasLtMatrixLayout_t>; 3],
    algorithm: MaybeUninit<cublasLtMatmulAlgo_t>,
    workspace: usize,
    double: bool,
}

// SAFETY: descriptors are only read once they are made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

fn data_type(dtype: DType) -> Result<cudaDataType_t> {
    Ok(match dtype {
        DType::F16 => cudaDataType_t::CUDA_R_16F,
        DType::BF16 => cudaDataType_t::CUDA_R_16BF,
        DType::F32 => cudaDataType_t::CUDA_R_32F,
        DType::F64 => cudaDataType_t::CUDA_R_64F,
        other => return Err(Error::internal(format!("a library product of {other}"))),
    })
}

impl CublasLt {
    /// Opens it by path or name for a device; on failure says why.
    pub fn open(name: &OsStr, context: &Arc<Context>) -> Result<CublasLt, String> {
        let library = load::open(name)?;
        let at = name.to_string_lossy();
        let table = Table::resolve(&library)
            .map_err(|missing| format!("{at} is too old or broken: it lacks {}", missing.join(", ")))?;
        let _entered = context.enter().map_err(|e| e.message().to_string())?;
        let mut handle = ptr::null_mut();
        // SAFETY: `handle` lives through the call, and a context is current.
        let code = unsafe { (table.cublasLtCreate)(&raw mut handle) };
        if code != 0 {
            return Err(format!("{at} does not start: cublasLtCreate failed with status {code}"));
        }
        Ok(CublasLt { table, handle, context: context.clone(), _library: library })
    }

    fn check(&self, call: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let device = self.context.device().name().unwrap_or_default();
        Err(Error::device(format!("{call} failed with status {code} on {device}")))
    }

    /// Chooses an algorithm; `None` where cublasLt has none.
    pub fn plan(self: &Arc<Self>, product: &Product) -> Result<Option<Plan>> {
        let _entered = self.context.enter()?;
        let dtype = data_type(product.dtype)?;
        let (compute, scale) = match product.compute {
            Compute::F32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F),
            Compute::Tf32 => (cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F),
            Compute::F64 => (cublasComputeType_t::CUBLAS_COMPUTE_64F, cudaDataType_t::CUDA_R_64F),
        };
        let mut plan = Plan {
            library: self.clone(),
            desc: None,
            layouts: [None; 3],
            algorithm: MaybeUninit::zeroed(),
            workspace: 0,
            double: product.compute == Compute::F64,
        };
        let mut desc = ptr::null_mut();
        // SAFETY: `desc` lives through the call.
        self.check("cublasLtMatmulDescCreate", unsafe {
            (self.table.cublasLtMatmulDescCreate)(&raw mut desc, compute, scale)
        })?;
        plan.desc = Some(desc);
        let transposes = [
            (cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, product.a.transposed),
            (cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, product.b.transposed),
        ];
        for (attribute, transposed) in transposes {
            // `CUBLAS_OP_T` is 1 and `CUBLAS_OP_N` is 0.
            let op = i32::from(transposed);
            // SAFETY: the descriptor lives, and the attribute has the size of the value.
            self.check("cublasLtMatmulDescSetAttribute", unsafe {
                let set = self.table.cublasLtMatmulDescSetAttribute;
                set(desc, attribute, (&raw const op).cast(), size_of::<i32>())
            })?;
        }
        for (slot, matrix) in plan.layouts.iter_mut().zip([&product.a, &product.b, &product.d]) {
            let mut layout = ptr::null_mut();
            // SAFETY: `layout` lives through the call.
            self.check("cublasLtMatrixLayoutCreate", unsafe {
                let create = self.table.cublasLtMatrixLayoutCreate;
                create(&raw mut layout, dtype, matrix.rows, matrix.cols, matrix.ld)
            })?;
            *slot = Some(layout);
            let set = self.table.cublasLtMatrixLayoutSetAttribute;
            let (count, stride) = (product.batch, matrix.batch_stride);
            let attribute = cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
            // SAFETY: the layout lives, and the attribute has the size of the value.
            self.check("cublasLtMatrixLayoutSetAttribute", unsafe {
                set(layout, attribute, (&raw const count).cast(), size_of::<i32>())
            })?;
            let attribute = cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            // SAFETY: as above.
            self.check("cublasLtMatrixLayoutSetAttribute", unsafe {
                set(layout, attribute, (&raw const stride).cast(), size_of::<i64>())
            })?;
        }
        Ok(if self.choose(product, &mut plan)? { Some(plan) } else { None })
    }

    fn choose(&self, product: &Product, plan: &mut Plan) -> Result<bool> {
        let (Some(desc), [Some(a), Some(b), Some(d)]) = (plan.desc, plan.layouts) else {
            return Err(Error::internal("a product without descriptors"));
        };
        let mut preference = ptr::null_mut();
        // SAFETY: `preference` lives through the call.
        self.check("cublasLtMatmulPreferenceCreate", unsafe {
            (self.table.cublasLtMatmulPreferenceCreate)(&raw mut preference)
        })?;
        use cublasLtMatmulPreferenceAttributes_t as P;
        let set = self.table.cublasLtMatmulPreferenceSetAttribute;
        let workspace = WORKSPACE;
        let attribute = P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the preference lives, and the attribute has the size of the value.
        let mut code = unsafe { set(preference, attribute, (&raw const workspace).cast(), size_of::<usize>()) };
        let alignments = [
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.a.alignment),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.b.alignment),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.d.alignment),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.d.alignment),
        ];
        for (attribute, bytes) in alignments {
            if code == 0 {
                // SAFETY: as above.
                code = unsafe { set(preference, attribute, (&raw const bytes).cast(), size_of::<u32>()) };
            }
        }
        let mut found = MaybeUninit::<cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut count = 0;
        if code == 0 {
            // SAFETY: all descriptors live, and there is room for the one result that is asked for.
            code = unsafe {
                let ask = self.table.cublasLtMatmulAlgoGetHeuristic;
                ask(self.handle, desc, a, b, d, d, preference, 1, found.as_mut_ptr(), &raw mut count)
            };
        }
        // SAFETY: it is destroyed once.
        let destroyed = unsafe { (self.table.cublasLtMatmulPreferenceDestroy)(preference) };
        if code == NOT_SUPPORTED {
            return Ok(false);
        }
        self.check("cublasLtMatmulAlgoGetHeuristic", code)?;
        self.check("cublasLtMatmulPreferenceDestroy", destroyed)?;
        // SAFETY: the result was zeroed, and is read as plain numbers: a status may be one that the bindings lack.
        let (state, workspace) = unsafe {
            let result = found.as_ptr();
            plan.algorithm.as_mut_ptr().copy_from_nonoverlapping(&raw const (*result).algo, 1);
            ((&raw const (*result).state).cast::<u32>().read(), (*result).workspaceSize)
        };
        plan.workspace = workspace;
        Ok(count > 0 && state == 0 && workspace <= WORKSPACE)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: it is destroyed once. An error leaves nothing to do.
            let _: Code = unsafe { (self.table.cublasLtDestroy)(self.handle) };
        }
    }
}

impl Plan {
    /// Bytes of scratch memory that a run needs.
    pub fn workspace(&self) -> usize {
        self.workspace
    }

    /// Runs on addresses that the caller answers for; `workspace` has as many bytes as [`Plan::workspace`] says.
    pub(crate) fn run(&self, stream: &Stream, a: u64, b: u64, d: u64, workspace: u64) -> Result<()> {
        let (Some(desc), [Some(a_layout), Some(b_layout), Some(d_layout)]) = (self.desc, self.layouts) else {
            return Err(Error::internal("a product without descriptors"));
        };
        let _entered = self.library.context.enter()?;
        let (one, zero, one64, zero64) = (1f32, 0f32, 1f64, 0f64);
        let (alpha, beta): (*const c_void, *const c_void) = if self.double {
            ((&raw const one64).cast(), (&raw const zero64).cast())
        } else {
            ((&raw const one).cast(), (&raw const zero).cast())
        };
        // SAFETY: all descriptors live; the factors are of the scale type and are read before the call returns; with
        // a factor of zero the third matrix is not read. The stream's handle is the same type under two names.
        let code = unsafe {
            (self.library.table.cublasLtMatmul)(
                self.library.handle,
                desc,
                alpha,
                a as *const c_void,
                a_layout,
                b as *const c_void,
                b_layout,
                beta,
                d as *const c_void,
                d_layout,
                d as *mut c_void,
                d_layout,
                self.algorithm.as_ptr(),
                workspace as *mut c_void,
                self.workspace,
                stream.raw().cast(),
            )
        };
        self.library.check("cublasLtMatmul", code)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each descriptor is destroyed once; they are host memory of the library. Errors leave nothing to do.
        unsafe {
            for layout in self.layouts.iter().flatten() {
                let _: Code = (self.library.table.cublasLtMatrixLayoutDestroy)(*layout);
            }
            if let Some(desc) = self.desc {
                let _: Code = (self.library.table.cublasLtMatmulDescDestroy)(desc);
            }
        }
    }
}
