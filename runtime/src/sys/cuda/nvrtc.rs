//! NVRTC: CUDA C++ to machine code, through a table of its functions.

use super::load::{self, Code, functions};
use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::ptr;
use torsh_ir::{Error, Result};

functions! {
    /// The functions of NVRTC that are used.
    Table, cudarc::nvrtc::sys, nvrtcResult;
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcGetNumSupportedArchs(*mut c_int);
    nvrtcGetSupportedArchs(*mut c_int);
    nvrtcCreateProgram(*mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    nvrtcDestroyProgram(*mut nvrtcProgram);
    nvrtcCompileProgram(nvrtcProgram, c_int, *const *const c_char);
    nvrtcGetCUBINSize(nvrtcProgram, *mut usize);
    nvrtcGetCUBIN(nvrtcProgram, *mut c_char);
    nvrtcGetPTXSize(nvrtcProgram, *mut usize);
    nvrtcGetPTX(nvrtcProgram, *mut c_char);
    nvrtcGetProgramLogSize(nvrtcProgram, *mut usize);
    nvrtcGetProgramLog(nvrtcProgram, *mut c_char);
}

/// `NVRTC_ERROR_COMPILATION`: the source is at fault.
const COMPILATION: Code = nvrtcResult::NVRTC_ERROR_COMPILATION as Code;

type Describe = unsafe extern "C" fn(Code) -> *const c_char;

/// NVRTC, loaded. It stays loaded as long as the process lives.
pub struct Nvrtc {
    table: Table,
    describe: Describe,
    version: (i32, i32),
    archs: Vec<u32>,
    /// Keeps the functions in place.
    _library: Library,
}

/// What a compilation gave.
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// The same as PTX, without the zero at the end.
    pub ptx: Vec<u8>,
    /// The compiler's remarks.
    pub log: String,
}

impl Nvrtc {
    /// Opens it by path or name; on failure says why.
    pub fn open(name: &OsStr) -> Result<Nvrtc, String> {
        let library = load::open(name)?;
        let at = name.to_string_lossy();
        let table = Table::resolve(&library)
            .map_err(|missing| format!("{at} is too old or broken: it lacks {}", missing.join(", ")))?;
        // SAFETY: the function takes a code and gives a string that is never freed.
        let describe = *unsafe { library.get::<Describe>(b"nvrtcGetErrorString") }
            .map_err(|_| format!("{at} is too old or broken: it lacks nvrtcGetErrorString"))?;
        let mut nvrtc = Nvrtc { table, describe, version: (0, 0), archs: Vec::new(), _library: library };
        nvrtc.ask().map_err(|e| format!("{at}: {}", e.message()))?;
        Ok(nvrtc)
    }

    fn ask(&mut self) -> Result<()> {
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: all places live through their calls.
        unsafe {
            self.check("nvrtcVersion", (self.table.nvrtcVersion)(&raw mut major, &raw mut minor))?;
            self.check("nvrtcGetNumSupportedArchs", (self.table.nvrtcGetNumSupportedArchs)(&raw mut count))?;
        }
        let mut archs = vec![0; usize::try_from(count).unwrap_or(0)];
        if !archs.is_empty() {
            // SAFETY: the list has as many places as NVRTC said that it has numbers.
            self.check("nvrtcGetSupportedArchs", unsafe { (self.table.nvrtcGetSupportedArchs)(archs.as_mut_ptr()) })?;
        }
        self.version = (major, minor);
        self.archs = archs.into_iter().filter_map(|a| u32::try_from(a).ok()).collect();
        Ok(())
    }

    fn check(&self, call: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC gives a string, or null, for any code, and never frees it.
        let text = unsafe {
            let text = (self.describe)(code);
            if text.is_null() { "an unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(Error::device(format!("{call} failed with {text} ({code})")))
    }

    /// Major and minor.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What it generates code for: compute capabilities times ten.
    pub fn archs(&self) -> &[u32] {
        &self.archs
    }

    /// Compiles; the options name a real architecture (`sm_90`).
    pub fn compile(&self, source: &str, options: &[String]) -> Result<Compiled> {
        let zero = |_| Error::compile("a zero in the source of a kernel, or in an option");
        let text = CString::new(source).map_err(zero)?;
        let options = options.iter().map(|o| CString::new(o.as_str())).collect::<Result<Vec<_>, _>>().map_err(zero)?;
        let list: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: the source ends with a zero, there are no headers, and all places live through the call.
        let code = unsafe {
            let name = c"torsh.cu".as_ptr();
            (self.table.nvrtcCreateProgram)(&raw mut program, text.as_ptr(), name, 0, ptr::null(), ptr::null())
        };
        self.check("nvrtcCreateProgram", code)?;
        let program = Program { nvrtc: self, program };
        let count = c_int::try_from(list.len()).map_err(|_| Error::compile("too many options"))?;
        // SAFETY: the program lives, and so do `count` strings, each ended by a zero.
        let code = unsafe { (self.table.nvrtcCompileProgram)(program.program, count, list.as_ptr()) };
        let log = program.bytes("the log", self.table.nvrtcGetProgramLogSize, self.table.nvrtcGetProgramLog);
        let log = log.map(|l| String::from_utf8_lossy(&l).trim_end_matches(['\0', '\n']).to_string());
        if code == COMPILATION {
            return Err(Error::compile(format!("NVRTC refused the generated source: {}", log?)));
        }
        self.check("nvrtcCompileProgram", code)?;
        let cubin = program.bytes("the CUBIN", self.table.nvrtcGetCUBINSize, self.table.nvrtcGetCUBIN)?;
        let mut ptx = program.bytes("the PTX", self.table.nvrtcGetPTXSize, self.table.nvrtcGetPTX)?;
        ptx.truncate(ptx.iter().position(|&b| b == 0).unwrap_or(ptx.len()));
        if cubin.is_empty() {
            return Err(Error::compile(format!("NVRTC gave no machine code for the options {options:?}")));
        }
        Ok(Compiled { cubin, ptx, log: log? })
    }
}

struct Program<'a> {
    nvrtc: &'a Nvrtc,
    program: nvrtcProgram,
}

impl Program<'_> {
    fn bytes(
        &self,
        what: &str,
        size: unsafe extern "C" fn(nvrtcProgram, *mut usize) -> Code,
        get: unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> Code,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program lives, and `len` does through the call.
        self.nvrtc
            .check(&format!("asking NVRTC for the size of {what}"), unsafe { size(self.program, &raw mut len) })?;
        let mut bytes = vec![0u8; len];
        if len > 0 {
            // SAFETY: the buffer has as many bytes as NVRTC asked for.
            let code = unsafe { get(self.program, bytes.as_mut_ptr().cast()) };
            self.nvrtc.check(&format!("asking NVRTC for {what}"), code)?;
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once. An error leaves nothing to do.
        let _: Code = unsafe { (self.nvrtc.table.nvrtcDestroyProgram)(&raw mut self.program) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_is_not_nvrtc_is_an_error_that_says_what_it_lacks() {
        let e = Nvrtc::open(OsStr::new("libc.so.6")).err().unwrap();
        assert!(e.contains("libc.so.6") && e.contains("nvrtcCompileProgram"), "{e}");
    }
}
