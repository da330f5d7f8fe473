//! One error type: what kind it is, which op, which shapes and dtypes, and the user's source line.

use crate::dtype::DType;
use crate::exec::Device;
use crate::shape::Shape;
use std::fmt;
use std::sync::Arc;

/// Result of every fallible function in torsh.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Selects the Python exception class (see `python/src/errors.rs`, the one mapping).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// Shapes do not fit: `ShapeError(ValueError)`.
    Shape,
    /// Dtypes do not fit: `DTypeError(TypeError)`.
    DType,
    /// Device unknown or absent: `DeviceError(RuntimeError)`.
    Device,
    /// A limit of `torsh.limits` was exceeded: `LimitError(MemoryError)`.
    Limit,
    /// The function cannot be traced: `TraceError`.
    Trace,
    /// Code generation failed: `CompileError(RuntimeError)`.
    Compile,
    /// Export failed: `ExportError`.
    Export,
    /// A package or text file is malformed: `PackageError(ValueError)`.
    Package,
    /// A bad value or string: `ValueError`.
    Value,
    /// A wrong Python type: `TypeError`.
    Type,
    /// An index out of range: `IndexError`.
    Index,
    /// Autograd misuse and other states that PyTorch reports as `RuntimeError`.
    Runtime,
    /// Ctrl-C arrived between kernels: `KeyboardInterrupt`.
    Interrupted,
    /// A bug in torsh: `InternalError`.
    Internal,
}

/// A source position in the user's program.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Loc {
    /// File name as Python reports it.
    pub file: Arc<str>,
    /// 1-based line.
    pub line: u32,
    /// What an error says when the operation here refuses its values, in place of the operation's own words: for
    /// checks that are written as an index out of range.
    pub note: Option<Arc<str>>,
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a device was asked for, and what it held, when its memory did not suffice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutOfMemory {
    /// The device.
    pub device: Device,
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes that tensors and running programs held.
    pub in_use: u64,
    /// The cap on these.
    pub limit: u64,
    /// The largest of them: what they are, and their bytes.
    pub largest: Vec<(String, u64)>,
}

/// The one error of torsh. Cheap to move (one pointer).
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error(Box<Data>);

#[derive(Clone, Debug)]
struct Data {
    kind: ErrorKind,
    message: String,
    op: Option<String>,
    shapes: Vec<Shape>,
    dtypes: Vec<DType>,
    location: Option<Loc>,
    out_of_memory: Option<OutOfMemory>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(op) = &self.0.op {
            write!(f, "{op}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(loc) = &self.0.location {
            write!(f, " (at {loc})")?;
        }
        Ok(())
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Error { Error::new(ErrorKind::$kind, message) })*
        }
    };
}

constructors! {
    /// A `Shape` error.
    shape => Shape;
    /// A `DType` error.
    dtype => DType;
    /// A `Device` error.
    device => Device;
    /// A `Limit` error.
    limit => Limit;
    /// A `Trace` error.
    trace => Trace;
    /// A `Compile` error.
    compile => Compile;
    /// A `Package` error.
    package => Package;
    /// A `Value` error.
    value => Value;
    /// A `Type` error.
    type_ => Type;
    /// An `Index` error.
    index => Index;
    /// A `Runtime` error.
    runtime => Runtime;
    /// An `Internal` error: a bug in torsh.
    internal => Internal;
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Data {
            kind,
            message: message.into(),
            op: None,
            shapes: Vec::new(),
            dtypes: Vec::new(),
            location: None,
            out_of_memory: None,
        }))
    }

    /// A `Limit` error of a device's memory, with its figures.
    pub fn out_of_memory(message: impl Into<String>, figures: OutOfMemory) -> Error {
        let mut error = Error::limit(message);
        error.0.out_of_memory = Some(figures);
        error
    }

    /// Names the op, unless an inner call named one already.
    #[must_use]
    pub fn with_op(mut self, op: &str) -> Error {
        self.0.op.get_or_insert_with(|| op.to_string());
        self
    }

    /// Adds to the message what follows from the error.
    #[must_use]
    pub fn with_note(mut self, note: &str) -> Error {
        self.0.message.push_str("; ");
        self.0.message.push_str(note);
        self
    }

    /// Attaches the operand shapes and dtypes, unless already attached.
    #[must_use]
    pub fn with_types<'a>(mut self, types: impl IntoIterator<Item = &'a crate::shape::Type>) -> Error {
        if self.0.shapes.is_empty() {
            for t in types {
                self.0.shapes.push(t.shape.clone());
                self.0.dtypes.push(t.dtype);
            }
        }
        self
    }

    /// Attaches the user's source line, unless already attached.
    #[must_use]
    pub fn with_loc(mut self, loc: Option<Loc>) -> Error {
        if self.0.location.is_none() {
            self.0.location = loc;
        }
        self
    }

    /// The same error at another line of the user's. Where the line has a note, the error says that instead.
    #[must_use]
    pub fn moved_to(mut self, loc: Loc) -> Error {
        if let Some(note) = &loc.note {
            self = Error::runtime(&**note);
        }
        self.0.location = Some(loc);
        self
    }

    /// Which class of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// The message without op and location.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The op that refused.
    pub fn op(&self) -> Option<&str> {
        self.0.op.as_deref()
    }
    /// Shapes of the operands.
    pub fn shapes(&self) -> &[Shape] {
        &self.0.shapes
    }
    /// Dtypes of the operands.
    pub fn dtypes(&self) -> &[DType] {
        &self.0.dtypes
    }
    /// The figures, when a device's memory did not suffice.
    pub fn figures(&self) -> Option<&OutOfMemory> {
        self.0.out_of_memory.as_ref()
    }
    /// The user's source line.
    pub fn location(&self) -> Option<&Loc> {
        self.0.location.as_ref()
    }
}
