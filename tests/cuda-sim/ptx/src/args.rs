//! Kernel parameters as bytes.

/// Builds the bytes of a kernel's parameters: each value at the next multiple of its size, as `.param` lays them out.
#[derive(Clone, Debug, Default)]
pub struct Args {
    bytes: Vec<u8>,
}

macro_rules! scalar {
    ($($name:ident)*) => { $(
        /// Adds a value of this type.
        #[must_use]
        pub fn $name(self, v: $name) -> Args {
            self.raw(&v.to_le_bytes())
        }
    )* };
}

impl Args {
    /// No parameters.
    pub fn new() -> Args {
        Args::default()
    }

    scalar!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

    /// Adds a value by its bytes, aligned to their number.
    #[must_use]
    pub fn raw(mut self, v: &[u8]) -> Args {
        self.bytes.resize(self.bytes.len().next_multiple_of(v.len().max(1)), 0);
        self.bytes.extend_from_slice(v);
        self
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}
