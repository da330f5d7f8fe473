//! Streams, events, captures and graphs.

use std::ffi::c_void;
use std::sync::Arc;

use crate::capture::submit;
use crate::code::{self, Code};
use crate::device::current;
use crate::guard::put;
use crate::state::{Cmd, Event, HostOp, LEGACY, Stream, execute, lock};

fn create(to: *mut u64, flags: u32, priority: i32) -> Result<(), Code> {
    if flags > 1 {
        return Err(code::INVALID_VALUE);
    }
    let mut s = lock();
    let h = s.handle();
    s.streams.insert(h, Stream { device: current(), non_blocking: flags == 1, priority, ..Stream::default() });
    drop(s);
    put(to, h)
}

fn elapsed(ms: *mut f32, start: u64, end: u64) -> Result<(), Code> {
    let (a, b) = {
        let s = lock();
        let get = |h: u64| s.events.get(&h).ok_or(code::INVALID_HANDLE);
        let (a, b) = (get(start)?, get(end)?);
        if a.captured.is_some() || b.captured.is_some() {
            return Err(code::CAPTURED_EVENT);
        }
        if a.no_timing || b.no_timing {
            return Err(code::INVALID_HANDLE);
        }
        (a.recorded.ok_or(code::INVALID_HANDLE)?, b.recorded.ok_or(code::INVALID_HANDLE)?)
    };
    let t = if b >= a { (b - a).as_secs_f32() } else { -(a - b).as_secs_f32() };
    put(ms, t * 1000.0)
}

fn complete(event: u64) -> Result<(), Code> {
    match lock().events.get(&event) {
        None => Err(code::INVALID_HANDLE),
        Some(e) if e.captured.is_some() => Err(code::CAPTURED_EVENT),
        Some(_) => Ok(()),
    }
}

/// A host function without a result, as `cuLaunchHostFunc` takes it.
struct Plain {
    f: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
}

unsafe extern "C" fn run_plain(p: *mut c_void) -> i32 {
    // SAFETY: the data of this function is always a `Plain`, which lives as long as the work that holds it.
    let plain = unsafe { &*p.cast::<Plain>() };
    // SAFETY: the caller of cuLaunchHostFunc promised that function and data go together.
    unsafe { (plain.f)(plain.data) };
    0
}

unsafe extern "C" fn drop_plain(p: *mut c_void) {
    // SAFETY: the pointer came from `Box::into_raw`, and this is called once.
    drop(unsafe { Box::from_raw(p.cast::<Plain>()) });
}

api! { Init;
    fn cuStreamCreate(stream: *mut u64, flags: u32) { create(stream, flags, 0) }

    fn cuStreamCreateWithPriority(stream: *mut u64, flags: u32, priority: i32) { create(stream, flags, priority) }

    fn cuStreamGetPriority(stream: u64, priority: *mut i32) {
        let p = lock().streams.get(&stream).ok_or(code::INVALID_HANDLE)?.priority;
        put(priority, p)
    }

    fn cuStreamDestroy_v2(stream: u64) {
        let mut s = lock();
        if LEGACY.contains(&stream) || !s.streams.contains_key(&stream) {
            return Err(code::INVALID_HANDLE);
        }
        s.forbid_on_stream(stream, "destruction")?;
        s.streams.remove(&stream);
        Ok(())
    }

    fn cuStreamSynchronize(stream: u64) { lock().forbid_on_stream(stream, "cuStreamSynchronize") }

    fn cuStreamQuery(stream: u64) { lock().forbid_on_stream(stream, "cuStreamQuery") }

    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) { lock().wait_event(stream, event) }

    fn cuStreamBeginCapture_v2(stream: u64, mode: i32) { lock().begin(stream, mode) }

    fn cuStreamEndCapture(stream: u64, graph: *mut u64) {
        let mut s = lock();
        let cmds = match s.end(stream) {
            Ok(c) => c,
            Err(code) => {
                drop(s);
                put(graph, 0)?;
                return Err(code);
            }
        };
        let h = s.handle();
        s.graphs.insert(h, Arc::new(cmds));
        drop(s);
        put(graph, h)
    }

    fn cuStreamIsCapturing(stream: u64, status: *mut i32) {
        let v = {
            let s = lock();
            let capture = s.streams.get(&stream).ok_or(code::INVALID_HANDLE)?.capture;
            match capture.and_then(|id| s.captures.get(&id)) {
                None => 0,
                Some(c) if c.invalid => 2,
                Some(_) => 1,
            }
        };
        put(status, v)
    }

    fn cuEventCreate(event: *mut u64, flags: u32) {
        let mut s = lock();
        let h = s.handle();
        s.events.insert(h, Event { device: current(), no_timing: flags & 2 != 0, ..Event::default() });
        drop(s);
        put(event, h)
    }

    fn cuEventDestroy_v2(event: u64) { lock().events.remove(&event).map(|_| ()).ok_or(code::INVALID_HANDLE) }

    fn cuEventRecord(event: u64, stream: u64) { lock().record_event(event, stream) }

    fn cuEventQuery(event: u64) { complete(event) }

    fn cuEventSynchronize(event: u64) { complete(event) }

    fn cuEventElapsedTime(ms: *mut f32, start: u64, end: u64) { elapsed(ms, start, end) }

    fn cuEventElapsedTime_v2(ms: *mut f32, start: u64, end: u64) { elapsed(ms, start, end) }

    fn cuLaunchHostFunc(stream: u64, f: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let Some(f) = f else { return Err(code::INVALID_VALUE) };
        let data = Box::into_raw(Box::new(Plain { f, data })) as usize;
        submit(stream, Cmd::Host(Arc::new(HostOp { run: run_plain, data, drop: Some(drop_plain) })))
    }

    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, n: *mut usize) {
        let cmds = lock().graphs.get(&graph).cloned().ok_or(code::INVALID_HANDLE)?;
        if nodes.is_null() {
            return put(n, cmds.len());
        }
        if n.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the caller promises that `n` holds the room at `nodes`.
        let room = unsafe { n.read() };
        for k in 0..room.min(cmds.len()) {
            // SAFETY: there is room for so many nodes.
            unsafe { nodes.add(k).write(graph << 16 | k as u64) };
        }
        put(n, cmds.len())
    }

    fn cuGraphInstantiateWithFlags(exec: *mut u64, graph: u64, _flags: u64) {
        let mut s = lock();
        let cmds = s.graphs.get(&graph).cloned().ok_or(code::INVALID_HANDLE)?;
        let h = s.handle();
        s.execs.insert(h, cmds);
        drop(s);
        put(exec, h)
    }

    fn cuGraphUpload(exec: u64, _stream: u64) {
        if lock().execs.contains_key(&exec) { Ok(()) } else { Err(code::INVALID_HANDLE) }
    }

    fn cuGraphLaunch(exec: u64, stream: u64) {
        let (cmds, capturing) = {
            let mut s = lock();
            let cmds = s.execs.get(&exec).cloned().ok_or(code::INVALID_HANDLE)?;
            s.graph_launches += 1;
            s.graph_kernels += cmds.iter().filter(|c| matches!(c, Cmd::Kernel { .. })).count() as u64;
            let capturing = s.streams.get(&stream).ok_or(code::INVALID_HANDLE)?.capture.is_some();
            (cmds, capturing)
        };
        if !capturing {
            // The legacy stream has its rules, which an empty piece of work meets.
            submit(stream, Cmd::Empty)?;
        }
        for c in cmds.iter() {
            if capturing {
                submit(stream, c.clone())?;
            } else {
                execute(c)?;
            }
        }
        Ok(())
    }

    fn cuGraphExecDestroy(exec: u64) { lock().execs.remove(&exec).map(|_| ()).ok_or(code::INVALID_HANDLE) }

    fn cuGraphDestroy(graph: u64) { lock().graphs.remove(&graph).map(|_| ()).ok_or(code::INVALID_HANDLE) }
}
