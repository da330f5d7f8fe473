//! Two devices: what belongs to one of them is refused by the other.

mod common;

use std::sync::{Arc, MutexGuard, Once};

use common::{PTX, Sim, code};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig};
use cudarc::driver::{PushKernelArg, result};
use cudarc::nvrtc::Ptx;

const N: usize = 8;

/// A device with what a program has there.
struct Side {
    ctx: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    add: CudaFunction,
    ones: CudaSlice<f32>,
    at: u64,
}

impl Side {
    fn new(ordinal: usize) -> Side {
        let ctx = CudaContext::new(ordinal).unwrap();
        // SAFETY: every piece of work here is done when its call returns.
        unsafe { ctx.disable_event_tracking() };
        let stream = ctx.new_stream().unwrap();
        let add = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("add").unwrap();
        let ones = stream.clone_htod(&[1f32; N]).unwrap();
        let at = ones.device_ptr(&stream).0;
        Side { ctx, stream, add, ones, at }
    }

    /// Adds the numbers at an address to themselves, by this side's kernel on a stream.
    fn double(&self, stream: &Arc<CudaStream>, at: u64) -> Result<(), DriverError> {
        let n = N as u32;
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(&at).arg(&at).arg(&at).arg(&n);
        // SAFETY: the kernel's parameters are three pointers and a number; whose the memory is is what is tested.
        unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.map(|_| ())
    }

    fn works(&self) {
        self.ctx.synchronize().unwrap();
        let before = self.stream.clone_dtoh(&self.ones).unwrap();
        self.double(&self.stream, self.at).unwrap();
        let after = self.stream.clone_dtoh(&self.ones).unwrap();
        assert!(before.iter().zip(&after).all(|(a, b)| 2.0 * a == *b), "{before:?} {after:?}");
    }
}

/// A simulator of two devices that has just started.
fn two() -> (MutexGuard<'static, ()>, &'static Sim, [Side; 2]) {
    static ENVIRONMENT: Once = Once::new();
    let (one, sim) = common::sim();
    // SAFETY: under the lock of all tests here, before any of them has asked the driver for anything.
    ENVIRONMENT.call_once(|| unsafe { std::env::set_var("TORSH_CUDA_SIM_DEVICES", "2") });
    let sides = [0, 1].map(Side::new);
    (one, sim, sides)
}

#[test]
fn each_device_has_a_context_and_memory_of_its_own() {
    let (_one, _sim, [a, b]) = two();
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    assert_eq!(code(CudaContext::new(2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    assert_ne!(a.ctx.uuid().unwrap().bytes, b.ctx.uuid().unwrap().bytes);
    assert_eq!(a.at >> 44, 0);
    assert_eq!(b.at >> 44, 1);
    let free = |side: &Side| side.ctx.mem_get_info().unwrap().0;
    let before = [free(&a), free(&b)];
    let more = b.stream.alloc_zeros::<u8>(4096).unwrap();
    assert_eq!([free(&a), free(&b)], [before[0], before[1] - 4096]);
    // Whatever context is current, memory is given back where it is.
    a.ctx.bind_to_thread().unwrap();
    let address = more.leak();
    // SAFETY: nobody uses the memory any more.
    unsafe { result::free_sync(address) }.unwrap();
    assert_eq!([free(&a), free(&b)], before);
    a.works();
    b.works();
}

#[test]
fn a_kernel_does_not_reach_the_memory_of_another_device() {
    let (_one, sim, [a, b]) = two();
    assert_eq!(code(b.double(&b.stream, a.at)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(sim.fault().contains("OutOfBounds in kernel add"), "{}", sim.fault());
    assert_eq!(code(b.ctx.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    a.works();
}

#[test]
fn a_fault_stays_with_the_device_of_the_kernel() {
    let (_one, _sim, [a, b]) = two();
    let (at, n) = (0u64, N as u32);
    let pointer = std::ptr::from_ref(&at).cast_mut().cast();
    let mut params = [pointer, pointer, pointer, std::ptr::from_ref(&n).cast_mut().cast()];
    a.ctx.bind_to_thread().unwrap();
    // SAFETY: the kernel takes three pointers and a number; that there is nothing at 0 is what is tested.
    let launched = unsafe {
        let (f, s) = (b.add.cu_function(), b.stream.cu_stream());
        result::launch_kernel(f, (1, 1, 1), (32, 1, 1), 0, s, &mut params)
    };
    assert_eq!(code(launched), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    a.works();
    assert_eq!(code(b.ctx.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn kernels_and_streams_of_two_devices() {
    let (_one, sim, [a, b]) = two();
    for stream in [b.stream.clone(), b.ctx.default_stream()] {
        assert_eq!(code(a.double(&stream, a.at)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert!(sim.fault().contains("kernel add of device 0 is launched on a stream of another device"));
    }
    a.works();
    b.works();
}

#[test]
fn events_are_recorded_at_home_and_waited_for_anywhere() {
    let (_one, sim, [a, b]) = two();
    let event = a.ctx.new_event(None).unwrap();
    let record = |stream: &CudaStream| {
        stream.context().bind_to_thread().unwrap();
        // SAFETY: both are alive.
        unsafe { result::event::record(event.cu_event(), stream.cu_stream()) }
    };
    assert_eq!(code(record(&b.stream)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    assert!(sim.fault().contains("an event is recorded on a stream of another device"));
    record(&a.stream).unwrap();
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both are alive.
    unsafe { result::stream::wait_event(b.stream.cu_stream(), event.cu_event(), flags) }.unwrap();
    // The streams that always exist are the current context's.
    b.ctx.bind_to_thread().unwrap();
    // SAFETY: the event is alive.
    let legacy = unsafe { result::event::record(event.cu_event(), std::ptr::null_mut()) };
    assert_eq!(code(legacy), CUresult::CUDA_ERROR_INVALID_HANDLE);
    a.works();
    b.works();
}

#[test]
fn copies_between_devices_name_the_owners() {
    let (_one, sim, [a, b]) = two();
    a.works();
    let bytes = 4 * N;
    let copy = |to: (u64, sys::CUcontext), from: (u64, sys::CUcontext), bytes: usize| {
        // SAFETY: memory and stream are alive; whose they are is what is tested.
        unsafe { sys::cuMemcpyPeerAsync(to.0, to.1, from.0, from.1, bytes, a.stream.cu_stream()) }.result()
    };
    let (first, second) = (a.ctx.cu_ctx(), b.ctx.cu_ctx());
    copy((b.at, second), (a.at, first), bytes).unwrap();
    assert_eq!(b.stream.clone_dtoh(&b.ones).unwrap(), [2.0; N]);
    for (to, from, bytes, whose) in [
        ((b.at, first), (a.at, first), bytes, "is no memory of device 0"),
        ((b.at, second), (a.at, second), bytes, "is no memory of device 1"),
        ((b.at, second), (a.at, first), bytes + 1, "is no memory of device 1"),
        ((b.at + 1, second), (a.at, first), bytes, "is no memory of device 1"),
    ] {
        assert_eq!(code(copy(to, from, bytes)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(sim.fault().contains(whose), "{whose}: {}", sim.fault());
    }
    let stranger = (first as usize + 2) as sys::CUcontext;
    assert_eq!(code(copy((b.at, stranger), (a.at, first), bytes)), CUresult::CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(b.stream.clone_dtoh(&b.ones).unwrap(), [2.0; N]);
    a.works();
    b.works();
}
