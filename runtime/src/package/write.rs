//! Writing a package: the same contents give the same bytes, and the old file stands until the new one is whole.

use super::code;
use super::cubin::{self, CudaTargets};
use super::dims::{Instance, Templates};
use super::format::{
    FORMAT, GRAPH, MANIFEST, MAX_CODE_BYTES, MAX_GRAPH_BYTES, MAX_MANIFEST_BYTES, SIGNATURE, VERSION_WITH_CODE, VJP,
    WEIGHTS, refused,
};
use super::layout::{Facts, Layout, layout};
use super::lowered;
use super::manifest::{Entry, Manifest, Types};
use super::place;
use super::sign::{SecretKey, hex};
use super::weights;
use sha2::{Digest, Sha256};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use torsh_ir::exec::BufferRef;
use torsh_ir::{Error, Graph, Result, text};

/// What a package is made of. The manifest's `entries` are filled in by the writer.
pub struct Contents {
    /// The manifest.
    pub manifest: Manifest,
    /// The program.
    pub forward: Graph,
    /// Its gradients.
    pub vjp: Option<Graph>,
    /// The bytes of each tensor of the state.
    pub state: Vec<BufferRef>,
    /// Instruction set levels that the file has machine code for; with any, or with CUDA devices, it has the lowered
    /// programs, too.
    pub code: Vec<String>,
    /// CUDA devices that the file has kernels for.
    pub cuda: CudaTargets,
}

fn io(what: &str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| refused(format!("cannot {what} {}: {e}", path.display()))
}

fn host(buffer: &BufferRef) -> Result<&[u8]> {
    buffer
        .host_bytes()
        .ok_or_else(|| Error::device("state on a device must be copied to the host before it is exported"))
}

/// Writes a package to `path` and returns its size. It is written beside its place, synced, and renamed over what stood
/// there: whenever this is cut short, `path` has the old file or the new one.
///
/// Errors: `Export` for contents that no reader would take and for what the file system refuses.
pub fn write(path: &Path, contents: Contents, key: Option<&SecretKey>) -> Result<u64> {
    let types = known(&contents.manifest)?;
    if !contents.manifest.dims.is_empty() {
        return Err(refused("a package with dims holds templates"));
    }
    let mut graphs = vec![(GRAPH, text::print(&contents.forward))];
    graphs.extend(contents.vjp.as_ref().map(|g| (VJP, text::print(g))));
    assemble(path, contents, graphs, types, None, key)
}

/// Writes a package with dims, as [`write`] does one without: templates stand in place of the graphs. Machine
/// code, for these levels and CUDA devices, is that of the kernels at the sizes of the example.
///
/// Errors: as of [`write`], and where the templates give no valid graph at the smallest sizes.
pub fn write_template(
    path: &Path,
    manifest: Manifest,
    (forward, vjp): (String, Option<String>),
    state: Vec<BufferRef>,
    (code, cuda, example): (Vec<String>, CudaTargets, Vec<u64>),
    key: Option<&SecretKey>,
) -> Result<u64> {
    let types = known(&manifest)?;
    if manifest.dims.is_empty() {
        return Err(refused("a package without dims holds graphs"));
    }
    let mut graphs = vec![(GRAPH, forward.clone())];
    graphs.extend(vjp.clone().map(|text| (VJP, text)));
    let wanted = !code.is_empty() || !cuda.names.is_empty();
    let made = Templates::new(&manifest, &types, forward, vjp)
        .and_then(|t| Ok((t.at(&manifest.smallest())?, if wanted { Some(t.at(&example)?) } else { None })));
    let (made, at_example) = made.map_err(|e| refused(e.message()))?;
    let contents =
        Contents { manifest, forward: Graph::clone(&made.forward), vjp: made.vjp.clone(), state, code, cuda };
    assemble(path, contents, graphs, types, at_example.map(|made| (example, made)), key)
}

/// Writes what is known to be of this version and these types, with the graphs as these texts; with dims, the graphs at
/// the sizes of the example are those that code is made of.
fn assemble(
    path: &Path,
    contents: Contents,
    graphs: Vec<(&'static str, String)>,
    types: Types,
    example: Option<(Vec<u64>, Arc<Instance>)>,
    key: Option<&SecretKey>,
) -> Result<u64> {
    let Contents { mut manifest, forward, vjp, state, code, cuda } = contents;
    let programs = [Some((&manifest.forward, &forward)), manifest.vjp.as_ref().zip(vjp.as_ref())];
    for (program, graph) in programs.into_iter().flatten() {
        manifest.check_graph(program, graph, &types).map_err(|e| refused(e.message()))?;
    }
    if manifest.vjp.is_some() != vjp.is_some() {
        return Err(refused("the manifest and the contents differ on whether there are gradients"));
    }
    let types = types.state;
    let (sizes, forward, vjp) = match &example {
        Some((sizes, made)) => (&sizes[..], &*made.forward, made.vjp.as_ref()),
        None => (&[][..], &forward, vjp.as_ref()),
    };
    let compiled: Vec<&Graph> = [Some(forward), vjp].into_iter().flatten().collect();
    let wanted = !code.is_empty() || !cuda.names.is_empty();
    let programs = if wanted { code::programs(&manifest, &compiled, false)? } else { Vec::new() };
    let on_device = if cuda.names.is_empty() { Vec::new() } else { code::programs(&manifest, &compiled, true)? };
    let mut lowered = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let hash = Sha256::digest(&graphs[i].1).into();
        lowered.extend(lowered::entry(&manifest, sizes, i == 1, &hash, program)?);
    }
    manifest.lowered = lowered.iter().map(|(about, _)| about.clone()).collect();
    let code = code::entries(&code, &programs)?;
    manifest.code = code.iter().map(|(about, _)| about.clone()).collect();
    let cuda = cubin::entries(&cuda, &on_device)?;
    manifest.cuda = cuda.iter().map(|(about, _)| about.clone()).collect();
    if wanted {
        manifest.version = VERSION_WITH_CODE;
    }
    for (name, graph) in &graphs {
        if graph.len() as u64 > MAX_GRAPH_BYTES {
            return Err(refused(format!("{name} would have {} bytes; the most is {MAX_GRAPH_BYTES}", graph.len())));
        }
    }
    let names: Vec<&str> = manifest.state.iter().map(|s| s.name.as_str()).collect();
    if names.len() != state.len() {
        return Err(refused("the state has another number of tensors than the manifest"));
    }
    let tensors: Vec<_> = names.iter().copied().zip(&types).collect();
    let (header, order) = weights::header(&tensors)?;
    let (mut hash, mut crc) = (Sha256::new(), crc32fast::Hasher::new());
    hash.update(&header);
    crc.update(&header);
    let mut bytes = header.len() as u64;
    for &i in &order {
        let data = host(&state[i])?;
        if data.len() != types[i].nbytes() {
            return Err(refused(format!("the tensor {:?} has {} bytes", names[i], data.len())));
        }
        hash.update(data);
        crc.update(data);
        bytes += data.len() as u64;
    }
    let texts = graphs.iter().map(|(name, graph)| (*name, graph.as_bytes()));
    let lowered = lowered.iter().map(|(about, bytes)| (&about.entry, bytes));
    let code = code.iter().map(|(about, bytes)| (&about.entry, bytes));
    let cuda = cuda.iter().map(|(about, bytes)| (&about.entry, bytes));
    let made = lowered.chain(code).chain(cuda);
    let made: Vec<(&str, &[u8])> = made.map(|(entry, bytes)| (entry.as_str(), bytes.as_slice())).collect();
    let read: Vec<(&str, &[u8])> = texts.chain(made.iter().copied()).collect();
    if let Some((entry, bytes)) = made.iter().find(|(_, bytes)| bytes.len() as u64 > MAX_CODE_BYTES) {
        return Err(refused(format!("{entry} would have {} bytes; the most is {MAX_CODE_BYTES}", bytes.len())));
    }
    manifest.entries = read
        .iter()
        .map(|(name, data)| Entry {
            name: (*name).to_string(),
            bytes: data.len() as u64,
            sha256: hex(&Sha256::digest(data)),
        })
        .collect();
    manifest.entries.push(Entry { name: WEIGHTS.to_string(), bytes, sha256: hex(&hash.finalize()) });
    manifest.check().map_err(|e| refused(e.message()))?;
    let mut json = serde_json::to_vec(&manifest).map_err(|e| refused(format!("the manifest: {e}")))?;
    json.push(b'\n');
    if json.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(refused(format!("the manifest would have {} bytes", json.len())));
    }
    let signature = key.map(|k| k.sign(&json)).transpose()?;

    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = place::part(folder).map_err(io("create a file in", folder))?;
    let mut small: Vec<(&str, &[u8])> = vec![(MANIFEST, &json)];
    small.extend(signature.as_ref().map(|s| (SIGNATURE, s.as_slice())));
    small.extend(&read);
    let mut facts: Vec<Facts<'_>> = small.iter().map(|(name, data)| Facts::of(name, data)).collect();
    facts.push(Facts { name: WEIGHTS, bytes, crc: crc.finalize() });
    let Layout { heads, tail } =
        layout(&facts).ok_or_else(|| refused("the file has more bytes than can be counted"))?;
    let mut out = BufWriter::new(file.as_file_mut());
    let mut size = 0;
    let mut put = |data: &[u8]| {
        size += data.len() as u64;
        out.write_all(data).map_err(io("write", path))
    };
    for (i, head) in heads.iter().enumerate() {
        put(head)?;
        match small.get(i) {
            Some((_, data)) => put(data)?,
            None => {
                put(&header)?;
                order.iter().try_for_each(|&i| put(host(&state[i])?))?;
            }
        }
    }
    put(&tail)?;
    out.flush().map_err(io("write", path))?;
    drop(out);
    file.as_file().sync_all().map_err(io("sync", path))?;
    file.persist(path).map_err(|e| io("write", path)(e.error))?;
    // The new name is on disk only once its folder is.
    #[cfg(unix)]
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io("sync", folder))?;
    Ok(size)
}

/// The types of a manifest whose entries are not known yet; all else is checked before anything is written.
pub(crate) fn known(manifest: &Manifest) -> Result<Types> {
    let mut probe = manifest.clone();
    probe.entries = [GRAPH, WEIGHTS]
        .into_iter()
        .chain(manifest.vjp.is_some().then_some(VJP))
        .map(|name| Entry { name: name.to_string(), bytes: 0, sha256: "0".repeat(64) })
        .collect();
    if probe.format != FORMAT {
        return Err(refused(format!("only format {FORMAT} is written")));
    }
    probe.check().map_err(|e| refused(e.message()))
}
