//! Streams, events and graphs.

use super::driver::{Context, NOT_READY};
use super::load::Code;
use super::memory::{Block, Pinned};
use cudarc::driver::sys::{CUevent, CUgraphExec, CUstream, CUstreamCaptureMode};
use std::ffi::c_uint;
use std::ptr;
use std::sync::Arc;
use torsh_ir::{Error, Result};

/// A stream of a context.
pub struct Stream {
    context: Arc<Context>,
    stream: CUstream,
    priority: i32,
}

// SAFETY: the driver's functions take a stream from any thread, and order what they are asked for by themselves.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// `CU_STREAM_NON_BLOCKING`: the default stream does not wait for it, nor it for the default stream.
const NON_BLOCKING: c_uint = 1;

impl Stream {
    /// The default stream, which other libraries of the process use too.
    pub fn default_of(context: &Arc<Context>) -> Stream {
        Stream { context: context.clone(), stream: ptr::null_mut(), priority: 0 }
    }

    /// A stream of its own. Priorities that the device does not have are taken as the nearest.
    pub fn new(context: &Arc<Context>, priority: i32) -> Result<Stream> {
        let entered = context.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: `stream` lives through the call.
        let code = unsafe { (entered.table().cuStreamCreateWithPriority)(&raw mut stream, NON_BLOCKING, priority) };
        entered.check("cuStreamCreateWithPriority", code)?;
        Ok(Stream { context: context.clone(), stream, priority })
    }

    /// The context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The handle as a number; 0 for the default stream.
    pub fn handle(&self) -> u64 {
        self.stream as u64
    }

    /// Lower is more urgent.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    pub(super) fn raw(&self) -> CUstream {
        self.stream
    }

    /// Waits on the host until its work is done.
    pub fn synchronize(&self) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: the stream lives.
        entered.check("cuStreamSynchronize", unsafe { (entered.table().cuStreamSynchronize)(self.stream) })
    }

    /// Marks this moment in an event.
    pub fn record(&self, event: &Event) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live.
        entered.check("cuEventRecord", unsafe { (entered.table().cuEventRecord)(event.event, self.stream) })
    }

    /// Later work here starts after what the event marks.
    pub fn wait(&self, event: &Event) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live; the driver keeps what it needs of the event.
        entered.check("cuStreamWaitEvent", unsafe { (entered.table().cuStreamWaitEvent)(self.stream, event.event, 0) })
    }

    /// Later work here starts after all work that `other` has been given.
    pub fn wait_for(&self, other: &Stream) -> Result<()> {
        let event = Event::new(&other.context, false, false)?;
        other.record(&event)?;
        self.wait(&event)
    }

    /// Copies pinned host memory from its start to the device. The caller keeps both, and writes neither, until the
    /// copy is done.
    pub(crate) fn copy_in(&self, to: &Block, at: usize, from: &Pinned, len: usize) -> Result<()> {
        check_range(at, len, to.len())?;
        check_range(0, len, from.len())?;
        let entered = self.context.enter()?;
        // SAFETY: both ranges lie within their memory; the caller keeps both until the copy is done.
        let code =
            unsafe { (entered.table().cuMemcpyHtoDAsync_v2)(to.address() + at as u64, from.start(), len, self.stream) };
        entered.check("cuMemcpyHtoDAsync_v2", code)
    }

    /// Copies from the device to the start of pinned host memory. As `copy_in`.
    pub(crate) fn copy_out(&self, to: &mut Pinned, from: &Block, at: usize, len: usize) -> Result<()> {
        check_range(at, len, from.len())?;
        check_range(0, len, to.len())?;
        let entered = self.context.enter()?;
        // SAFETY: as in `copy_in`.
        let code =
            unsafe { (entered.table().cuMemcpyDtoHAsync_v2)(to.start(), from.address() + at as u64, len, self.stream) };
        entered.check("cuMemcpyDtoHAsync_v2", code)
    }

    /// Copies within the device. The caller keeps both blocks until the copy is done.
    pub(crate) fn copy(&self, to: (&Block, usize), from: (&Block, usize), len: usize) -> Result<()> {
        check_range(to.1, len, to.0.len())?;
        check_range(from.1, len, from.0.len())?;
        if len == 0 {
            return Ok(());
        }
        let (to, from) = (to.0.address() + to.1 as u64, from.0.address() + from.1 as u64);
        let entered = self.context.enter()?;
        // SAFETY: both ranges lie within their blocks.
        let code = unsafe { (entered.table().cuMemcpyDtoDAsync_v2)(to, from, len, self.stream) };
        entered.check("cuMemcpyDtoDAsync_v2", code)
    }

    /// Copies the first `len` bytes from a block of another device. As [`Stream::copy`]; the driver goes by way of the
    /// host where the devices do not reach each other.
    pub(crate) fn copy_peer(&self, to: &Block, from: &Block, len: usize) -> Result<()> {
        check_range(0, len, to.len())?;
        check_range(0, len, from.len())?;
        let (there, here) = (from.context().raw(), to.context().raw());
        let entered = self.context.enter()?;
        let copy = entered.table().cuMemcpyPeerAsync;
        // SAFETY: both ranges lie within their blocks, which keep their contexts.
        let code = unsafe { copy(to.address(), here, from.address(), there, len, self.stream) };
        entered.check("cuMemcpyPeerAsync", code)
    }

    /// Copies from an address of the device to the start of a block. The caller answers for the address.
    pub(crate) fn copy_from_address(&self, to: &Block, from: u64, len: usize) -> Result<()> {
        check_range(0, len, to.len())?;
        let entered = self.context.enter()?;
        // SAFETY: the target lies within its block; the source is device memory, which no host memory overlaps.
        let code = unsafe { (entered.table().cuMemcpyDtoDAsync_v2)(to.address(), from, len, self.stream) };
        entered.check("cuMemcpyDtoDAsync_v2", code)
    }

    /// Fills `len` bytes of a block from `at` on.
    pub(crate) fn fill_range(&self, to: &Block, at: usize, value: u8, len: usize) -> Result<()> {
        check_range(at, len, to.len())?;
        let entered = self.context.enter()?;
        // SAFETY: the range lies within the block.
        let code = unsafe { (entered.table().cuMemsetD8Async)(to.address() + at as u64, value, len, self.stream) };
        entered.check("cuMemsetD8Async", code)
    }

    /// Begins to record what is asked of the stream instead of doing it; [`Stream::end_capture`] ends that.
    pub fn begin_capture(&self) -> Result<()> {
        let entered = self.context.enter()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        let code = unsafe { (entered.table().cuStreamBeginCapture_v2)(self.stream, mode) };
        entered.check("cuStreamBeginCapture_v2", code)
    }

    /// What was recorded, ready to launch.
    pub fn end_capture(&self) -> Result<Graph> {
        let entered = self.context.enter()?;
        let mut graph = ptr::null_mut();
        // SAFETY: `graph` lives through the call.
        let code = unsafe { (entered.table().cuStreamEndCapture)(self.stream, &raw mut graph) };
        if code != 0 {
            // The stream must not go on recording. Where it does not any more, this fails too, and changes nothing.
            // SAFETY: as above; a graph that is given after all is destroyed once.
            unsafe {
                let ended = (entered.table().cuStreamEndCapture)(self.stream, &raw mut graph);
                if ended == 0 && !graph.is_null() {
                    let _: Code = (entered.table().cuGraphDestroy)(graph);
                }
            }
        }
        entered.check("cuStreamEndCapture", code)?;
        let mut exec = ptr::null_mut();
        // SAFETY: `exec` lives through the call, and the graph is destroyed after it.
        let (made, destroyed) = unsafe {
            let made = (entered.table().cuGraphInstantiateWithFlags)(&raw mut exec, graph, 0);
            (made, (entered.table().cuGraphDestroy)(graph))
        };
        entered.check("cuGraphInstantiateWithFlags", made)?;
        let graph = Graph { context: self.context.clone(), exec };
        // What was recorded is of no further use, and the graph is as good as any.
        if let Err(e) = entered.check("cuGraphDestroy", destroyed) {
            self.context.keep(&e);
        }
        Ok(graph)
    }

    /// Launches a graph.
    pub fn launch_graph(&self, graph: &Graph) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: both live; the driver keeps what it needs of the graph until it is done.
        entered.check("cuGraphLaunch", unsafe { (entered.table().cuGraphLaunch)(graph.exec, self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.stream.is_null() {
            return;
        }
        self.context.free(|entered| {
            // SAFETY: it was created by `new` and is destroyed once; the driver finishes its work first.
            entered.check("cuStreamDestroy_v2", unsafe { (entered.table().cuStreamDestroy_v2)(self.stream) })
        });
    }
}

fn check_range(at: usize, len: usize, all: usize) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= all => Ok(()),
        _ => Err(Error::internal(format!("{len} bytes from {at} on of a block of {all}"))),
    }
}

/// A moment of a stream.
pub struct Event {
    context: Arc<Context>,
    event: CUevent,
    timing: bool,
}

// SAFETY: the driver's functions take an event from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

/// `CU_EVENT_BLOCKING_SYNC` and `CU_EVENT_DISABLE_TIMING`.
const BLOCKING: c_uint = 1;
const NO_TIMING: c_uint = 2;

impl Event {
    /// A new event. `timing`: its time is taken; `blocking`: a host that waits for it sleeps.
    pub fn new(context: &Arc<Context>, timing: bool, blocking: bool) -> Result<Event> {
        let entered = context.enter()?;
        let flags = if blocking { BLOCKING } else { 0 } | if timing { 0 } else { NO_TIMING };
        let mut event = ptr::null_mut();
        // SAFETY: `event` lives through the call.
        entered.check("cuEventCreate", unsafe { (entered.table().cuEventCreate)(&raw mut event, flags) })?;
        Ok(Event { context: context.clone(), event, timing })
    }

    /// The handle as a number.
    pub fn handle(&self) -> u64 {
        self.event as u64
    }

    /// True when what it marks is done.
    pub fn query(&self) -> Result<bool> {
        let entered = self.context.enter()?;
        // SAFETY: the event lives.
        let code = unsafe { (entered.table().cuEventQuery)(self.event) };
        if code == NOT_READY {
            return Ok(false);
        }
        entered.check("cuEventQuery", code).map(|()| true)
    }

    /// Waits on the host until what it marks is done.
    pub fn synchronize(&self) -> Result<()> {
        let entered = self.context.enter()?;
        // SAFETY: the event lives.
        entered.check("cuEventSynchronize", unsafe { (entered.table().cuEventSynchronize)(self.event) })
    }

    /// Milliseconds to a later event.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f64> {
        if !self.timing || !end.timing {
            return Err(Error::new(torsh_ir::ErrorKind::Runtime, "both events must be made with enable_timing=True"));
        }
        let entered = self.context.enter()?;
        let mut ms = 0f32;
        // SAFETY: both events live, and `ms` does through the call.
        let code = unsafe { (entered.elapsed())(&raw mut ms, self.event, end.event) };
        entered.check("cuEventElapsedTime", code)?;
        Ok(f64::from(ms))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: it is destroyed once; the driver keeps what waits for it.
            entered.check("cuEventDestroy_v2", unsafe { (entered.table().cuEventDestroy_v2)(self.event) })
        });
    }
}

/// A recorded sequence of work, ready to launch. Its addresses are those of the recording.
pub struct Graph {
    context: Arc<Context>,
    exec: CUgraphExec,
}

// SAFETY: the driver's functions take a graph from any thread; launches of one graph follow one another.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.free(|entered| {
            // SAFETY: it is destroyed once; the driver finishes launches of it first.
            entered.check("cuGraphExecDestroy", unsafe { (entered.table().cuGraphExecDestroy)(self.exec) })
        });
    }
}
