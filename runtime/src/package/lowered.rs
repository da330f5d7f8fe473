//! Lowered programs in packages: what the passes made of a graph, so that a reader need not run them.
//!
//! An entry holds one program: of the graph or of the gradients, in a package with dims at the sizes of the example. It
//! serves every instruction set, and CUDA devices where the passes make the same for them. A reader can check that a program is well formed,
//! stays within its memory and takes and gives what the graph does, and checks all of it; that it computes what the graph
//! says is the word of its maker. So it is looked at only where machine code is: where the caller says whom to believe. In any
//! other case the entry is hashed like every other one and the passes run; so they do where another version of torsh
//! or one with other settings wrote it, where it was made for another graph, and where settings have changed since it was
//! read.

use super::format::{MAX_LOWERED_BYTES, bad, lowered_entry};
use super::manifest::{Lowered, Manifest};
use super::model::donations;
use super::sign::unhex;
use crate::verified;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use torsh_ir::program::Program;
use torsh_ir::{Error, ErrorKind, Graph, Result, wire};
use torsh_passes::pipeline;

const MAGIC: &[u8; 8] = b"torshPR\n";
const FORM: u32 = 1;

/// What became of an entry with a lowered program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoweredUse {
    /// Name of the entry.
    pub entry: String,
    /// Steps of the program, where it was read.
    pub steps: usize,
    /// Why it was not read, if it was not; then the passes run.
    pub unused: Option<String>,
}

impl LoweredUse {
    pub(super) fn unused(about: &Lowered, why: &str) -> LoweredUse {
        LoweredUse { entry: about.entry.clone(), steps: 0, unused: Some(why.to_string()) }
    }
}

/// A program, with the settings of the passes that made it.
pub(super) type Made = (String, Arc<Program>);

/// The programs of a file that are used.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored(Vec<Kept>);

#[derive(Clone, Debug)]
struct Kept {
    vjp: bool,
    sizes: Vec<u64>,
    // Those under which it was made, which were in force when it was read and may be others when it is asked for.
    settings: String,
    program: Arc<Program>,
}

impl Stored {
    /// The program of the graph, or of the gradients, at these sizes, if the passes would make it now.
    pub fn find(&self, vjp: bool, sizes: &[u64]) -> Option<&Arc<Program>> {
        let kept = self.0.iter().find(|kept| kept.vjp == vjp && kept.sizes == sizes)?;
        (kept.settings == pipeline::settings()).then_some(&kept.program)
    }

    pub(super) fn add(&mut self, about: &Lowered, (settings, program): Made) {
        self.0.push(Kept { vjp: about.is_vjp(), sizes: about.sizes.clone(), settings, program });
    }
}

/// What an entry is known by: the graph's text and the sizes, what is donated, and what the passes depend on.
fn key(
    settings: &str,
    manifest: &Manifest,
    (vjp, sizes): (bool, &[u64]),
    graph_sha256: &[u8; 32],
    donate: &[(usize, usize)],
) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("torsh programs {} {settings}\n", crate::VERSION));
    hash.update(graph_sha256);
    hash.update(format!("vjp {vjp} dims {:?} sizes {sizes:?} donate {donate:?}\n", manifest.dim_names()));
    hash.finalize().into()
}

/// The bytes of the entry of a graph, with what the manifest says of it. `None` for a program that is too large to be read
/// again.
///
/// Errors: as of the passes.
pub(super) fn entry(
    manifest: &Manifest,
    sizes: &[u64],
    (vjp, graph): (bool, &Graph),
    graph_sha256: &[u8; 32],
    lowered: &Program,
) -> Result<Option<(Lowered, Vec<u8>)>> {
    let about = if vjp { manifest.vjp.as_ref() } else { Some(&manifest.forward) };
    let about = about.ok_or_else(|| Error::new(ErrorKind::Export, "gradients that the manifest does not know"))?;
    let key = key(&pipeline::settings(), manifest, (vjp, sizes), graph_sha256, &donations(graph, about));
    let body = wire::encode(lowered);
    if wire::decode(&body).is_err() {
        return Ok(None);
    }
    let bytes = [MAGIC, &FORM.to_le_bytes()[..], &key, &body].concat();
    let fits = bytes.len() as u64 <= MAX_LOWERED_BYTES;
    let entry = lowered_entry(vjp);
    Ok(fits.then(|| (Lowered { graph: about.graph.clone(), entry, sizes: sizes.to_vec() }, bytes)))
}

/// Reads an entry, whose hash has been checked, if it may be used, with the settings of its passes; `graph` is that of the
/// package at the entry's sizes.
/// Errors: `Package` for one that is malformed, or does not fit its graph, though it is believed. One beyond the limits is
/// unused.
pub(super) fn read(
    about: &Lowered,
    bytes: &[u8],
    believed: bool,
    manifest: &Manifest,
    graph: &Graph,
) -> Result<(LoweredUse, Option<Made>)> {
    let unused = |why: &str| Ok((LoweredUse::unused(about, why), None));
    if !believed {
        return unused("nobody vouches for it: the caller gave neither trusted keys nor the file's hash");
    }
    let vjp = about.is_vjp();
    let program = if vjp { manifest.vjp.as_ref() } else { Some(&manifest.forward) };
    let program = program.ok_or_else(|| bad(&about.entry, "there are no gradients"))?;
    let donate = donations(graph, program);
    let hash = manifest.entry(&program.graph).and_then(|e| unhex(&e.sha256));
    let hash: [u8; 32] = hash.ok_or_else(|| bad(&about.entry, "its graph is missing"))?;
    let settings = pipeline::settings();
    let key = key(&settings, manifest, (vjp, &about.sizes), &hash, &donate);
    let head = [MAGIC, &FORM.to_le_bytes()[..], &key].concat();
    let Some(body) = bytes.strip_prefix(&head[..]) else {
        return unused("another version of torsh, one with other settings, or one for another graph wrote it");
    };
    let lowered = wire::decode(body).map_err(|why| bad(&about.entry, why))?;
    let lowered = Arc::new(lowered);
    // What is wrong stands in the first line; a listing follows, whose length is the file's.
    verified::remember(&lowered).map_err(|e| bad(&about.entry, e.message().lines().next().unwrap_or_default()))?;
    match pipeline::fits(&lowered, graph, &donate) {
        Err(e) if e.kind() == ErrorKind::Limit => return unused(e.message()),
        fits => fits.map_err(|e| bad(&about.entry, e.message()))?,
    }
    let steps = lowered.steps.len();
    Ok((LoweredUse { entry: about.entry.clone(), steps, unused: None }, Some((settings, lowered))))
}
