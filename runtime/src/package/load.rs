//! Reading a package, and what can be asked of it.

use super::archive::{self, Item, read_at};
use super::code::{self, CodeUse};
use super::cubin;
use super::dims::Templates;
use super::format::{
    CODE_LEVELS, GRAPH, LOWERED, LOWERED_VJP, MANIFEST, MAX_CODE_BYTES, MAX_GRAPH_BYTES, MAX_LOWERED_BYTES,
    MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE, VJP, WEIGHTS, bad, code_entry,
};
use super::graphs::{Forward, checked};
use super::lowered::{self, LoweredUse, Stored};
use super::manifest::{Manifest, Program, Types};
use super::sign::{self, PublicKey, hex};
use super::weights;
use crate::codes::{self, Codes};
use crate::cuda::images::{self, Images};
use crate::memory::{CpuBuffer, Pool};
use crate::sys::map::Mapping;
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use torsh_ir::exec::BufferRef;
use torsh_ir::program::Program as LoweredProgram;
use torsh_ir::{Error, ErrorKind, Graph, Result, env};

/// Weights of so many bytes are worth a thread that hashes them.
const LARGE: u64 = 1 << 20;

/// What a loader demands.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// With keys, a file must be signed by one of them; with none in the list, no file is good enough. Without a list,
    /// unsigned files are read; a signature that does not verify refuses a file always. Machine code in a file that one
    /// of them signed is used.
    pub trusted_keys: Option<Vec<PublicKey>>,
    /// The SHA-256 of the whole file; no other is good enough. Machine code in it is used.
    pub sha256: Option<[u8; 32]>,
    /// Against whose cap weights count that are read into memory, because the file cannot be mapped. Without one they are
    /// bounded by the size of the file alone.
    pub memory: Option<Memory>,
    /// How many threads may read: with two or more, large weights are hashed for `sha256` while the rest is parsed. Nothing
    /// is believed before the hash is known.
    pub threads: usize,
}

/// The memory of an executor, as [`crate::CpuExecutor::memory`] gives it.
#[derive(Clone)]
pub struct Memory(pub(crate) Pool);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({:?})", self.0.stats())
    }
}

/// A package that has passed every check.
pub struct Package {
    manifest: Manifest,
    types: Types,
    forward: Forward,
    vjp: Option<Graph>,
    templates: Option<Arc<Templates>>,
    weights: Arc<Mapping>,
    state: Vec<Range<usize>>,
    signer: Option<PublicKey>,
    code: Vec<CodeUse>,
    lowered: Vec<LoweredUse>,
    stored: Stored,
    // Known to every program that is loaded while the package is here.
    codes: Vec<Arc<Codes>>,
    images: Vec<Arc<Images>>,
    bytes: u64,
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Package({:?}, {} bytes)", self.manifest.name, self.bytes)
    }
}

impl Package {
    /// Reads a package. Errors: `Package`, which names the file, the entry and the reason; `Limit` for want of memory.
    pub fn load(path: impl AsRef<Path>) -> Result<Package> {
        Package::load_with(path, &LoadOptions::default())
    }

    /// Reads a package under conditions.
    pub fn load_with(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Package> {
        let path = path.as_ref();
        read(path, options).map_err(|e| Error::new(e.kind(), format!("{}: {}", path.display(), e.message())))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// Types of inputs, outputs and state; with dims, at their smallest sizes, as are the graphs below.
    pub fn types(&self) -> &Types {
        &self.types
    }
    /// The program. Where a lowered one is used, the text of the graph is read at the first call of this.
    ///
    /// # Errors
    /// Those of the reading.
    pub fn forward(&self) -> Result<&Arc<Graph>> {
        self.forward.get(&self.manifest, &self.types)
    }
    /// The gradient program.
    pub fn vjp(&self) -> Option<&Graph> {
        self.vjp.as_ref()
    }
    /// The graphs of a package with dims, for other sizes.
    pub fn templates(&self) -> Option<&Arc<Templates>> {
        self.templates.as_ref()
    }
    /// The key whose signature the file bears.
    pub fn signer(&self) -> Option<&PublicKey> {
        self.signer.as_ref()
    }
    /// The machine code of the file, that for CUDA devices behind that for CPUs, and what became of it.
    pub fn code(&self) -> &[CodeUse] {
        &self.code
    }
    /// The lowered programs of the file, and what became of them.
    pub fn lowered(&self) -> &[LoweredUse] {
        &self.lowered
    }
    /// The lowered program of the graph, or with `vjp` of the gradients, at these sizes of the dims, if the file has it and it
    /// is believed: what passes would make of that graph now when [`super::donations`] are donated, as it says that they are.
    pub fn program(&self, vjp: bool, sizes: &[u64]) -> Option<&Arc<LoweredProgram>> {
        self.stored.find(vjp, sizes)
    }
    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }
    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Whether the state is a mapping of the file; otherwise it has been read into memory.
    pub fn is_mapped(&self) -> bool {
        self.weights.is_mapped()
    }

    /// A tensor of the state, without a copy. Every instance that does not change it shares these bytes.
    pub fn state(&self, index: usize) -> Result<BufferRef> {
        let range = self.state.get(index).cloned();
        let buffer = range.and_then(|range| CpuBuffer::file(self.weights.clone(), range));
        buffer.map(|b| Arc::new(b) as BufferRef).ok_or_else(|| Error::index(format!("no tensor {index} in the state")))
    }
}

/// Whether only this user, or root, can change the file: then its pages may be mapped.
#[cfg(unix)]
fn is_ours(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (meta.uid() == crate::sys::map::user() || meta.uid() == 0) && meta.mode() & 0o022 == 0
}

#[cfg(not(unix))]
fn is_ours(_: &std::fs::Metadata) -> bool {
    false
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    // A pipe without a writer would wait for one.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(path)
}

/// A file whose directory, manifest's bytes and signature have been read.
struct Opened {
    file: File,
    meta: Metadata,
    items: Vec<Item>,
    text: Vec<u8>,
    signer: Option<PublicKey>,
}

fn read(path: &Path, options: &LoadOptions) -> Result<Package> {
    let io = |what: &str| {
        let what = what.to_string();
        move |e: std::io::Error| Error::package(format!("cannot {what} the file: {e}"))
    };
    let file = open(path).map_err(io("open"))?;
    let meta = file.metadata().map_err(io("look at"))?;
    if !meta.is_file() {
        return Err(Error::package("not a regular file"));
    }
    let items = archive::list(&file, meta.len())?;
    let text = small(&file, need(&items, MANIFEST)?, MAX_MANIFEST_BYTES)?;
    // Before the text is looked at: what is not from a trusted key is not parsed.
    let signer = match find(&items, SIGNATURE) {
        Some(item) => Some(sign::verify(&small(&file, item, MAX_SIGNATURE_BYTES)?, &text)?),
        None => None,
    };
    trusted(signer.as_ref(), options)?;
    let opened = Opened { file, meta, items, text, signer };
    let package = match &options.sha256 {
        Some(wanted) => pinned(&opened, options, wanted)?,
        None => parse(&opened, options, None)?,
    };
    say(path, &package.code, &package.lowered);
    package.codes.iter().for_each(codes::believe);
    package.images.iter().for_each(images::believe);
    Ok(package)
}

fn find<'a>(items: &'a [Item], name: &str) -> Option<&'a Item> {
    items.iter().find(|i| i.name == name)
}

fn need<'a>(items: &'a [Item], name: &str) -> Result<&'a Item> {
    find(items, name).ok_or_else(|| bad(name, "the entry is missing"))
}

/// Reads what has this hash as a whole: a file that is another one is refused as such, whatever else is wrong with it.
fn pinned(opened: &Opened, options: &LoadOptions, wanted: &[u8; 32]) -> Result<Package> {
    let Opened { file, meta, items, text, .. } = opened;
    // The weights that the file's hash is made of are those that are used, where they are mapped.
    let item = find(items, WEIGHTS).filter(|item| is_ours(meta) && item.data.end > item.data.start);
    let mapped = item.map(|item| map(file, item)).transpose()?.map(Arc::new);
    let weights = item.zip(mapped.as_deref());
    let manifest = need(items, MANIFEST)?;
    let hash = || check_whole(file, meta.len(), wanted, (manifest, text), weights);
    if options.threads > 1 && item.is_some_and(|item| item.data.end - item.data.start >= LARGE) {
        // What is parsed meanwhile is believed by nobody yet, and parsers believe nothing.
        let both = std::thread::scope(|scope| {
            let hashing = std::thread::Builder::new().spawn_scoped(scope, hash).ok()?;
            let package = parse(opened, options, mapped.clone());
            Some((hashing.join(), package))
        });
        // Without another thread it is done on this one.
        if let Some((hashed, package)) = both {
            hashed.map_err(|_| Error::internal("panic while a package was hashed"))??;
            return package;
        }
    }
    hash()?;
    parse(opened, options, mapped)
}

/// Checks and reads all that is in a file. `hashed` are its weights, if the hash of the file covers them.
fn parse(opened: &Opened, options: &LoadOptions, hashed: Option<Arc<Mapping>>) -> Result<Package> {
    let Opened { file, meta, items, text, signer } = opened;
    let need = |name: &str| need(items, name);
    let manifest = Manifest::parse(text)?;
    let types = manifest.check()?;
    if let Some(item) = items.iter().find(|i| !manifest.expects(&i.name)) {
        return Err(bad(&item.name, "the manifest does not know this entry"));
    }
    in_order(items, &manifest)?;
    for entry in &manifest.entries {
        let item = need(&entry.name)?;
        if item.data.end - item.data.start != entry.bytes {
            let has = item.data.end - item.data.start;
            return Err(bad(&entry.name, format!("{has} bytes, in the manifest {}", entry.bytes)));
        }
    }
    // What the types say takes a moment to check; hashes take time.
    let believed = options.trusted_keys.is_some() || options.sha256.is_some();
    let (mut uses, mut codes) = (Vec::new(), Vec::new());
    for about in &manifest.code {
        let bytes = small(file, need(&about.entry)?, MAX_CODE_BYTES)?;
        check_hash(&about.entry, &bytes, &manifest)?;
        let (became, found) = code::read(about, bytes, believed)?;
        uses.push(became);
        codes.extend(found);
    }
    let mut images = Vec::new();
    for about in &manifest.cuda {
        let bytes = small(file, need(&about.entry)?, MAX_CODE_BYTES)?;
        check_hash(&about.entry, &bytes, &manifest)?;
        let (became, found) = cubin::read(about, bytes, believed)?;
        uses.push(became);
        images.extend(found);
    }
    let item = need(WEIGHTS)?;
    weights::check_size(item.data.end - item.data.start, &types.state, |bytes| read_at(file, item.data.start, bytes))?;
    let forward = source(file, need(GRAPH)?, &manifest)?;
    let vjp = manifest.vjp.as_ref().map(|_| source(file, need(VJP)?, &manifest)).transpose()?;
    let graph_error = |e: Error| Error::package(e.message());
    let templates = match manifest.dims.is_empty() {
        true => None,
        false => Some(Templates::new(&manifest, &types, forward.clone(), vjp.clone()).map_err(graph_error)?),
    };
    let (mut lowered, mut stored) = (Vec::new(), Stored::default());
    for about in &manifest.lowered {
        let bytes = small(file, need(&about.entry)?, MAX_LOWERED_BYTES)?;
        check_hash(&about.entry, &bytes, &manifest)?;
        // At sizes that this machine's limits refuse there is nothing to be used; others may be called.
        let at = |of: &Templates| of.at(&about.sizes);
        let instance = match templates.as_ref().filter(|_| believed).map(at).transpose() {
            Ok(instance) => instance,
            Err(e) if e.kind() == ErrorKind::Limit => {
                lowered.push(LoweredUse::unused(about, e.message()));
                continue;
            }
            Err(e) => return Err(Error::package(e.message())),
        };
        let types = instance.as_ref().map_or(&types, |made| &made.types);
        let (became, program) = lowered::read(about, &bytes, believed, &manifest, types)?;
        lowered.push(became);
        program.into_iter().for_each(|program| stored.add(about, program));
    }
    let (forward, vjp) = match &templates {
        Some(templates) => {
            let least = templates.at(&manifest.smallest()).map_err(graph_error)?;
            (Forward::Read(least.forward.clone()), least.vjp.clone())
        }
        None => {
            let read = |text: &str, program: &Program| checked(text, &manifest, program, &types).map_err(graph_error);
            let forward = match stored.find(false, &[]) {
                Some(_) => Forward::Text(forward, OnceLock::new()),
                None => Forward::Read(Arc::new(read(&forward, &manifest.forward)?)),
            };
            let texts = manifest.vjp.as_ref().zip(vjp.as_ref());
            (forward, texts.map(|(program, text)| read(text, program)).transpose()?)
        }
    };
    let templates = templates.map(Arc::new);
    let len = usize::try_from(item.data.end - item.data.start).map_err(|_| bad(WEIGHTS, "too large to address"))?;
    // Bools must be 0 or 1 whatever happens to the file after they were checked.
    let has_bools = types.state.iter().any(|ty| ty.dtype == torsh_ir::DType::Bool);
    // A signature vouches for the manifest's hash of them, not for the file's.
    let known = hashed.is_some() && !has_bools && signer.is_none();
    let weights = if is_ours(meta) && len > 0 && !has_bools {
        hashed.map_or_else(|| map(file, item).map(Arc::new), Ok)?
    } else {
        let pool = options.memory.as_ref().map_or_else(|| Pool::new(u64::MAX), |m| m.0.clone());
        let mut memory = pool.take(len, &|| format!("{WEIGHTS}, which is read into memory,"))?;
        read_at(file, item.data.start, memory.bytes_mut(len))
            .map_err(|e| bad(WEIGHTS, format!("cannot be read: {e}")))?;
        Arc::new(Mapping::owned(memory, len))
    };
    if !known {
        check_hash(WEIGHTS, weights.bytes(), &manifest)?;
        check_crc(WEIGHTS, weights.bytes(), item.crc)?;
    }
    let wanted: Vec<_> = manifest.state.iter().map(|s| s.name.as_str()).zip(&types.state).collect();
    let state = weights::read(weights.bytes(), &wanted)?;
    drop(wanted);
    Ok(Package {
        manifest,
        types,
        forward,
        vjp,
        templates,
        weights,
        state,
        signer: *signer,
        code: uses,
        lowered,
        stored,
        codes,
        images,
        bytes: meta.len(),
    })
}

/// Tells the log what is not used, and why.
fn say(path: &Path, code: &[CodeUse], lowered: &[LoweredUse]) {
    if !env::log().notes {
        return;
    }
    let code = code.iter().map(|u| (&u.entry, &u.unused));
    let unused = lowered.iter().map(|u| (&u.entry, &u.unused)).chain(code);
    for (entry, why) in unused.filter_map(|(entry, why)| Some((entry, why.as_ref()?))) {
        env::say(&format!("{}: {entry} is not used: {why}", path.display()));
    }
}

/// The bytes of an entry, mapped.
fn map(file: &File, item: &Item) -> Result<Mapping> {
    let len = usize::try_from(item.data.end - item.data.start).map_err(|_| bad(&item.name, "too large to address"))?;
    Mapping::map(file, item.data.start, len).map_err(|e| bad(&item.name, format!("cannot be mapped: {e}")))
}

/// Checks the hash of the whole file, and that what was read of the manifest is what was hashed: every other entry is
/// checked by the hash that stands there, when it is read. Weights that are mapped are hashed where they are, which takes
/// most of the time; nobody need hash them again, or compute their checksum.
fn check_whole(
    file: &File,
    size: u64,
    wanted: &[u8; 32],
    (item, text): (&Item, &[u8]),
    weights: Option<(&Item, &Mapping)>,
) -> Result<()> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut seen = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < size {
        let stop = match weights {
            Some((item, mapping)) if at == item.data.start => {
                hash.update(mapping.bytes());
                at = item.data.end;
                continue;
            }
            Some((item, _)) if at < item.data.start => item.data.start,
            _ => size,
        };
        let len = (stop - at).min(buffer.len() as u64);
        let part = &mut buffer[..len as usize];
        read_at(file, at, part).map_err(|e| Error::package(format!("cannot read the file: {e}")))?;
        hash.update(&*part);
        let (from, to) = (item.data.start.clamp(at, at + len), item.data.end.clamp(at, at + len));
        seen.extend_from_slice(&part[(from - at) as usize..(to - at) as usize]);
        at += len;
    }
    let found: [u8; 32] = hash.finalize().into();
    if found != *wanted || seen != text {
        return Err(Error::package(format!("its SHA-256 is {}, which is not the one that is demanded", hex(&found))));
    }
    Ok(())
}

fn trusted(signer: Option<&PublicKey>, options: &LoadOptions) -> Result<()> {
    let Some(keys) = &options.trusted_keys else { return Ok(()) };
    match signer {
        None => Err(bad(SIGNATURE, "the file is not signed, and a signature is demanded")),
        Some(key) if keys.contains(key) => Ok(()),
        Some(key) => Err(bad(SIGNATURE, format!("signed by {}, which is none of the trusted keys", hex(key)))),
    }
}

/// The data of an entry that is read into memory.
fn small(file: &File, item: &Item, most: u64) -> Result<Vec<u8>> {
    let len = item.data.end - item.data.start;
    if len > most {
        return Err(bad(&item.name, format!("{len} bytes; the most is {most}")));
    }
    let mut bytes = vec![0; len as usize];
    read_at(file, item.data.start, &mut bytes).map_err(|e| bad(&item.name, format!("cannot be read: {e}")))?;
    check_crc(&item.name, &bytes, item.crc)?;
    Ok(bytes)
}

fn check_crc(name: &str, bytes: &[u8], wanted: u32) -> Result<()> {
    if crc32fast::hash(bytes) != wanted {
        return Err(bad(name, "its checksum is another: the file is damaged"));
    }
    Ok(())
}

/// Checks that entries stand in the order of the format.
fn in_order(items: &[Item], manifest: &Manifest) -> Result<()> {
    let code = CODE_LEVELS.iter().map(|level| code_entry("x86_64", level));
    let cuda = manifest.cuda.iter().map(|cuda| cuda.entry.clone());
    let first = [MANIFEST, SIGNATURE, GRAPH, VJP, LOWERED, LOWERED_VJP].map(str::to_string).into_iter();
    let order: Vec<String> = first.chain(code).chain(cuda).chain([WEIGHTS.to_string()]).collect();
    let place = |item: &Item| order.iter().position(|name| *name == item.name);
    match items.windows(2).find(|pair| place(&pair[0]) >= place(&pair[1])) {
        Some(pair) => Err(bad(&pair[1].name, format!("it stands behind {}, where it has no place", pair[0].name))),
        None => Ok(()),
    }
}

fn check_hash(name: &str, bytes: &[u8], manifest: &Manifest) -> Result<()> {
    let wanted = manifest.entry(name).map_or("", |e| e.sha256.as_str());
    if hex(&Sha256::digest(bytes)) != wanted {
        return Err(bad(name, "its hash is not the one in the manifest"));
    }
    Ok(())
}

/// The text of a graph.
fn source(file: &File, item: &Item, manifest: &Manifest) -> Result<String> {
    let bytes = small(file, item, MAX_GRAPH_BYTES)?;
    check_hash(&item.name, &bytes, manifest)?;
    String::from_utf8(bytes).map_err(|_| bad(&item.name, "not UTF-8"))
}
