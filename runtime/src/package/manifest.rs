//! The manifest: what a package takes and gives, which state it has, and the hash of every other entry.
//!
//! `docs/package.schema.json` is its JSON schema. Unknown fields, repeated keys and numbers out of range are refused;
//! what is checked beyond the schema stands at [`Manifest::check`].

use super::cubin::{self, Cuda};
use super::dims::{Dim, Size};
use super::format::{
    CODE_LEVELS, FORMAT, GRAPH, MANIFEST, MAX_FEATURES, MAX_NAME, MAX_TREE_DEPTH, OLDEST_VERSION, SIGNATURE, VERSION,
    VERSION_WITH_CODE, VERSION_WITH_DIMS, VJP, WEIGHTS, bad, code_entry, lowered_entry,
};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashSet};
use torsh_ir::limits::{self, Limits};
use torsh_ir::{DType, Graph, Result, Shape, Type};
use torsh_passes::limits::check_type;

/// The manifest, field for field as in the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `torsh-package`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// The torsh that wrote the file.
    pub producer: String,
    /// Name of the program.
    pub name: String,
    /// SPDX expression, as the exporter was told.
    pub license: Option<String>,
    /// Words of the exporter's.
    #[serde(deserialize_with = "distinct_keys")]
    pub metadata: BTreeMap<String, String>,
    /// Sizes that vary; absent where none does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dims: Vec<Dim>,
    /// What the program takes, in order.
    pub inputs: Vec<Port>,
    /// What it gives, in order.
    pub outputs: Vec<Port>,
    /// The tensors that it keeps.
    pub state: Vec<State>,
    /// Names of the positional arguments.
    pub parameters: Vec<String>,
    /// How inputs stand in the arguments: a tuple of positional ones and a dict of the others.
    pub arguments: Tree,
    /// How outputs stand in the result.
    pub result: Tree,
    /// The program, and what state it changes.
    pub forward: Program,
    /// Its gradients.
    pub vjp: Option<Program>,
    /// Machine code; absent where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code: Vec<Code>,
    /// Kernels for CUDA devices; absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuda: Vec<Cuda>,
    /// Lowered programs; absent where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lowered: Vec<Lowered>,
    /// Every other entry but the signature.
    pub entries: Vec<Entry>,
}

/// An input or output.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its dtype, such as `float32`.
    pub dtype: String,
    /// Its sizes.
    pub shape: Vec<Size>,
    /// What it is to Python.
    pub kind: PortKind,
}

/// What an input or output is to Python.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A tensor.
    Tensor,
    /// A Python float, which is a float64 scalar here.
    Float,
}

/// A tensor that the program keeps between calls.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Its name, also in the weights.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its sizes.
    pub shape: Vec<u64>,
    /// What it is.
    pub role: Role,
}

/// What a tensor of the state is.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trained: gradients flow into it.
    Parameter,
    /// Kept, and perhaps updated.
    Buffer,
    /// A number that the exporter's Python read at each call, such as a learning rate.
    Float,
    /// Data of the program itself: not in the state dict.
    Constant,
}

/// A structure of leaves.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tree {
    /// The input or output of this number.
    Leaf(u32),
    /// A value that is the same at every call: null, a bool, an integer or a text.
    Value(Literal),
    /// A float that is the same at every call: its bits in 16 hexadecimal digits.
    Float(String),
    /// A list.
    List(Vec<Tree>),
    /// A tuple.
    Tuple(Vec<Tree>),
    /// A named tuple.
    Named(Named),
    /// A dict, in order.
    Dict(Vec<(Literal, Tree)>),
}

/// A named tuple.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Name of the class.
    pub name: String,
    /// Its fields.
    pub fields: Vec<String>,
    /// Their values.
    pub items: Vec<Tree>,
}

/// A constant of Python's.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Literal {
    /// None.
    Null(()),
    /// A bool.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A text.
    Str(String),
}

/// A graph with what its inputs and outputs stand for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Entry of its text.
    pub graph: String,
    /// What each input of the graph is.
    pub inputs: Vec<Slot>,
    /// What each output of the graph is.
    pub outputs: Vec<Slot>,
}

/// What an input or output of a graph stands for. In the gradient program, `output` among the inputs is the cotangent
/// of that output, and `input` or `state` among the outputs is the gradient of that input or parameter.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Input of the program.
    Input(u32),
    /// Tensor of the state.
    State(u32),
    /// Output of the program.
    Output(u32),
}

/// An entry of machine code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Its name: `code-x86_64-avx2.bin`.
    pub entry: String,
    /// Architecture.
    pub arch: String,
    /// Instruction set level: which primitives it calls.
    pub level: String,
    /// What of the processor it uses, in order.
    pub features: Vec<String>,
}

/// An entry with a lowered program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lowered {
    /// Its name.
    pub entry: String,
    /// Entry of the graph that it was made of.
    pub graph: String,
    /// The size of each dim for which it was made; absent without dims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<u64>,
}

impl Lowered {
    /// Whether it is the program of the gradients.
    pub fn is_vjp(&self) -> bool {
        self.graph == VJP
    }
}

/// An entry of the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its data, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

/// A map in which no key stands twice.
fn distinct_keys<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Distinct;
    impl<'de> Visitor<'de> for Distinct {
        type Value = BTreeMap<String, String>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of texts")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if out.insert(key, value).is_some() {
                    return Err(serde::de::Error::custom("a key stands twice"));
                }
            }
            Ok(out)
        }
    }
    from.deserialize_map(Distinct)
}

fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|d| d.to_string() == name)
}

/// The type that dtype and sizes name, within the limits.
pub(super) fn ty(what: &str, name: &str, dims: &[u64], within: &Limits) -> Result<Type> {
    let dtype = dtype(name).ok_or_else(|| bad(MANIFEST, format!("{what} has the unknown dtype {name:.40?}")))?;
    if dims.len() as u64 > within.max_rank {
        return Err(bad(MANIFEST, format!("{what} has rank {}; the limit is {}", dims.len(), within.max_rank)));
    }
    let sizes: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let sizes = sizes.ok_or_else(|| bad(MANIFEST, format!("{what} has a size that cannot be addressed")))?;
    let shape = Shape::new(&sizes).map_err(|e| bad(MANIFEST, format!("{what}: {}", e.message())))?;
    let ty = Type::new(dtype, shape);
    check_type(&ty, within).map_err(|e| bad(MANIFEST, format!("{what}: {}", e.message())))?;
    Ok(ty)
}

fn named<'a>(what: &str, name: &'a str, seen: &mut HashSet<&'a str>) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(bad(MANIFEST, format!("{what} has a name that is empty, too long or not printable")));
    }
    if !seen.insert(name) {
        return Err(bad(MANIFEST, format!("{what} has the name {name:?}, which stands twice")));
    }
    Ok(())
}

/// Types of the ports and of the state.
#[derive(Clone, Debug, Default)]
pub struct Types {
    /// Of the inputs.
    pub inputs: Vec<Type>,
    /// Of the outputs.
    pub outputs: Vec<Type>,
    /// Of the state.
    pub state: Vec<Type>,
}

impl Types {
    /// Of an input or output of a graph.
    pub fn of(&self, slot: &Slot) -> Option<&Type> {
        match *slot {
            Slot::Input(i) => self.inputs.get(i as usize),
            Slot::State(i) => self.state.get(i as usize),
            Slot::Output(i) => self.outputs.get(i as usize),
        }
    }

    /// Of the inputs or outputs of a graph that fits the manifest.
    pub fn of_all(&self, slots: &[Slot]) -> Vec<Type> {
        slots.iter().filter_map(|slot| self.of(slot).cloned()).collect()
    }
}

impl Manifest {
    /// Reads the text of a manifest; versions that are not supported are refused by name.
    pub fn parse(text: &[u8]) -> Result<Manifest> {
        let json = |e: serde_json::Error| bad(MANIFEST, format!("not a manifest: {e}"));
        let head: Head = serde_json::from_slice(text).map_err(json)?;
        if head.format != FORMAT {
            return Err(bad(MANIFEST, format!("the format is {:.40?}, not {FORMAT:?}", head.format)));
        }
        if head.version < u64::from(OLDEST_VERSION) || head.version > u64::from(VERSION_WITH_CODE) {
            return Err(bad(
                MANIFEST,
                format!(
                    "the file has format version {}; this torsh reads versions {OLDEST_VERSION} to {VERSION_WITH_CODE}",
                    head.version
                ),
            ));
        }
        serde_json::from_slice(text).map_err(json)
    }

    /// Checks everything that the manifest alone can show, and returns the types, at the smallest sizes of the dims:
    /// names are printable and distinct; dtypes are known and sizes within the limits; trees nest within bounds, have
    /// each leaf once and in order, and dicts have distinct keys; slots are in range.
    pub fn check(&self) -> Result<Types> {
        let within = limits::get();
        let mut types = Types::default();
        let (dims, made) = (self.dims.len(), self.code.len() + self.lowered.len() + self.cuda.len());
        let version = match (dims, made) {
            (0, 0) => VERSION,
            (_, 0) => VERSION_WITH_DIMS,
            (_, _) => VERSION_WITH_CODE,
        };
        if self.version != version {
            return Err(bad(
                MANIFEST,
                format!(
                    "format version {} with {dims} dims and {made} entries of machine code and programs; that is version \
                     {version}",
                    self.version
                ),
            ));
        }
        // They are shown on one line of a terminal, beside what the reader itself says.
        let shown = [
            ("producer", &self.producer),
            ("name", &self.name),
            ("license", self.license.as_ref().unwrap_or(&self.name)),
        ];
        for (what, text) in shown {
            if text.chars().any(char::is_control) {
                return Err(bad(MANIFEST, format!("the {what} has a character that cannot be printed")));
            }
        }
        self.check_dims()?;
        let smallest = self.smallest();
        for (what, ports, out) in
            [("input", &self.inputs, &mut types.inputs), ("output", &self.outputs, &mut types.outputs)]
        {
            let mut seen = HashSet::new();
            for (i, port) in ports.iter().enumerate() {
                let what = format!("{what} {i}");
                named(&what, &port.name, &mut seen)?;
                let found = ty(&what, &port.dtype, &self.shape_at(&what, port, &smallest)?, &within)?;
                if port.kind == PortKind::Float && found != Type::scalar(DType::F64) {
                    return Err(bad(MANIFEST, format!("{what} is a Python float and must be a float64 scalar")));
                }
                out.push(found);
            }
        }
        let mut seen = HashSet::new();
        for (i, state) in self.state.iter().enumerate() {
            let what = format!("state {i}");
            named(&what, &state.name, &mut seen)?;
            let found = ty(&what, &state.dtype, &state.shape, &within)?;
            let fits = match state.role {
                Role::Parameter => found.dtype.is_float(),
                Role::Float => found == Type::scalar(DType::F64),
                Role::Buffer | Role::Constant => true,
            };
            if !fits {
                return Err(bad(MANIFEST, format!("{what} cannot be a {:?} of type {found}", state.role)));
            }
            types.state.push(found);
        }
        self.check_trees()?;
        self.check_programs()?;
        self.check_code()?;
        cubin::check(&self.cuda)?;
        self.check_lowered()?;
        self.check_entries()?;
        Ok(types)
    }

    fn check_trees(&self) -> Result<()> {
        let Tree::Tuple(halves) = &self.arguments else {
            return Err(bad(MANIFEST, "arguments must be a tuple"));
        };
        let [Tree::Tuple(positional), Tree::Dict(keywords)] = halves.as_slice() else {
            return Err(bad(MANIFEST, "arguments must be a tuple of a tuple and a dict"));
        };
        let mut seen = HashSet::new();
        self.parameters.iter().try_for_each(|name| named("a positional argument", name, &mut seen))?;
        if positional.len() != self.parameters.len() {
            return Err(bad(MANIFEST, "parameters does not name every positional argument"));
        }
        if !keywords.iter().all(|(k, _)| matches!(k, Literal::Str(_))) {
            return Err(bad(MANIFEST, "keyword arguments must have text as keys"));
        }
        for (what, tree, count) in
            [("arguments", &self.arguments, self.inputs.len()), ("result", &self.result, self.outputs.len())]
        {
            let mut next = 0;
            tree.check(what, 0, &mut next)?;
            if next as usize != count {
                return Err(bad(MANIFEST, format!("{what} has {next} leaves for {count} tensors")));
            }
        }
        Ok(())
    }

    fn check_programs(&self) -> Result<()> {
        let range = |slot: &Slot| match *slot {
            Slot::Input(i) => (i as usize) < self.inputs.len(),
            Slot::State(i) => (i as usize) < self.state.len(),
            Slot::Output(i) => (i as usize) < self.outputs.len(),
        };
        let programs = [("forward", GRAPH, Some(&self.forward)), ("vjp", VJP, self.vjp.as_ref())];
        for (what, entry, program) in programs {
            let Some(program) = program else { continue };
            if program.graph != entry {
                return Err(bad(MANIFEST, format!("the graph of {what} must be the entry {entry}")));
            }
            for (side, slots) in [("inputs", &program.inputs), ("outputs", &program.outputs)] {
                let mut seen = HashSet::new();
                if let Some(slot) = slots.iter().find(|s| !range(s) || !seen.insert(**s)) {
                    return Err(bad(MANIFEST, format!("{side} of {what}: {slot:?} is out of range or stands twice")));
                }
            }
        }
        let constant = |i: u32| self.state[i as usize].role == Role::Constant;
        for slot in &self.forward.inputs {
            if let Slot::Output(_) = slot {
                return Err(bad(MANIFEST, "an input of forward cannot be an output"));
            }
        }
        let mut given = 0;
        for slot in &self.forward.outputs {
            match slot {
                Slot::Output(_) => given += 1,
                Slot::State(i) if !constant(*i) => {}
                _ => return Err(bad(MANIFEST, format!("forward cannot write {slot:?}"))),
            }
        }
        if given != self.outputs.len() {
            return Err(bad(MANIFEST, "forward does not give every output"));
        }
        for slot in self.vjp.iter().flat_map(|p| &p.outputs) {
            let trained = match slot {
                Slot::Input(i) => self.inputs[*i as usize].kind == PortKind::Tensor,
                Slot::State(i) => self.state[*i as usize].role == Role::Parameter,
                Slot::Output(_) => false,
            };
            if !trained {
                return Err(bad(MANIFEST, format!("vjp cannot give a gradient of {slot:?}")));
            }
        }
        Ok(())
    }

    fn check_code(&self) -> Result<()> {
        let mut next = 0;
        for code in &self.code {
            let place = CODE_LEVELS.iter().position(|level| *level == code.level).filter(|&place| place >= next);
            let Some(place) = place else {
                return Err(bad(
                    MANIFEST,
                    "the machine code has a level that is unknown, out of order or stands twice",
                ));
            };
            next = place + 1;
            if code.arch != "x86_64" || code.entry != code_entry(&code.arch, &code.level) {
                return Err(bad(MANIFEST, "the machine code has an unknown architecture or an entry of another name"));
            }
            let word = |f: &String| {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.';
                (1..=16).contains(&f.len()) && f.bytes().all(plain)
            };
            let in_order = code.features.windows(2).all(|pair| pair[0] < pair[1]);
            if code.features.len() > MAX_FEATURES || !in_order || !code.features.iter().all(word) {
                return Err(bad(MANIFEST, "the features that machine code uses are not words in order"));
            }
        }
        Ok(())
    }

    fn check_lowered(&self) -> Result<()> {
        let mut last = None;
        for lowered in &self.lowered {
            let known = lowered.graph == GRAPH || lowered.is_vjp() && self.vjp.is_some();
            if !known || last.replace(lowered.is_vjp()) >= Some(lowered.is_vjp()) {
                return Err(bad(MANIFEST, "a lowered program is of no graph, out of order or stands twice"));
            }
            if lowered.entry != lowered_entry(lowered.is_vjp()) {
                return Err(bad(MANIFEST, "a lowered program has an entry of another name"));
            }
            let within = |(dim, size): (&Dim, &u64)| (dim.min..=dim.max).contains(size);
            if lowered.sizes.len() != self.dims.len() || !self.dims.iter().zip(&lowered.sizes).all(within) {
                return Err(bad(MANIFEST, "a lowered program has sizes that are not those of the dims"));
            }
        }
        Ok(())
    }

    fn check_entries(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for entry in &self.entries {
            let known = match entry.name.as_str() {
                GRAPH | WEIGHTS => true,
                VJP => self.vjp.is_some(),
                name => {
                    let lowered = self.lowered.iter().map(|lowered| &lowered.entry);
                    let cuda = self.cuda.iter().map(|cuda| &cuda.entry);
                    self.code.iter().map(|code| &code.entry).chain(lowered).chain(cuda).any(|entry| entry == name)
                }
            };
            if !known || !seen.insert(entry.name.as_str()) {
                let shown: String = entry.name.chars().take(64).collect();
                return Err(bad(MANIFEST, format!("the entry {shown:?} has no place here or stands twice")));
            }
            let hex = entry.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if entry.sha256.len() != 64 || !hex {
                return Err(bad(MANIFEST, format!("the hash of {} is not 64 hexadecimal digits", entry.name)));
            }
        }
        let made = self.code.len() + self.lowered.len() + self.cuda.len();
        if seen.len() != 2 + usize::from(self.vjp.is_some()) + made {
            return Err(bad(MANIFEST, "an entry is missing from the list of entries"));
        }
        Ok(())
    }

    /// Checks that a graph has the inputs and outputs that a program of this manifest says.
    pub fn check_graph(&self, program: &Program, graph: &Graph, types: &Types) -> Result<()> {
        for (what, slots, ids) in
            [("input", &program.inputs, graph.inputs()), ("output", &program.outputs, graph.outputs())]
        {
            if slots.len() != ids.len() {
                return Err(bad(
                    &program.graph,
                    format!("the graph has {} {what}s, the manifest {}", ids.len(), slots.len()),
                ));
            }
            for (i, (slot, &id)) in slots.iter().zip(ids).enumerate() {
                if types.of(slot) != Some(graph.ty(id)) {
                    return Err(bad(
                        &program.graph,
                        format!("{what} {i} is {}, in the manifest {slot:?} has another type", graph.ty(id)),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Name and bytes of every entry that the archive must have besides manifest and signature.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// Whether an entry of this name may stand in the archive.
    pub fn expects(&self, name: &str) -> bool {
        name == MANIFEST || name == SIGNATURE || self.entry(name).is_some()
    }
}

impl Tree {
    fn check(&self, what: &str, depth: usize, next: &mut u32) -> Result<()> {
        if depth > MAX_TREE_DEPTH {
            return Err(bad(MANIFEST, format!("{what} nests deeper than {MAX_TREE_DEPTH} levels")));
        }
        match self {
            Tree::Leaf(i) => {
                if i != next {
                    return Err(bad(MANIFEST, format!("{what} has leaf {i} where {next} is expected")));
                }
                *next += 1;
                Ok(())
            }
            Tree::Value(_) => Ok(()),
            Tree::Float(bits) => match bits.len() == 16 && u64::from_str_radix(bits, 16).is_ok() {
                true => Ok(()),
                false => Err(bad(MANIFEST, format!("{what} has a float that is not 16 hexadecimal digits"))),
            },
            Tree::List(items) | Tree::Tuple(items) => items.iter().try_for_each(|t| t.check(what, depth + 1, next)),
            Tree::Named(named) => {
                let mut seen = HashSet::new();
                let word = |w: &String| {
                    let mut chars = w.chars();
                    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
                    first && w.len() <= MAX_NAME && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
                };
                let fields = named.fields.iter().all(|f| word(f) && seen.insert(f));
                if !fields || !word(&named.name) || named.fields.len() != named.items.len() {
                    return Err(bad(MANIFEST, format!("{what} has a named tuple with bad fields")));
                }
                named.items.iter().try_for_each(|t| t.check(what, depth + 1, next))
            }
            Tree::Dict(items) => {
                let mut seen = HashSet::new();
                if !items.iter().all(|(k, _)| seen.insert(k)) {
                    return Err(bad(MANIFEST, format!("{what} has a dict with a key twice")));
                }
                items.iter().try_for_each(|(_, t)| t.check(what, depth + 1, next))
            }
        }
    }
}
