//! Modules and their kernels.

use super::driver::Context;
use super::stream::Stream;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUmodule};
use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use torsh_ir::{Error, Result};

/// Machine code on a device.
pub struct Module {
    context: Arc<Context>,
    module: CUmodule,
}

// SAFETY: the driver's functions take a module from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module, with what it can be launched with.
pub struct Function {
    module: Arc<Module>,
    function: CUfunction,
    name: String,
    params: Vec<u32>,
    block: [u32; 3],
    dynamic_shared: u32,
}

// SAFETY: as for modules.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// What a kernel is expected to be.
pub struct Expected<'a> {
    /// Its symbol.
    pub name: &'a str,
    /// Bytes of each parameter, 4 or 8.
    pub params: &'a [u32],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory that it declares.
    pub static_shared: u32,
    /// The largest dynamic shared memory that it is launched with.
    pub dynamic_shared: u32,
}

impl Module {
    /// Loads a CUBIN, or, on the simulator, PTX.
    pub fn new(context: &Arc<Context>, image: &[u8]) -> Result<Arc<Module>> {
        // Text ends with a zero, and so a zero does no harm behind a CUBIN.
        let mut text = image.to_vec();
        text.push(0);
        let entered = context.enter()?;
        let mut module = ptr::null_mut();
        // SAFETY: `text` is an image that NVRTC made, ended by a zero, and both places live through the call.
        let code = unsafe { (entered.table().cuModuleLoadData)(&raw mut module, text.as_ptr().cast()) };
        entered.check("cuModuleLoadData", code)?;
        Ok(Arc::new(Module { context: context.clone(), module }))
    }

    /// A kernel; what the code says of itself must agree with what is expected and with the device's limits.
    pub fn function(self: &Arc<Self>, expected: &Expected<'_>, shared_limit: u32) -> Result<Function> {
        let entered = self.context.enter()?;
        let name = CString::new(expected.name).map_err(|_| Error::internal("a zero in the name of a kernel"))?;
        let mut function = ptr::null_mut();
        // SAFETY: `name` ends with a zero, and both places live through the call.
        let code = unsafe { (entered.table().cuModuleGetFunction)(&raw mut function, self.module, name.as_ptr()) };
        entered.check("cuModuleGetFunction", code)?;
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: the function belongs to the module, which lives, and `value` does through the call.
            let code = unsafe { (entered.table().cuFuncGetAttribute)(&raw mut value, attribute, function) };
            entered.check("cuFuncGetAttribute", code).map(|()| u32::try_from(value).unwrap_or(0))
        };
        let threads = expected.block.iter().try_fold(1u32, |n, &b| n.checked_mul(b)).unwrap_or(u32::MAX);
        let most = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let declared = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let shared = declared.saturating_add(expected.dynamic_shared);
        if threads > most || shared > shared_limit || declared > expected.static_shared {
            return Err(Error::compile(format!(
                "kernel {} has blocks of {threads} threads (its code allows {most}) and {shared} bytes of shared memory, {declared} of them declared (expected {}; the device allows {shared_limit})",
                expected.name, expected.static_shared
            )));
        }
        if expected.dynamic_shared > 0 && shared > DEFAULT_SHARED {
            let value = c_int::try_from(expected.dynamic_shared).unwrap_or(c_int::MAX);
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the module, which lives.
            let code = unsafe { (entered.table().cuFuncSetAttribute)(function, attribute, value) };
            entered.check("cuFuncSetAttribute", code)?;
        }
        Ok(Function {
            module: self.clone(),
            function,
            name: expected.name.to_string(),
            params: expected.params.to_vec(),
            block: expected.block,
            dynamic_shared: expected.dynamic_shared,
        })
    }
}

/// What a block may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

impl Drop for Module {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // Kernels of the module may still run.
            entered.synchronize()?;
            // SAFETY: it is unloaded once, and no function of it outlives it.
            entered.check("cuModuleUnload", unsafe { (entered.table().cuModuleUnload)(self.module) })
        });
    }
}

/// An argument of a launch.
#[derive(Copy, Clone, Debug)]
pub enum Arg {
    /// A 32-bit word.
    U32(u32),
    /// A 64-bit word or an address.
    U64(u64),
}

impl Function {
    /// Launches. Arguments, block and shared memory must be those that the kernel was made for. Addresses among
    /// the arguments are the caller's to answer for: the kernel reads and writes what its generator says.
    pub(crate) fn launch(
        &self,
        stream: &Stream,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: &[Arg],
    ) -> Result<()> {
        let sizes = args.iter().map(|a| match a {
            Arg::U32(_) => 4,
            Arg::U64(_) => 8,
        });
        let fits = sizes.eq(self.params.iter().copied());
        if !fits || block != self.block || shared > self.dynamic_shared || grid.contains(&0) {
            return Err(Error::internal(format!("kernel {} is launched with other arguments than its own", self.name)));
        }
        // Little-endian words: a 32-bit parameter is read from the first four bytes.
        let mut words: smallvec::SmallVec<[u64; 24]> = args
            .iter()
            .map(|a| match *a {
                Arg::U32(w) => u64::from(w).to_le(),
                Arg::U64(w) => w,
            })
            .collect();
        let mut places: smallvec::SmallVec<[*mut c_void; 24]> =
            words.iter_mut().map(|w| ptr::from_mut(w).cast::<c_void>()).collect();
        let entered = self.module.context.enter()?;
        let [gx, gy, gz] = grid;
        let [bx, by, bz] = block;
        // SAFETY: there is one place for each parameter, of its size, and all live through the call; the driver
        // copies them. The function belongs to a module that lives.
        let code = unsafe {
            let places = places.as_mut_ptr();
            let launch = entered.table().cuLaunchKernel;
            launch(self.function, gx, gy, gz, bx, by, bz, shared, stream.raw(), places, ptr::null_mut())
        };
        entered.check("cuLaunchKernel", code)
    }
}
