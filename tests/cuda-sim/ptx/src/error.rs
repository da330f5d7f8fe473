//! What goes wrong: [`Error`] when a module is read, [`Fault`] when a kernel runs.

use std::fmt;

/// A module or an argument that the simulator refuses, with the line of PTX where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// 1-based line of the PTX text; 0 when the error has no line.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
}

impl Error {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Error {
        Error { line, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.message)
        } else {
            write!(f, "PTX line {}: {}", self.line, self.message)
        }
    }
}

impl std::error::Error for Error {}

/// The rule that a kernel broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The launch itself is wrong: unknown kernel, grid or block outside the limits, wrong parameter bytes.
    Launch,
    /// More shared memory than the device grants a block.
    SharedLimit,
    /// An address outside every allocation, or outside its space.
    OutOfBounds,
    /// An address inside memory that was freed.
    UseAfterFree,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A store to memory that is constant.
    ReadOnly,
    /// A load of bytes that nobody wrote.
    Uninitialised,
    /// Two threads, one byte, at least one plain write, and no barrier between.
    Race,
    /// A non-coherent load of a byte that the same launch writes.
    NonCoherent,
    /// Shared memory touched while an asynchronous copy to it is under way.
    AsyncPending,
    /// Threads of one block wait at different barriers, or some have exited.
    DivergentBarrier,
    /// A warp instruction whose member mask names a lane that does not execute it.
    InactiveLane,
    /// The instruction budget is used up.
    Budget,
    /// A `trap` instruction, or an operation that has no meaning.
    Trap,
}

/// A kernel that broke a rule: which kernel, instruction, block, threads and address, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// 1-based line of the PTX text; 0 for faults of the launch itself.
    pub line: u32,
    /// The text of that line.
    pub instruction: String,
    /// The block's index.
    pub block: [u32; 3],
    /// The threads concerned, each by its index in the block; for a race the earlier thread comes second.
    pub threads: Vec<[u32; 3]>,
    /// The address, where there is one.
    pub address: Option<u64>,
    /// What happened and what was expected.
    pub message: String,
}

impl Fault {
    pub(crate) fn bare(kind: FaultKind, message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault {
            kind,
            kernel: String::new(),
            line: 0,
            instruction: String::new(),
            block: [0; 3],
            threads: Vec::new(),
            address: None,
            message: message.into(),
        })
    }

    pub(crate) fn at(kind: FaultKind, address: u64, message: impl Into<String>) -> Box<Fault> {
        let mut fault = Fault::bare(kind, message);
        fault.address = Some(address);
        fault
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel {}", self.kind, self.kernel)?;
        if self.line != 0 {
            write!(f, ", PTX line {}: `{}`", self.line, self.instruction)?;
            write!(f, ", block {:?}", self.block)?;
        }
        match self.threads.as_slice() {
            [] => {}
            [one] => write!(f, ", thread {one:?}")?,
            many => write!(f, ", threads {many:?}")?,
        }
        if let Some(a) = self.address {
            write!(f, ", address {a:#x}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}
