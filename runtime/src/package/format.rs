//! The numbers of the package format: version, names of entries, and the limits that hold before anything is parsed.

use torsh_ir::{Error, ErrorKind};

/// Version that is written for a package without dims.
pub const VERSION: u32 = 1;
/// Version that is written for a package with dims, which readers of the older version refuse by number.
pub const VERSION_WITH_DIMS: u32 = 2;
/// Version that is written for a package with machine code, of the CPU or of CUDA devices, or lowered programs, with dims or
/// without, likewise; also the newest that is read.
pub const VERSION_WITH_CODE: u32 = 3;
/// Oldest version that is read.
pub const OLDEST_VERSION: u32 = 1;
/// Word in the manifest that says what the file is.
pub const FORMAT: &str = "torsh-package";

/// The manifest's entry.
pub const MANIFEST: &str = "manifest.json";
/// The signature's entry.
pub const SIGNATURE: &str = "signature.json";
/// The graph's entry.
pub const GRAPH: &str = "graph.txt";
/// The gradient program's entry.
pub const VJP: &str = "vjp.txt";
/// The entry of the lowered program.
pub const LOWERED: &str = "program.bin";
/// The entry of the lowered gradient program.
pub const LOWERED_VJP: &str = "program-vjp.bin";
/// Levels that machine code in a package may be for, in the order of their entries.
pub const CODE_LEVELS: [&str; 3] = ["portable", "avx2", "avx512"];
/// The state's entry.
pub const WEIGHTS: &str = "weights.safetensors";

/// Every entry's data begins at a multiple of this.
pub const ALIGN: u64 = 64;
/// Entries of a file.
pub const MAX_ENTRIES: usize = 16;
/// Bytes of an entry's name.
pub const MAX_ENTRY_NAME: usize = 64;
/// Bytes of the manifest.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;
/// Bytes of the signature.
pub const MAX_SIGNATURE_BYTES: u64 = 4 << 10;
/// Bytes of the text of a graph.
pub const MAX_GRAPH_BYTES: u64 = 256 << 20;
/// Bytes of an entry of machine code.
pub const MAX_CODE_BYTES: u64 = 64 << 20;
/// Entries of kernels for CUDA devices.
pub const MAX_CUDA: usize = 6;
/// Kernels that such an entry has.
pub const MAX_CUDA_KERNELS: usize = 1 << 16;
/// Images that such an entry has.
pub const MAX_CUDA_IMAGES: usize = 1 << 12;
/// Bytes of the name of a kernel in its image.
pub const MAX_SYMBOL: usize = 128;
/// Bytes of an entry with a lowered program.
pub const MAX_LOWERED_BYTES: u64 = 64 << 20;
/// Features of a processor that an entry of machine code names.
pub const MAX_FEATURES: usize = 32;
/// Bytes of the header of the weights.
pub const MAX_WEIGHTS_HEADER: u64 = 64 << 20;
/// Nesting of the trees of arguments and results.
pub const MAX_TREE_DEPTH: usize = 32;
/// Dims of a package.
pub const MAX_DIMS: usize = 16;
/// The largest size of a dim.
pub const MAX_DIM: u64 = 1 << 31;
/// Bytes of a name of an input, an output or a tensor of the state.
pub const MAX_NAME: usize = 1024;

/// The entry of machine code for an architecture and level.
pub fn code_entry(arch: &str, level: &str) -> String {
    format!("code-{arch}-{level}.bin")
}

/// The entry of kernels for a CUDA architecture.
pub fn cuda_entry(target: &str) -> String {
    format!("cuda-{target}.bin")
}

/// The entry of the lowered program of the graph, or of the gradients.
pub fn lowered_entry(vjp: bool) -> String {
    (if vjp { LOWERED_VJP } else { LOWERED }).to_string()
}

/// An error of the reader: which entry, and why.
pub(crate) fn bad(entry: &str, why: impl AsRef<str>) -> Error {
    Error::package(format!("{entry}: {}", why.as_ref()))
}

/// An error of the writer.
pub(crate) fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Export, why)
}
