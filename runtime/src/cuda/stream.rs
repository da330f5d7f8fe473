//! Streams and events as the front sees them, and each thread's current stream.

use crate::sys::cuda::driver;
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use torsh_ir::exec::{Device, Event, Stream};
use torsh_ir::{Error, Result};

/// A stream of a device.
pub(crate) struct CudaStream {
    pub device: Device,
    pub raw: Arc<driver::Stream>,
}

/// An event of a device.
pub(crate) struct CudaEvent {
    device: Device,
    raw: driver::Event,
}

impl CudaEvent {
    pub fn new(device: Device, raw: driver::Event) -> CudaEvent {
        CudaEvent { device, raw }
    }
}

impl CudaStream {
    fn event<'a>(&self, event: &'a dyn Event) -> Result<&'a driver::Event> {
        match event.as_any().downcast_ref::<CudaEvent>() {
            Some(own) if own.device == self.device => Ok(&own.raw),
            _ => Err(Error::device(format!("an event of {} was given to a stream of {}", event.device(), self.device))),
        }
    }
}

impl Stream for CudaStream {
    fn device(&self) -> Device {
        self.device
    }
    fn handle(&self) -> u64 {
        self.raw.handle()
    }
    fn priority(&self) -> i32 {
        self.raw.priority()
    }
    fn query(&self) -> Result<bool> {
        let event = driver::Event::new(self.raw.context(), false, false)?;
        self.raw.record(&event)?;
        event.query()
    }
    fn synchronize(&self) -> Result<()> {
        self.raw.synchronize()?;
        self.raw.context().check()
    }
    fn record(&self, event: &dyn Event) -> Result<()> {
        self.raw.record(self.event(event)?)
    }
    fn wait(&self, event: &dyn Event) -> Result<()> {
        match event.as_any().downcast_ref::<CudaEvent>() {
            // A stream may wait for another device of the same kind.
            Some(own) => self.raw.wait(&own.raw),
            None => self.event(event).map(|_| ()),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Event for CudaEvent {
    fn device(&self) -> Device {
        self.device
    }
    fn handle(&self) -> u64 {
        self.raw.handle()
    }
    fn query(&self) -> Result<bool> {
        self.raw.query()
    }
    fn synchronize(&self) -> Result<()> {
        self.raw.synchronize()
    }
    fn elapsed_ms(&self, end: &dyn Event) -> Result<f64> {
        match end.as_any().downcast_ref::<CudaEvent>() {
            Some(end) if end.device == self.device => self.raw.elapsed_ms(&end.raw),
            _ => Err(Error::device(format!("the two events are of {} and {}", self.device, end.device()))),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

thread_local! {
    /// The stream that this thread set, by executor.
    static CURRENT: RefCell<Vec<(u64, Arc<driver::Stream>)>> = const { RefCell::new(Vec::new()) };
}

/// The stream that this thread set for an executor.
pub(crate) fn current(executor: u64) -> Option<Arc<driver::Stream>> {
    CURRENT.with_borrow(|list| list.iter().find(|(id, _)| *id == executor).map(|(_, stream)| stream.clone()))
}

/// Sets the stream of this thread for an executor; `None` for the default one.
pub(crate) fn set_current(executor: u64, stream: Option<Arc<driver::Stream>>) {
    CURRENT.with_borrow_mut(|list| {
        list.retain(|(id, _)| *id != executor);
        list.extend(stream.map(|s| (executor, s)));
    });
}
