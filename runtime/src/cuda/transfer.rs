//! Copies between host and device through pinned memory, which the device reads and writes by itself.
//!
//! Pieces of at most [`PIECE`] bytes go through two pinned blocks, so that the host copies one piece while the device
//! copies another. A pinned block that is given back knows the event of its last copy, and is taken again when that
//! is done: an upload returns when the last piece is on its way.

use crate::sys::cuda::driver::{Block, Context, Event, Pinned, Stream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use torsh_ir::Result;

/// The largest piece of a copy.
const PIECE: usize = 4 << 20;
/// The smallest pinned block.
const LEAST: usize = 4 << 10;
/// Pinned blocks kept for reuse.
const KEPT: usize = 8;

/// Pinned blocks with the copies that they were last used for.
pub(crate) struct Staging {
    context: Arc<Context>,
    free: Mutex<Vec<(Pinned, Option<Event>)>>,
}

impl Staging {
    pub fn new(context: &Arc<Context>) -> Staging {
        Staging { context: context.clone(), free: Mutex::default() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<(Pinned, Option<Event>)>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `len` bytes whose last copy is done.
    fn take(&self, len: usize) -> Result<Pinned> {
        let size = len.next_power_of_two().max(LEAST);
        let mut busy = Vec::new();
        loop {
            let found = {
                let mut free = self.free();
                let at = free.iter().position(|(pinned, _)| pinned.len() == size);
                at.map(|at| free.swap_remove(at))
            };
            let Some((pinned, event)) = found else { break };
            let done = match &event {
                Some(event) => event.query()?,
                None => true,
            };
            if done {
                self.free().append(&mut busy);
                return Ok(pinned);
            }
            busy.push((pinned, event));
        }
        // All of this size are busy: wait for one if there are many.
        let many = busy.len() >= KEPT;
        let waited = if many { busy.pop() } else { None };
        self.free().append(&mut busy);
        match waited {
            Some((pinned, event)) => {
                if let Some(event) = event {
                    event.synchronize()?;
                }
                Ok(pinned)
            }
            None => Pinned::new(&self.context, size),
        }
    }

    /// Returns a block, whose last copy `event` marks.
    fn give(&self, pinned: Pinned, event: Option<Event>) -> Result<()> {
        let mut free = self.free();
        let kept = free.iter().filter(|(other, _)| other.len() == pinned.len()).count();
        if kept < KEPT {
            free.push((pinned, event));
            return Ok(());
        }
        drop(free);
        match event {
            Some(event) => event.synchronize(),
            None => Ok(()),
        }
    }

    /// Runs a copy that uses a pinned block, and returns the block with an event of its end. Where no event can be
    /// had, the copy is waited for.
    fn mark(&self, stream: &Stream, pinned: Pinned, copied: Result<()>) -> Result<()> {
        let event = copied.and_then(|()| {
            let event = Event::new(&self.context, false, false)?;
            stream.record(&event).map(|()| event)
        });
        match event {
            Ok(event) => self.give(pinned, Some(event)),
            Err(e) => {
                // Whether the device still reads the block is not known; when this fails the context is lost.
                stream.synchronize()?;
                drop(pinned);
                Err(e)
            }
        }
    }

    /// Copies `bytes` to the start of a block. Returns when they are read; the copy is done when `stream` comes to it.
    pub fn upload(&self, stream: &Stream, to: &Block, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let mut pinned = self.take(piece.len())?;
            pinned.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let copied = stream.copy_in(to, i * PIECE, &pinned, piece.len());
            self.mark(stream, pinned, copied)?;
        }
        Ok(())
    }

    /// Copies the start of a block to `out`, and waits for it.
    pub fn download(&self, stream: &Stream, from: &Block, out: &mut [u8]) -> Result<()> {
        self.download_range(stream, from, 0, out)
    }

    /// Copies a block from `start` on to `out`, and waits for it.
    pub fn download_range(&self, stream: &Stream, from: &Block, start: usize, out: &mut [u8]) -> Result<()> {
        let mut before: Option<(Pinned, Event, &mut [u8])> = None;
        let mut result = Ok(());
        for (i, piece) in out.chunks_mut(PIECE).enumerate() {
            let next = self.begin(stream, from, start + i * PIECE, piece.len());
            if let Some((pinned, event, piece)) = before.take() {
                result = result.and(self.finish(pinned, event, piece));
            }
            match next {
                Ok((pinned, event)) => before = Some((pinned, event, piece)),
                Err(e) => result = result.and(Err(e)),
            }
            if result.is_err() {
                break;
            }
        }
        match before {
            Some((pinned, event, piece)) => {
                let last = self.finish(pinned, event, piece);
                result.and(last)
            }
            None => result,
        }
    }

    fn begin(&self, stream: &Stream, from: &Block, at: usize, len: usize) -> Result<(Pinned, Event)> {
        let event = Event::new(&self.context, false, false)?;
        let mut pinned = self.take(len)?;
        let copied = stream.copy_out(&mut pinned, from, at, len).and_then(|()| stream.record(&event));
        match copied {
            Ok(()) => Ok((pinned, event)),
            Err(e) => {
                stream.synchronize()?;
                Err(e)
            }
        }
    }

    fn finish(&self, pinned: Pinned, event: Event, out: &mut [u8]) -> Result<()> {
        event.synchronize()?;
        out.copy_from_slice(&pinned.bytes()[..out.len()]);
        self.give(pinned, None)
    }

    /// Frees the blocks that wait for their next use.
    pub fn empty(&self) -> Result<()> {
        let free = std::mem::take(&mut *self.free());
        for event in free.iter().filter_map(|(_, event)| event.as_ref()) {
            event.synchronize()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(e) = self.empty() {
            self.context.keep(&e);
        }
    }
}
