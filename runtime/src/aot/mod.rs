//! Libraries in C: a program as a header, C source and an object file with the machine code of its kernels. What is
//! linked from them runs without torsh, without a compiler, and without allocation once a context is made.
//!
//! [`build`] only makes text and bytes; whoever calls it runs the C compiler. The kernels are Cranelift's, for a
//! baseline of the architecture; what they call, the products and the library calls are C source of our own
//! (`torsh_codegen::cpu::c`), of which the parts in use are written out.
//!
//! Memory of a context, in one piece: state that the program updates or the caller may set, gradients of parameters, the
//! program's arena, values that replace state at the end of a run, scratch memory. All other state and the constants are
//! read where they are linked (or in the file of weights that the caller has mapped).
//!
//! A library with gradients has a second program, which gives what the first one does, and gradients. Its manifest is
//! that of the first, longer: more inputs (cotangents of outputs), outputs (gradients of inputs) and state (gradients of
//! parameters), so that nothing below distinguishes them.

mod calls;
mod functions;
mod header;
mod object;
mod pack;
mod state;
mod steps;
mod table;

pub use object::Architecture;

use crate::executable::{first_writes, is_safe, last_fallible};
use crate::package::format::refused;
use crate::package::manifest::{Manifest, Program as Slots, Role, Slot, Types};
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
    /// The program with gradients. Inputs, outputs and state begin with those of `manifest`.
    pub gradients: Option<(&'a Manifest, &'a Graph)>,
    /// The bytes of each tensor of the state of `manifest`.
    pub state: &'a [BufferRef],
    /// The state of random numbers among the state: what a seed sets.
    pub seeds: &'a [u32],
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

/// Per tensor of the state: where it is, and the offset of its first value among the weights.
type Homes = Vec<(Home, usize)>;

/// A program with its function.
struct Entry<'a> {
    /// `run` or `run_grad`.
    function: &'static str,
    slots: &'a Slots,
    program: Program,
    /// Inputs and outputs that it has, the first so many of all.
    ports: (usize, usize),
    /// Per buffer of the program: offset of a constant among the constants, or of an output in the context.
    offsets: Vec<usize>,
}

/// Programs with the place of everything they use.
struct Layout<'a> {
    request: &'a Request<'a>,
    /// The manifest that has everything.
    manifest: &'a Manifest,
    types: Types,
    names: header::Names,
    entries: Vec<Entry<'a>>,
    state: Homes,
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
fn compile(manifest: &Manifest, graph: &Graph) -> Result<Program> {
    let mut options = Options { compact: true, donate: donations(graph, &manifest.forward), ..Options::default() };
    let program = pipeline::compile(graph, &options)?;
    let last = last_fallible(&program);
    if first_writes(&program).into_iter().flatten().all(|first| is_safe(first, last)) {
        return Ok(program);
    }
    options.donate.clear();
    pipeline::compile(graph, &options)
}

/// Makes a library.
///
/// Errors: `Export` for a name that is no identifier and for programs with steps that have no C text (named in the
/// error); `Limit` for programs that need too much memory.
pub fn build(request: &Request<'_>) -> Result<Library> {
    let given: Vec<_> = [(request.manifest, request.graph)].into_iter().chain(request.gradients).collect();
    let manifest = given.last().map_or(request.manifest, |(manifest, _)| manifest);
    if !begins(request.manifest, manifest) {
        return Err(refused("the program with gradients has other inputs, outputs or state than the program"));
    }
    let types = known(manifest)?;
    let names = {
        let run = (request.manifest.inputs.len(), request.manifest.outputs.len());
        header::Names::new(request.name, manifest, run)?
    };
    let mut entries = Vec::new();
    for (function, &(manifest, graph)) in ["run", "run_grad"].into_iter().zip(&given) {
        manifest.check_graph(&manifest.forward, graph, &types).map_err(|e| refused(e.message()))?;
        let program = compile(manifest, graph)?;
        program.verify()?;
        let ports = (manifest.inputs.len(), manifest.outputs.len());
        entries.push(Entry { function, slots: &manifest.forward, program, ports, offsets: Vec::new() });
    }
    let mut bytes = 0;
    let (weights, state) = state(request, manifest, &types, &entries, &mut bytes)?;
    let mut arena_bytes = 0;
    for entry in &entries {
        arena_bytes = arena_bytes.max(entry.program.arena_bytes);
    }
    let arena = take(&mut bytes, arena_bytes)?;
    let kept = request.manifest.state.len();
    let (mut constants, from) = (Vec::new(), bytes);
    for entry in &mut entries {
        // Programs run one after the other: their values may share memory.
        let mut end = from;
        for (i, buffer) in entry.program.buffers.iter().enumerate() {
            let offset = match &buffer.place {
                Place::Const(data) => {
                    let at = constants.len();
                    constants.extend_from_slice(data);
                    constants.resize(aligned(constants.len())?, 0);
                    at
                }
                // Given to memory of the caller or the context that asks for it, else kept until the end of the run.
                Place::Output if steps::asked_for(entry.slots, &entry.program, i, kept).is_none() => {
                    take(&mut end, buffer.ty.nbytes())?
                }
                _ => 0,
            };
            entry.offsets.push(offset);
        }
        bytes = bytes.max(end);
    }
    let weights_bytes = weights.len();
    let hash = <sha2::Sha256 as sha2::Digest>::digest(&weights).into();
    let file = request.weights_in_file.then(|| header::weights_file(&weights, &hash));
    let mut data = constants;
    let weights_at = data.len();
    if !request.weights_in_file {
        data.extend_from_slice(&weights);
    }
    let programs: Vec<&Program> = entries.iter().map(|e| &e.program).collect();
    let object = object::emit(&programs, request.target, &names.internal(), data)?;
    let scratch_bytes = steps::scratch_bytes(&programs, &object.kernels)?;
    let scratch = take(&mut bytes, scratch_bytes)?;
    let layout = Layout {
        request,
        manifest,
        types,
        names,
        entries,
        state,
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

/// Whether a manifest begins with all that another one has.
fn begins(short: &Manifest, long: &Manifest) -> bool {
    long.inputs.starts_with(&short.inputs)
        && long.outputs.starts_with(&short.outputs)
        && long.state.starts_with(&short.state)
}

/// The first value of every tensor of the state, one after the other, and where each tensor is.
fn state(
    request: &Request<'_>,
    manifest: &Manifest,
    types: &Types,
    entries: &[Entry<'_>],
    bytes: &mut usize,
) -> Result<(Vec<u8>, Homes)> {
    let written: HashSet<Slot> = entries.iter().flat_map(|e| e.slots.outputs.iter().copied()).collect();
    let kept = request.manifest.state.len();
    if request.state.len() != kept {
        return Err(refused("the state has another number of tensors than the manifest"));
    }
    let (mut weights, mut state) = (Vec::new(), Vec::new());
    for (i, ty) in types.state.iter().enumerate() {
        let at = weights.len();
        // What follows are gradients, which begin as zeros.
        if let Some(buffer) = request.state.get(i) {
            let data = buffer.host_bytes().filter(|b| b.len() == ty.nbytes());
            let data = data.ok_or_else(|| refused(format!("state {i} is not in the memory of the host")))?;
            weights.extend_from_slice(data);
            weights.resize(aligned(weights.len())?, 0);
        }
        let role = manifest.state[i].role;
        // Whoever asks for gradients will change what they are of.
        let changes = role == Role::Float || (role == Role::Parameter && request.gradients.is_some());
        let own = changes || i >= kept || written.contains(&Slot::State(i as u32));
        let home = if own { Home::Context(take(bytes, ty.nbytes())?) } else { Home::Weights };
        state.push((home, at));
    }
    Ok((weights, state))
}
