//! Packages: programs in files, which run without the code that made them, and which nobody has to trust.
//!
//! A `.torsh` file is a zip archive of stored, 64-byte-aligned entries: `manifest.json`, `signature.json` (if signed),
//! `graph.txt`, `vjp.txt` (if gradients were asked for), lowered programs, machine code and kernels for CUDA devices (if levels
//! and architectures were named) and `weights.safetensors`. The graph is compiled where it is loaded, with the instruction
//! set that is there; programs and code that fit are taken instead where the caller says whom to believe
//! ([`LoadOptions`]). `docs/packages.md` describes the format.
//! In a package with dims, sizes vary within ranges: its graphs are templates, filled in at the sizes of a call.
//!
//! [`Package::load`] trusts nothing: the directory, every size and offset, the manifest, the hash of every entry, the
//! header of the weights, and the graph (parser, verifier, limits) are checked before use; a file that breaks a rule is a
//! `Package` error that names the entry. Memory is bounded by a small multiple of the file's size, time is linear in it.
//!
//! ```
//! use torsh_runtime::package::{Package, Value};
//! use torsh_runtime::{Config, CpuExecutor};
//!
//! # fn main() -> torsh_ir::Result<()> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/packages/0.1.0/linear.torsh");
//! let package = Package::load(path)?; // made by torsh.export: y = x @ weight.T + bias
//! let executor = CpuExecutor::with_config(&Config::default())?;
//! let mut model = package.instantiate(&executor)?;
//! let x = Value::from_slice(&executor, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! let outputs = model.run(&[x])?;
//! assert_eq!(outputs[0].shape(), [2, 2]);
//! let y: Vec<f32> = outputs[0].to_vec()?;
//! assert_eq!(y, [14.0, -1.0, 32.0, 2.0]);
//! # Ok(())
//! # }
//! ```

pub mod archive;
mod code;
pub mod cubin;
pub mod dims;
pub mod format;
mod graphs;
pub mod layout;
mod load;
mod lowered;
pub mod manifest;
pub(crate) mod model;
mod place;
mod same;
mod sign;
mod value;
mod weights;
pub(crate) mod write;

pub use code::CodeUse;
pub use cubin::CudaTargets;
pub use dims::{Instance, Templates};
pub use load::{LoadOptions, Memory, Package};
pub use lowered::LoweredUse;
pub use manifest::Manifest;
pub use model::{Model, donated, donations};
pub use same::same_meaning;
pub use sign::{PublicKey, SecretKey, hex, unhex};
pub use value::{Element, Value};
pub use write::{Contents, write, write_template};
