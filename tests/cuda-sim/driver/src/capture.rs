//! Streams that record: what is allowed while they do, and the graph that comes of it.

use std::thread::ThreadId;

use crate::code::{self, Code};
use crate::state::{Cmd, LEGACY, State, execute, lock};

/// How far a capture forbids calls that could break it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

#[derive(Debug)]
pub(crate) struct Capture {
    /// The stream that it began in.
    pub origin: u64,
    pub mode: Mode,
    pub thread: ThreadId,
    pub cmds: Vec<Cmd>,
    /// Something forbidden was done: the capture gives no graph.
    pub invalid: bool,
}

/// Does the work, or records it when the stream is capturing.
pub(crate) fn submit(stream: u64, cmd: Cmd) -> Result<(), Code> {
    if lock().record(stream, &cmd)? {
        return Ok(());
    }
    execute(&cmd)
}

impl State {
    /// Records the work if the stream is capturing.
    fn record(&mut self, stream: u64, cmd: &Cmd) -> Result<bool, Code> {
        let Some(s) = self.streams.get_mut(&stream) else {
            return self.refuse(code::INVALID_HANDLE, format!("{stream:#x} is no stream"));
        };
        let Some(id) = s.capture else {
            // Only the legacy stream waits for others by itself.
            if LEGACY[..2].contains(&stream) && self.streams.values().any(|s| s.capture.is_some() && !s.non_blocking) {
                self.invalidate(|_| true);
                return self.refuse(
                    code::STREAM_CAPTURE_IMPLICIT,
                    "work on the legacy stream while a blocking stream is capturing",
                );
            }
            return Ok(false);
        };
        s.tail += 1;
        let c = self.captures.get_mut(&id).ok_or(code::UNKNOWN)?;
        if c.invalid {
            return Err(code::STREAM_CAPTURE_INVALIDATED);
        }
        c.cmds.push(cmd.clone());
        Ok(true)
    }

    fn invalidate(&mut self, which: impl Fn(&Capture) -> bool) {
        self.captures.values_mut().filter(|c| which(c)).for_each(|c| c.invalid = true);
    }

    /// Refuses a call that may not be made while streams capture (it would wait for them, or change memory that
    /// they use), as the modes of the captures ask.
    pub fn forbid_in_capture(&mut self, what: &str) -> Result<(), Code> {
        let me = std::thread::current().id();
        let hit = |c: &Capture| match c.mode {
            Mode::Global => true,
            Mode::ThreadLocal => c.thread == me,
            Mode::Relaxed => false,
        };
        if self.captures.values().any(hit) {
            self.invalidate(hit);
            return self.refuse(code::STREAM_CAPTURE_UNSUPPORTED, format!("{what} while a stream is capturing"));
        }
        Ok(())
    }

    /// Refuses a call on a stream that is capturing itself, whatever the mode.
    pub fn forbid_on_stream(&mut self, stream: u64, what: &str) -> Result<(), Code> {
        let Some(s) = self.streams.get(&stream) else {
            return self.refuse(code::INVALID_HANDLE, format!("{stream:#x} is no stream"));
        };
        if let Some(id) = s.capture {
            if let Some(c) = self.captures.get_mut(&id) {
                c.invalid = true;
            }
            return self.refuse(code::STREAM_CAPTURE_UNSUPPORTED, format!("{what} of a stream that is capturing"));
        }
        Ok(())
    }

    pub fn begin(&mut self, stream: u64, mode: i32) -> Result<(), Code> {
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(code::INVALID_VALUE),
        };
        if LEGACY[..2].contains(&stream) {
            return self.refuse(code::STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot capture");
        }
        let id = self.handle();
        let Some(s) = self.streams.get_mut(&stream) else { return Err(code::INVALID_HANDLE) };
        if s.capture.is_some() {
            return self.refuse(code::INVALID_VALUE, "the stream is capturing already");
        }
        (s.capture, s.tail, s.joined) = (Some(id), 0, 0);
        let thread = std::thread::current().id();
        self.captures.insert(id, Capture { origin: stream, mode, thread, cmds: Vec::new(), invalid: false });
        Ok(())
    }

    /// Ends a capture: its work in order.
    pub fn end(&mut self, stream: u64) -> Result<Vec<Cmd>, Code> {
        let Some(s) = self.streams.get(&stream) else { return Err(code::INVALID_HANDLE) };
        let Some(id) = s.capture else {
            return self.refuse(code::INVALID_VALUE, "the stream is not capturing");
        };
        let c = self.captures.get(&id).ok_or(code::UNKNOWN)?;
        if c.origin != stream {
            return self.refuse(code::STREAM_CAPTURE_UNMATCHED, "the capture began in another stream");
        }
        if c.mode != Mode::Relaxed && c.thread != std::thread::current().id() {
            return self.refuse(code::STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread");
        }
        let mut unjoined = false;
        for (h, s) in self.streams.iter_mut().filter(|(_, s)| s.capture == Some(id)) {
            unjoined |= *h != stream && s.joined < s.tail;
            s.capture = None;
        }
        let Some(c) = self.captures.remove(&id) else { return Err(code::UNKNOWN) };
        if c.invalid {
            return Err(code::STREAM_CAPTURE_INVALIDATED);
        }
        if unjoined {
            return self
                .refuse(code::STREAM_CAPTURE_UNJOINED, "a stream was drawn into the capture and not joined again");
        }
        Ok(c.cmds)
    }

    pub fn record_event(&mut self, event: u64, stream: u64) -> Result<(), Code> {
        let Some(s) = self.streams.get(&stream) else {
            return self.refuse(code::INVALID_HANDLE, format!("{stream:#x} is no stream"));
        };
        let captured = s.capture.map(|id| (id, stream, s.tail));
        let on = self.stream_device(stream);
        let Some(e) = self.events.get_mut(&event) else {
            return self.refuse(code::INVALID_HANDLE, format!("{event:#x} is no event"));
        };
        if on != Some(e.device) {
            return self.refuse(code::INVALID_HANDLE, "an event is recorded on a stream of another device");
        }
        e.captured = captured;
        e.recorded = Some(std::time::Instant::now());
        Ok(())
    }

    /// A stream waits for an event; a capture may draw a stream in, or be joined again.
    pub fn wait_event(&mut self, stream: u64, event: u64) -> Result<(), Code> {
        let Some(e) = self.events.get(&event) else {
            return self.refuse(code::INVALID_HANDLE, format!("{event:#x} is no event"));
        };
        let (captured, recorded) = (e.captured, e.recorded.is_some());
        let Some(s) = self.streams.get(&stream) else {
            return self.refuse(code::INVALID_HANDLE, format!("{stream:#x} is no stream"));
        };
        match (captured.filter(|c| self.captures.contains_key(&c.0)), s.capture) {
            (Some((id, from, at)), mine) => {
                if mine.is_some_and(|m| m != id) {
                    self.invalidate(|_| true);
                    return self.refuse(code::STREAM_CAPTURE_MERGE, "a wait that would merge two captures");
                }
                if let Some(s) = self.streams.get_mut(&from) {
                    s.joined = s.joined.max(at);
                }
                if mine.is_none()
                    && let Some(s) = self.streams.get_mut(&stream)
                {
                    // Drawn in; what follows must be joined again, and so must the fact itself.
                    (s.capture, s.tail, s.joined) = (Some(id), 1, 0);
                } else if from != stream
                    && let Some(s) = self.streams.get_mut(&stream)
                {
                    s.tail += 1;
                }
                Ok(())
            }
            (None, Some(id)) if recorded => {
                if let Some(c) = self.captures.get_mut(&id) {
                    c.invalid = true;
                }
                let text = "a capturing stream waits for an event that was recorded outside the capture";
                self.refuse(code::STREAM_CAPTURE_ISOLATION, text)
            }
            _ => Ok(()),
        }
    }
}
