//! The unchanged cudarc on the simulated driver: what a program does, and what goes wrong.

mod common;

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::Arc;

use common::{PTX, code, sim};
use cudarc::driver::sys::{self, CUdevice_attribute, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

fn add(ctx: &Arc<CudaContext>, stream: &Arc<CudaStream>, n: usize, claim: u32) -> Result<Vec<f32>, DriverError> {
    let f = ctx.load_module(Ptx::from_src(PTX))?.load_function("add")?;
    let a = stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>())?;
    let b = stream.clone_htod(&vec![0.5f32; n])?;
    let mut c = stream.alloc_zeros::<f32>(n)?;
    let mut launch = stream.launch_builder(&f);
    launch.arg(&a).arg(&b).arg(&mut c).arg(&claim);
    // SAFETY: the kernel's parameters are three pointers and a number; a claim that is too large is what is tested.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32)) }?;
    stream.clone_dtoh(&c)
}

#[test]
fn a_whole_program() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    assert_eq!(ctx.name().unwrap(), "torsh CUDA simulator sm_90");
    assert_eq!(ctx.compute_capability().unwrap(), (9, 0));
    let attr = |a| ctx.attribute(a).unwrap();
    assert_eq!(attr(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    assert_eq!(attr(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 227 * 1024);
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(code(CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    for stream in [ctx.default_stream(), ctx.new_stream().unwrap()] {
        let out = add(&ctx, &stream, 1000, 1000).unwrap();
        assert!(out.iter().enumerate().all(|(i, v)| *v == i as f32 + 0.5));
    }
    ctx.synchronize().unwrap();
    let (free, total) = ctx.mem_get_info().unwrap();
    assert_eq!(free, total, "all was freed");
    let c = sim.counters();
    for part in [
        "\"live_allocations\":0",
        "\"live_bytes\":0",
        "\"launches\":2",
        "\"bytes_to_host\":8000",
        "\"lane_instructions\":",
    ] {
        assert!(c.contains(part), "{part} in {c}");
    }
}

#[test]
fn streams_events_and_memory() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    let (s, t) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let a = s.clone_htod(&[1u32, 2, 3]).unwrap();
    let start = s.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    t.wait(&start).unwrap();
    let b = t.clone_dtod(&a).unwrap();
    let end = t.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert!(end.is_complete());
    assert_eq!(t.clone_dtoh(&b).unwrap(), [1, 2, 3]);
    // SAFETY: the memory is written before it is read.
    let mut pinned = unsafe { ctx.alloc_pinned::<u32>(3) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[7, 8, 9]);
    let mut c = s.alloc_zeros::<u32>(3).unwrap();
    assert_eq!(s.clone_dtoh(&c).unwrap(), [0; 3]);
    s.memcpy_htod(&pinned, &mut c).unwrap();
    assert_eq!(s.clone_dtoh(&c).unwrap(), [7, 8, 9]);
    assert!(sim.counters().contains("\"live_allocations\":3"));
    drop((a, b, c));
    assert!(sim.counters().contains("\"live_allocations\":0"));
    // The end of memory.
    sim.configure(0, 0, 1 << 20);
    assert_eq!(code(s.alloc_zeros::<u8>((1 << 20) + 1)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    s.alloc_zeros::<u8>(1 << 20).unwrap();
}

#[test]
fn graphs_are_recorded_and_replayed() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    // SAFETY: all work goes to one stream.
    unsafe { ctx.disable_event_tracking() };
    let s = ctx.new_stream().unwrap();
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("add").unwrap();
    let mut a = s.clone_htod(&[1f32; 64]).unwrap();
    let b = s.clone_htod(&[2f32; 64]).unwrap();
    let mut c = s.alloc_zeros::<f32>(64).unwrap();
    s.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(s.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    for _ in 0..2 {
        let mut launch = s.launch_builder(&f);
        launch.arg(&a).arg(&b).arg(&mut c).arg(&64u32);
        // SAFETY: the kernel's parameters are three pointers and a number.
        unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.unwrap();
        s.memcpy_dtod(&c, &mut a).unwrap();
    }
    let graph = s.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph");
    assert!(sim.counters().contains("\"launches\":0"), "recording runs nothing");
    assert_eq!(s.clone_dtoh(&c).unwrap(), [0.0; 64]);
    graph.upload().unwrap();
    graph.launch().unwrap();
    assert_eq!(s.clone_dtoh(&a).unwrap(), [5.0; 64]);
    graph.launch().unwrap();
    assert_eq!(s.clone_dtoh(&a).unwrap(), [9.0; 64]);
    let counters = sim.counters();
    assert!(
        counters.contains("\"launches\":4") && counters.contains("\"graph_launches\":2,\"graph_kernels\":4"),
        "{counters}"
    );
    // A replay reads what is freed: a fault, in the replay.
    drop(b);
    assert_eq!(code(graph.launch()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(sim.fault().contains("UseAfterFree in kernel add"), "{}", sim.fault());
}

#[test]
fn what_a_capture_forbids() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let (s, t) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let ended = |s: &Arc<CudaStream>| s.end_capture(CUgraphInstantiate_flags(0)).map(|g| g.is_some());
    // Waiting for the stream, and allocating in it.
    s.begin_capture(mode).unwrap();
    assert_eq!(code(s.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    s.begin_capture(mode).unwrap();
    assert_eq!(code(s.alloc_zeros::<u8>(1)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    s.begin_capture(mode).unwrap();
    assert_eq!(code(ctx.synchronize()), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // The legacy stream, and ending what did not begin.
    assert_eq!(code(ctx.default_stream().begin_capture(mode)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_INVALID_VALUE);
    // Another stream is drawn in by an event, and must be joined.
    let outside = t.record_event(None).unwrap();
    s.begin_capture(mode).unwrap();
    let fork = s.record_event(None).unwrap();
    t.wait(&fork).unwrap();
    assert_eq!(t.capture_status().unwrap(), sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    s.begin_capture(mode).unwrap();
    let fork = s.record_event(None).unwrap();
    t.wait(&fork).unwrap();
    let join = t.record_event(None).unwrap();
    s.wait(&join).unwrap();
    assert!(ended(&s).unwrap());
    // An event from outside.
    s.begin_capture(mode).unwrap();
    assert_eq!(code(s.wait(&outside)), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    assert_eq!(code(ended(&s)), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    s.synchronize().unwrap();
    assert!(!sim.fault().is_empty());
}

#[test]
fn a_fault_stays_with_the_context_and_tells_all() {
    let (_one, sim) = sim();
    {
        let ctx = CudaContext::new(0).unwrap();
        let s = ctx.default_stream();
        assert_eq!(code(add(&ctx, &s, 33, 40)), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let text = sim.fault();
        for part in ["OutOfBounds in kernel add", "ld.global.f32 %f1, [%rd5];", "thread [33, 0, 0]", "132 bytes"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(code(ctx.synchronize().and_then(|()| s.synchronize())), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let e = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(e.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
        assert_eq!(e.error_string().unwrap().to_str().unwrap(), "an illegal memory access was encountered");
    }
    // A new context works.
    let ctx = CudaContext::new(0).unwrap();
    add(&ctx, &ctx.default_stream(), 33, 33).unwrap();
}

#[test]
fn races_are_found_when_asked_for() {
    for (reversed, races) in [(0, 0), (0, 1), (1, 1)] {
        let (_one, sim) = sim();
        let ctx = CudaContext::new(0).unwrap();
        sim.configure(reversed, races, 0);
        let s = ctx.default_stream();
        let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("big").unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 4 };
        // SAFETY: the kernel has no parameters.
        let r = unsafe { s.launch_builder(&f).launch(config) };
        if races == 0 {
            r.unwrap();
        } else {
            assert_eq!(code(r), CUresult::CUDA_ERROR_LAUNCH_FAILED);
            assert!(sim.fault().starts_with("Race in kernel big"), "{}", sim.fault());
        }
    }
}

#[test]
fn launches_beyond_the_limits() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    let s = ctx.default_stream();
    let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("big").unwrap();
    let go = |threads: u32, shared: u32| {
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared };
        // SAFETY: the kernel has no parameters.
        unsafe { s.launch_builder(&f).launch(config) }
    };
    assert_eq!(code(go(65, 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(sim.fault().contains("launch bounds allow 64"), "{}", sim.fault());
    go(1, 48 * 1024).unwrap();
    assert_eq!(code(go(1, 48 * 1024 + 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
    let attr = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    f.set_attribute(attr, 227 * 1024).unwrap();
    assert_eq!(code(f.set_attribute(attr, 227 * 1024 + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    go(1, 227 * 1024).unwrap();
    assert_eq!(f.occupancy_max_active_blocks_per_multiprocessor(64, 100 * 1024, None).unwrap(), 2);
    assert_eq!(f.occupancy_max_active_blocks_per_multiprocessor(64, 0, None).unwrap(), 32);
}

#[test]
fn images_that_are_refused() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    let load = |text: &str| ctx.load_module(Ptx::from_src(text)).map(|_| ());
    assert_eq!(code(load("hello")), CUresult::CUDA_ERROR_INVALID_PTX);
    assert_eq!(code(load(&PTX.replace("add.rn.f32", "frob.f32"))), CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(sim.fault().contains("PTX line 24: instruction `frob.f32` is not supported"), "{}", sim.fault());
    assert_eq!(code(load(&PTX.replace("sm_80", "sm_100"))), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    let mut elf = vec![0u8; 64];
    elf[..4].copy_from_slice(b"\x7fELF");
    let binary = |b: &[u8]| ctx.load_module(Ptx::from_binary(b.to_vec())).map(|_| ());
    assert_eq!(code(binary(&elf)), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert!(sim.fault().contains("CUBIN"), "{}", sim.fault());
    let text = CString::new(PTX).unwrap();
    type Give = unsafe extern "C" fn(*const u8, usize, *const c_char) -> i32;
    // SAFETY: the type is that of the function, the bytes and the text are alive.
    unsafe { assert_eq!(sim.lib.get::<Give>("torsh_cuda_sim_give_ptx").unwrap()(elf.as_ptr(), 64, text.as_ptr()), 0) };
    binary(&elf).unwrap();
    let m = ctx.load_module(Ptx::from_src(PTX)).unwrap();
    assert_eq!(code(m.load_function("none").map(|_| ())), CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn errors_on_demand() {
    let (_one, sim) = sim();
    let ctx = CudaContext::new(0).unwrap();
    let s = ctx.new_stream().unwrap();
    sim.fail("cuMemcpyHtoDAsync_v2", 2, 719);
    let a = s.clone_htod(&[1u8]).unwrap();
    assert_eq!(code(s.clone_htod(&[1u8])), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    s.clone_htod(&[1u8]).unwrap();
    sim.fail_alloc(2);
    let b = s.alloc_zeros::<u8>(4).unwrap();
    assert_eq!(code(s.alloc_zeros::<u8>(4)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let c = s.alloc_zeros::<u8>(4).unwrap();
    assert!(sim.counters().contains("\"live_allocations\":3"), "{}", sim.counters());
    drop((a, b, c));
}

/// The environment is read by `cuInit`, so each case is a process of its own: this test, run again.
#[test]
fn the_environment() {
    let name = "the_environment";
    if let Ok(case) = std::env::var("TORSH_CUDA_SIM_TEST_CASE") {
        let (_one, sim) = sim();
        let ctx = CudaContext::new(0);
        if case == "bad" {
            assert_eq!(code(ctx), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert!(sim.fault().contains("TORSH_CUDA_SIM_RACES=maybe: 0 or 1 is expected"), "{}", sim.fault());
            return;
        }
        let ctx = ctx.unwrap();
        assert_eq!(ctx.compute_capability().unwrap(), (8, 0));
        let attr = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        assert_eq!(ctx.attribute(attr).unwrap(), 163 * 1024);
        assert_eq!(ctx.mem_get_info().unwrap(), (4096, 4096));
        let f = ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function("big").unwrap();
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 4 };
        // SAFETY: the kernel has no parameters.
        let r = unsafe { ctx.default_stream().launch_builder(&f).launch(config) };
        assert_eq!(code(r), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        // Lanes take their turns in order, so the second one finds the first one's write.
        assert!(sim.fault().starts_with("Race in kernel big"), "{}", sim.fault());
        return;
    }
    for (case, vars) in [
        ("bad", &[("TORSH_CUDA_SIM_RACES", "maybe")][..]),
        (
            "all",
            &[
                ("TORSH_CUDA_SIM_SM", "80"),
                ("TORSH_CUDA_SIM_MEMORY", "4096"),
                ("TORSH_CUDA_SIM_RACES", "1"),
                ("TORSH_CUDA_SIM_ORDER", "reversed"),
                ("TORSH_CUDA_SIM_QUIET", "1"),
            ],
        ),
    ] {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("TORSH_CUDA_SIM_TEST_CASE", case)
            .envs(vars.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("1 passed"), "{case}: {text}");
        assert_eq!(text.contains("torsh-cuda-sim: "), case == "bad", "{case}: {text}");
    }
}

/// NVRTC: `TORSH_NVRTC`, or what the script of the other tests finds.
fn nvrtc() -> Option<PathBuf> {
    let find = |dir: PathBuf| {
        std::fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).find(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libnvrtc.so.") && !name.contains("alt")
        })
    };
    if let Some(v) = std::env::var_os("TORSH_NVRTC") {
        let path = PathBuf::from(v);
        return if path.is_dir() { find(path) } else { Some(path) };
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let script = root.join("tests/cuda/nvrtc.py");
    for python in [root.join(".venv/bin/python"), PathBuf::from("python3")] {
        let Ok(out) = std::process::Command::new(python).arg(&script).arg("-").output() else { continue };
        let found = String::from_utf8_lossy(&out.stdout).trim().to_string();
        if !found.is_empty() {
            return Some(PathBuf::from(found));
        }
    }
    None
}

/// NVRTC opens the driver, too; it must not fall over the simulator. Without NVRTC this test can show nothing;
/// `REQUIRE_NVRTC=1` makes that a failure.
#[test]
fn nvrtc_compiles_for_it() {
    let (_one, sim) = sim();
    let Some(path) = nvrtc() else {
        assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "NVRTC was not found");
        eprintln!("skipped: no NVRTC; set TORSH_NVRTC to its folder");
        return;
    };
    // SAFETY: NVRTC's initialisation has no demands.
    let keep = unsafe { libloading::Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let source = "extern \"C\" __global__ void scale(float* x, float s, int n) {\n\
                  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = expf(x[i]) * s; }";
    let options = cudarc::nvrtc::CompileOptions { arch: Some("compute_80"), ..Default::default() };
    let ptx = cudarc::nvrtc::compile_ptx_with_opts(source, options).unwrap();
    let ctx = CudaContext::new(0).unwrap();
    let s = ctx.new_stream().unwrap();
    let f = ctx.load_module(ptx).unwrap().load_function("scale").unwrap();
    let mut x = s.clone_htod(&[0f32, 1.0, 2.0]).unwrap();
    let mut launch = s.launch_builder(&f);
    launch.arg(&mut x).arg(&2f32).arg(&3i32);
    // SAFETY: the kernel's parameters are a pointer and two numbers.
    unsafe { launch.launch(LaunchConfig { grid_dim: (2, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 }) }.unwrap();
    let out = s.clone_dtoh(&x).unwrap();
    for (i, v) in out.iter().enumerate() {
        assert!((v / ((i as f32).exp() * 2.0) - 1.0).abs() < 1e-6, "{out:?}");
    }
    // Everything that the compiler emits for a survey of functions is understood, whatever its options.
    let survey = include_str!("survey.cu");
    for extra in [&["--device-int128"][..], &["--device-int128", "--use_fast_math"], &["--device-int128", "-G"]] {
        let options = cudarc::nvrtc::CompileOptions {
            arch: Some("compute_90"),
            options: extra.iter().map(|s| (*s).to_string()).collect(),
            ..Default::default()
        };
        let ptx = cudarc::nvrtc::compile_ptx_with_opts(survey, options).unwrap();
        let m = ctx.load_module(ptx).unwrap_or_else(|e| panic!("{e:?}: {}", sim.fault()));
        for kernel in ["F1", "F2", "D1", "D2", "C", "I", "G"] {
            m.load_function(kernel).unwrap();
        }
    }
    drop(keep);
}
