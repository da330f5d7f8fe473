//! The simulator under its own name, and kernels to try it with.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// A sum of arrays, and a kernel all of whose threads write one byte of shared memory.
pub const PTX: &str = "
.version 8.8
.target sm_80
.address_size 64
.const .align 4 .f32 one = 0f3F800000;
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n) {
  .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %rd<20>; .reg .f32 %f<9>;
  ld.param.u64 %rd1, [a];
  ld.param.u64 %rd2, [b];
  ld.param.u64 %rd3, [c];
  ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra $L;
  mul.wide.u32 %rd4, %r5, 4;
  add.s64 %rd5, %rd1, %rd4;
  add.s64 %rd6, %rd2, %rd4;
  add.s64 %rd7, %rd3, %rd4;
  ld.global.f32 %f1, [%rd5];
  ld.global.f32 %f2, [%rd6];
  add.rn.f32 %f3, %f1, %f2;
  st.global.f32 [%rd7], %f3;
$L:
  ret;
}
.extern .shared .align 16 .b8 dyn[];
.visible .entry big() .maxntid 64, 1, 1 {
  .reg .b32 %r<3>;
  mov.u32 %r1, %tid.x;
  mov.u32 %r2, dyn;
  st.shared.u32 [%r2], %r1;
  ret;
}
";

/// The simulator, with the functions of its own.
pub struct Sim {
    pub lib: libloading::Library,
}

type Text = unsafe extern "C" fn() -> *const c_char;

impl Sim {
    fn text(&self, name: &str) -> String {
        // SAFETY: both functions of this kind give a text that ends in a zero byte.
        unsafe { CStr::from_ptr(self.lib.get::<Text>(name).unwrap()()) }.to_str().unwrap().to_string()
    }

    pub fn fault(&self) -> String {
        self.text("torsh_cuda_sim_last_fault")
    }

    pub fn counters(&self) -> String {
        self.text("torsh_cuda_sim_counters")
    }

    pub fn fail(&self, function: &str, nth: u64, code: i32) {
        let name = CString::new(function).unwrap();
        // SAFETY: the type is that of the function.
        let f = unsafe { self.lib.get::<unsafe extern "C" fn(*const c_char, u64, i32) -> i32>("torsh_cuda_sim_fail") };
        // SAFETY: the name ends in a zero byte.
        assert_eq!(unsafe { f.unwrap()(name.as_ptr(), nth, code) }, 0);
    }

    pub fn fail_alloc(&self, nth: u64) {
        // SAFETY: the type is that of the function.
        let f = unsafe { self.lib.get::<unsafe extern "C" fn(u64)>("torsh_cuda_sim_fail_alloc") };
        // SAFETY: any number may be given.
        unsafe { f.unwrap()(nth) }
    }

    pub fn configure(&self, reversed: i32, races: i32, memory: u64) {
        // SAFETY: the type is that of the function.
        let f = unsafe { self.lib.get::<unsafe extern "C" fn(i32, i32, u64)>("torsh_cuda_sim_configure") };
        // SAFETY: any numbers may be given.
        unsafe { f.unwrap()(reversed, races, memory) }
    }
}

/// One test at a time, on a simulator that has just started. The library lies beside the test program; once it is
/// open under its own name, everything that asks for libcuda.so.1 finds it.
pub fn sim() -> (MutexGuard<'static, ()>, &'static Sim) {
    static SERIAL: Mutex<()> = Mutex::new(());
    static SIM: OnceLock<Sim> = OnceLock::new();
    let guard = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
    let sim = SIM.get_or_init(|| {
        let path = std::env::current_exe().unwrap().parent().unwrap().join("libtorsh_cuda_sim.so");
        // SAFETY: loading the simulator runs no code of its own.
        Sim { lib: unsafe { libloading::Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    });
    // SAFETY: the types are those of the functions, and nothing of earlier tests is alive.
    unsafe {
        assert_eq!(sim.lib.get::<unsafe extern "C" fn() -> u32>("torsh_cuda_sim_version").unwrap()(), 1);
        assert_eq!(sim.lib.get::<unsafe extern "C" fn() -> i32>("torsh_cuda_sim_reset").unwrap()(), 0);
    }
    (guard, sim)
}

/// The code of an error.
pub fn code<T>(r: Result<T, DriverError>) -> CUresult {
    r.map(|_| ()).expect_err("an error").0
}
