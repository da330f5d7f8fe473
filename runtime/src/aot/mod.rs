//! Libraries in C: a program as a header, C source and an object file with the machine code of its kernels. What is
//! linked from them runs without torsh, without a compiler, and without allocation once a context is made.
//!
//! [`build`] only makes text and bytes; whoever calls it runs the C compiler. The kernels are Cranelift's, for a
//! baseline of the architecture; what they call, the products and the library calls are C source of our own
//! (`torsh_codegen::cpu::c`), of which the parts in use are written out.
//!
//! Memory of a context, in one piece: state that the program updates or the caller may set, the program's arena, values
//! that replace state at the end of a run, scratch memory. All other state and the constants are read where they
//! are linked (or in the file of weights that the caller has mapped).

mod header;
mod object;
mod steps;

pub use object::Architecture;

use crate::executable::{can_fail, first_writes};
use crate::package::format::refused;
use crate::package::manifest::{Manifest, Role, Slot, Types};
use crate::package::model::donations;
use crate::package::write::known;
use std::collections::HashSet;
use torsh_ir::exec::BufferRef;
use torsh_ir::program::{Place, Program};
use torsh_ir::{Error, Graph, Result};
use torsh_passes::pipeline::{self, Options};

/// What to make a library of.
pub struct Request<'a> {
    /// Names and types of what goes in and out, and of the state.
    pub manifest: &'a Manifest,
    /// The program.
    pub graph: &'a Graph,
    /// The bytes of each tensor of the state.
    pub state: &'a [BufferRef],
    /// Name of the library, with which all of its names begin: an identifier of C.
    pub name: &'a str,
    /// What it is for.
    pub target: Architecture,
    /// The state is written to a file of its own instead of into the library.
    pub weights_in_file: bool,
}

/// A library, to be compiled.
pub struct Library {
    /// `{name}.h`.
    pub header: String,
    /// The C source, which includes the header.
    pub source: String,
    /// The object file to link with it.
    pub object: Vec<u8>,
    /// `{name}.weights`, if asked for.
    pub weights: Option<Vec<u8>>,
    /// Bytes that a context needs.
    pub arena_bytes: usize,
}

/// What every block of memory is aligned to.
const ALIGN: usize = 64;
/// A file of weights begins with so many bytes: a word for the format, sizes, and a hash of the contents.
const HEAD: usize = 64;

/// Where a tensor of the state is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Home {
    /// In the context, at this offset of its memory.
    Context(usize),
    /// Among the weights, at this offset.
    Weights,
}

/// A program with the place of everything it uses.
struct Layout<'a> {
    request: &'a Request<'a>,
    types: Types,
    names: header::Names,
    program: Program,
    /// Per tensor of the state: where it is, and the offset of its first value among the weights.
    state: Vec<(Home, usize)>,
    /// Per buffer of the program: offset of a constant among the constants, or of an output in the context.
    offsets: Vec<usize>,
    /// Offset of the arena and of scratch memory in the context, and bytes of all of it.
    arena: usize,
    scratch: usize,
    bytes: usize,
    weights_bytes: usize,
    weights_hash: [u8; 32],
}

/// The next multiple of [`ALIGN`].
fn aligned(n: usize) -> Result<usize> {
    n.checked_next_multiple_of(ALIGN).ok_or_else(|| Error::limit("a library that needs more memory than there is"))
}

/// Takes `n` bytes at the end of `total`.
fn take(total: &mut usize, n: usize) -> Result<usize> {
    let at = *total;
    let end = at.checked_add(n).ok_or_else(|| Error::limit("a library that needs more memory than there is"))?;
    *total = aligned(end)?;
    Ok(at)
}

/// Compiles the program. State is updated in place unless a step could fail after that.
fn compile(request: &Request<'_>) -> Result<Program> {
    let mut options = Options { donate: donations(request.graph, &request.manifest.forward), ..Options::default() };
    let program = pipeline::compile(request.graph, &options)?;
    let last = program.steps.iter().rposition(|s| can_fail(&s.op));
    if first_writes(&program).into_iter().flatten().all(|first| last.is_none_or(|last| first > last)) {
        return Ok(program);
    }
    options.donate.clear();
    pipeline::compile(request.graph, &options)
}

/// Makes a library.
///
/// Errors: `Export` for a name that is no identifier and for programs with steps that have no C text (named in the
/// error); `Limit` for programs that need too much memory.
pub fn build(request: &Request<'_>) -> Result<Library> {
    let types = known(request.manifest)?;
    request.manifest.check_graph(&request.manifest.forward, request.graph, &types).map_err(|e| refused(e.message()))?;
    let names = header::Names::new(request.name, request.manifest)?;
    let program = compile(request)?;
    program.verify()?;
    // Weights: the first value of every tensor of the state.
    let (mut weights, mut state) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    let written: HashSet<u32> = request
        .manifest
        .forward
        .outputs
        .iter()
        .filter_map(|slot| if let Slot::State(s) = slot { Some(*s) } else { None })
        .collect();
    if request.state.len() != types.state.len() {
        return Err(refused("the state has another number of tensors than the manifest"));
    }
    for (i, (ty, buffer)) in types.state.iter().zip(request.state).enumerate() {
        let data = buffer.host_bytes().filter(|b| b.len() == ty.nbytes());
        let data = data.ok_or_else(|| refused(format!("state {i} is not in the memory of the host")))?;
        let at = weights.len();
        weights.extend_from_slice(data);
        weights.resize(aligned(weights.len())?, 0);
        let own = written.contains(&(i as u32)) || request.manifest.state[i].role == Role::Float;
        let home = if own { Home::Context(take(&mut bytes, ty.nbytes())?) } else { Home::Weights };
        state.push((home, at));
    }
    let arena = take(&mut bytes, program.arena_bytes)?;
    let (mut constants, mut offsets) = (Vec::new(), Vec::with_capacity(program.buffers.len()));
    for (i, buffer) in program.buffers.iter().enumerate() {
        offsets.push(match &buffer.place {
            Place::Const(data) => {
                let at = constants.len();
                constants.extend_from_slice(data);
                constants.resize(aligned(constants.len())?, 0);
                at
            }
            // Given to the caller's memory where the caller asks for it, else kept until the end of the run.
            Place::Output if steps::asked_for(&request.manifest.forward, &program, i).is_none() => {
                take(&mut bytes, buffer.ty.nbytes())?
            }
            _ => 0,
        });
    }
    let weights_bytes = weights.len();
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&weights).into();
    let file = request.weights_in_file.then(|| header::weights_file(&weights, &hash));
    let mut data = constants;
    let weights_at = data.len();
    if !request.weights_in_file {
        data.extend_from_slice(&weights);
    }
    let object = object::emit(&program, request.target, &names.internal(), data)?;
    let scratch_bytes = steps::scratch_bytes(&program, &object.kernels)?;
    let scratch = take(&mut bytes, scratch_bytes)?;
    let layout = Layout {
        request,
        types,
        names,
        program,
        state,
        offsets,
        arena,
        scratch,
        // So that memory of any alignment will do.
        bytes: aligned(bytes)?.saturating_add(ALIGN),
        weights_bytes,
        weights_hash: hash,
    };
    let source = steps::source(&layout, &object, weights_at)?;
    let header = header::header(&layout);
    Ok(Library { header, source, object: object.bytes, weights: file, arena_bytes: layout.bytes })
}
