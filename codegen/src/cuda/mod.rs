//! Code generation for CUDA: one CUDA C++ source per program, without includes, and a plan of launches.
//!
//! [`generate`] runs nothing and knows no driver: it returns text and plain data. The caller compiles
//! [`Module::source`] with the options of [`Options::compiler_flags`], binds one device pointer to each buffer of
//! the program, one to [`Module::scratch_bytes`] of scratch memory and one to [`ERROR_BYTES`] of error record, and
//! launches [`StepPlan::launches`] of each step in order on one stream. Contracts between the two:
//! * every buffer, and the scratch memory, starts at a multiple of 16 bytes;
//! * scratch memory holds anything when a step begins, and nothing of it lives on to the next step;
//! * the error record is filled with `0xff` bytes before the first launch; after the last one
//!   [`Module::failure`] says what went wrong, if anything did. Until that is known nothing may be shown to the
//!   user: a program with a step that [may fail](StepPlan::may_fail) and donated inputs needs copies of these;
//! * the source is the same for the same program and options, so it may key a cache of machine code.
//!
//! # Right by construction
//! Kernels call a closed list of intrinsics (`tests/tests/cuda_text.rs` holds the list). Shuffles name all 32 lanes
//! and stand where all lanes of a warp arrive, barriers where all threads of a block do: loops around them have
//! trip counts that are the same for all, and loads inside are predicated. Blocks never wait for one another: what
//! needs the results of all blocks is a second launch. The read-only cache is used for parameters that share no
//! memory with anything that the same launch writes.
//!
//! # Numbers
//! As `torsh_ir::scalar` states, in f32 for the 16-bit floats, which are rounded after each operation. The functions
//! of f32 are those of [`crate::cpu::math`], written out as text: the same bits as on the CPU. Those of f64 are
//! CUDA's own: at most 2 units in the last place by its documentation. Sums and products of floats accumulate in f64
//! along a fixed tree, so results do not depend on timing.

mod access;
mod attention;
mod attention_again;
mod attention_grad;
mod attention_mma;
mod attention_text;
mod copies;
mod dot;
mod dot_mma;
mod dot_pipe;
mod dot_tile;
mod generate;
mod group;
mod helpers;
mod index;
mod map;
mod math;
mod parts;
mod row;
mod row_code;
mod scalar;
mod scan;
mod sort;
mod transpose;

use torsh_ir::program::{BufId, Program};
use torsh_ir::{DType, Error, Result};

pub use generate::generate;

/// Changes whenever the same program may give another source.
pub const GENERATOR_VERSION: u32 = 3;

/// Bytes of the error record.
pub const ERROR_BYTES: usize = 32;

/// What code is generated for, and how.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Options {
    /// Compute capability times ten: 80 or more.
    pub sm: u32,
    /// Sums of a scatter are taken in the order of the source; else f32 and f64 ones use atomic additions, whose
    /// order is not fixed.
    pub deterministic: bool,
    /// Products of f32 may be computed in TF32.
    pub tf32: bool,
    /// Multiprocessors of the device: how much work is cut into pieces.
    pub processors: u32,
    /// Shared memory that a block may ask for, in bytes.
    pub shared_bytes: u32,
    /// Positions and addresses are computed in 64 bits where 32 would do as well: for tests.
    pub wide: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { sm: 90, deterministic: true, tf32: false, processors: 132, shared_bytes: 227 << 10, wide: false }
    }
}

impl Options {
    /// Options for NVRTC under which the source means what it should.
    pub fn compiler_flags(&self) -> Vec<String> {
        let arch = format!("--gpu-architecture=sm_{}", self.sm);
        let fixed = [
            "-fmad=false",
            "-prec-div=true",
            "-prec-sqrt=true",
            "-ftz=false",
            "--std=c++17",
            "--diag-suppress=177,186,550",
        ];
        std::iter::once(arch).chain(fixed.map(String::from)).collect()
    }
}

/// A program's kernels and launches.
#[derive(Clone, PartialEq, Debug)]
pub struct Module {
    /// CUDA C++ without includes.
    pub source: String,
    /// Its kernels; equal ones are one.
    pub kernels: Vec<KernelInfo>,
    /// One for each step of the program.
    pub steps: Vec<StepPlan>,
    /// Scratch memory, in bytes.
    pub scratch_bytes: usize,
    /// What the error record's numbers stand for.
    pub checks: Vec<IndexCheck>,
}

/// A kernel of a module.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KernelInfo {
    /// Its symbol.
    pub name: String,
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory that it declares, in bytes.
    pub static_shared: u32,
    /// The largest dynamic shared memory of its launches, in bytes: above 48 KiB the driver must be told.
    pub dynamic_shared: u32,
    /// What it computes, for listings.
    pub covers: String,
    /// Sizes of its parameters in bytes, in order.
    pub params: Vec<u32>,
    /// Its launch bounds, in C.
    pub bounds: String,
    /// Its parameters and body, in C.
    pub text: String,
}

/// An argument of a launch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum LaunchArg {
    /// The address of a byte of a buffer.
    Buffer {
        /// Which.
        buf: BufId,
        /// Byte within it.
        offset: usize,
    },
    /// The address of a byte of the scratch memory.
    Scratch {
        /// Byte within it.
        offset: usize,
    },
    /// The address of the error record.
    Error,
    /// A 32-bit word.
    U32(u32),
    /// A 64-bit word.
    U64(u64),
}

impl LaunchArg {
    /// Bytes that the parameter takes.
    pub fn size(&self) -> u32 {
        match self {
            LaunchArg::U32(_) => 4,
            LaunchArg::Buffer { .. } | LaunchArg::Scratch { .. } | LaunchArg::Error | LaunchArg::U64(_) => 8,
        }
    }
}

/// One kernel launch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Launch {
    /// Index in [`Module::kernels`].
    pub kernel: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, the kernel's.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Arguments, in order.
    pub args: Vec<LaunchArg>,
}

/// How a step runs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StepPlan {
    /// In order. None where there is nothing to compute.
    pub launches: Vec<Launch>,
    /// A product that cublasLt can compute instead.
    pub library: Option<MatmulPlan>,
    /// It may write the error record: an index out of range.
    pub may_fail: bool,
}

/// How a library should compute a product.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Compute {
    /// f32 throughout; 16-bit operands are exact in it.
    F32,
    /// TF32 products, f32 sums.
    Tf32,
    /// f64 throughout.
    F64,
}

/// A matrix within a buffer; strides count elements.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatrixLayout {
    /// The buffer.
    pub buf: BufId,
    /// Offset of the first element.
    pub offset: i64,
    /// Stride of rows; one of the two strides is 1.
    pub row_stride: i64,
    /// Stride of columns.
    pub col_stride: i64,
    /// Stride of matrices.
    pub batch_stride: i64,
}

/// A product of matrices, `out[b, m, n] = sum_k lhs[b, m, k] rhs[b, k, n]`, all of one dtype.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MatmulPlan {
    /// Element type: f16, bf16, f32 or f64.
    pub dtype: DType,
    /// Type to compute in.
    pub compute: Compute,
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the contraction.
    pub k: usize,
    /// m x k.
    pub lhs: MatrixLayout,
    /// k x n.
    pub rhs: MatrixLayout,
    /// m x n, contiguous rows.
    pub out: MatrixLayout,
}

/// An index that a step checks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IndexCheck {
    /// The step.
    pub step: usize,
    /// The indexed dim.
    pub dim: usize,
    /// Its size.
    pub size: usize,
}

/// What an error record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Index in [`Module::checks`].
    pub check: usize,
    /// Position of the index in its buffer; saturates at `u32::MAX`.
    pub position: u32,
    /// The index.
    pub index: i64,
}

/// Reads an error record: the first bad index of the first step that met one.
///
/// The record is four words, each the least of `check << 48 | position << 16 | part` over all bad indices, where the
/// parts are the four 16-bit pieces of the index, lowest first: so it does not depend on the order of threads.
pub fn decode_error(words: [u64; 4]) -> Option<Failure> {
    if words[0] == u64::MAX {
        return None;
    }
    let index = words.iter().rev().fold(0u64, |index, w| index << 16 | (w & 0xffff));
    Some(Failure { check: (words[0] >> 48) as usize, position: (words[0] >> 16) as u32, index: index.cast_signed() })
}

impl Module {
    /// The error that an error record stands for, with the op and the user's line; `None` if all went well.
    pub fn failure(&self, program: &Program, words: [u64; 4]) -> Option<Error> {
        let failure = decode_error(words)?;
        let Some(check) = self.checks.get(failure.check) else {
            return Some(Error::internal(format!("the error record holds {words:x?}")));
        };
        let (index, dim, size) = (failure.index, check.dim, check.size);
        let e = Error::index(format!("index {index} is out of bounds for dimension {dim} with size {size}"));
        let Some(step) = program.steps.get(check.step) else { return Some(e) };
        let e = e.with_loc(step.loc.clone());
        Some(step.ops.last().map_or(e.clone(), |op| e.with_op(op)))
    }

    /// Bytes of the arguments of a launch, as the driver takes them.
    pub fn check_launch(&self, launch: &Launch) -> Result<()> {
        let kernel = self.kernels.get(launch.kernel).ok_or_else(|| Error::internal("a launch of no kernel"))?;
        let sizes: Vec<u32> = launch.args.iter().map(LaunchArg::size).collect();
        if sizes != kernel.params || launch.block != kernel.block || launch.dynamic_shared > kernel.dynamic_shared {
            return Err(Error::internal(format!("{} is launched with other arguments than its own", kernel.name)));
        }
        if launch.grid.contains(&0) || launch.grid[0] > i32::MAX as u32 || launch.grid[1..].iter().any(|&g| g > 65_535)
        {
            return Err(Error::internal(format!("{} is launched on a grid of {:?}", kernel.name, launch.grid)));
        }
        Ok(())
    }
}
