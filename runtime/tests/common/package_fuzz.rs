//! Packages that lie: valid ones with random changes, in their bytes, in the fields of manifest, graph and weights under
//! hashes that fit, and in the order and number of their entries. Shared by the tests and `examples/fuzz_packages.rs`.

use serde_json::Value as Json;
use std::path::PathBuf;
use torsh_ir::{ErrorKind, Type, text};
use torsh_runtime::CpuExecutor;
use torsh_runtime::package::{LoadOptions, Model, Package, Value, hex, layout};

/// xorshift64*: the same cases on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Splits a package into its entries, with another reader than ours.
pub fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let names: Vec<String> = zip.file_names().map(|n| n.unwrap().into_owned()).collect();
    let mut read = |name: &String| {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut zip.by_name(name).unwrap(), &mut data).unwrap();
        (name.clone(), data)
    };
    names.iter().map(&mut read).collect()
}

/// Packs entries, with hashes in the manifest that fit.
pub fn pack(mut entries: Vec<(String, Vec<u8>)>, rehash: bool) -> Vec<u8> {
    use sha2::Digest;
    if rehash
        && let Some((_, manifest)) = entries.iter().find(|(n, _)| n == "manifest.json")
        && let Ok(mut json) = serde_json::from_slice::<Json>(manifest)
    {
        // What has been changed may be no list any more, and its items no entries.
        let list = json.get_mut("entries").and_then(Json::as_array_mut);
        for entry in list.into_iter().flatten().filter_map(Json::as_object_mut) {
            let name = entry.get("name").and_then(Json::as_str).unwrap_or_default().to_string();
            if let Some((_, data)) = entries.iter().find(|(n, _)| *n == name) {
                entry.insert("bytes".into(), data.len().into());
                entry.insert("sha256".into(), hex(&sha2::Sha256::digest(data)).into());
            }
        }
        entries.iter_mut().find(|(n, _)| n == "manifest.json").unwrap().1 = serde_json::to_vec(&json).unwrap();
    }
    layout::pack(&entries).expect("a small archive")
}

/// A package without its machine code, of which no reader need be afraid; its lowered programs stay.
#[allow(dead_code, reason = "not every user of this module needs it")]
pub fn without_code(bytes: &[u8]) -> Vec<u8> {
    let mut parts = entries(bytes);
    parts.retain(|(name, _)| !name.starts_with("code-") && name != "signature.json");
    let manifest = &mut parts.iter_mut().find(|(n, _)| n == "manifest.json").unwrap().1;
    let mut json: Json = serde_json::from_slice(manifest).unwrap();
    json.as_object_mut().unwrap().remove("code");
    let listed = json["entries"].as_array_mut().unwrap();
    listed.retain(|entry| !entry["name"].as_str().unwrap().starts_with("code-"));
    *manifest = serde_json::to_vec(&json).unwrap();
    pack(parts, true)
}

/// Bytes before a lowered program: what it is known by.
const LOWERED_HEAD: usize = 44;

/// Pieces that the parsers behind the reader care about.
const PIECES: &[&str] = &[
    "0",
    "-1",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "NaN",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[",
    "%",
    "%0",
    "f32",
    "i64[",
    "[0]",
    "[1, 1]",
    "add",
    "input(index=0)",
    "return",
    "{\"leaf\": 0}",
    "{\"state\": 7}",
    "\"float64\"",
    "\"constant\"",
    "hex\"00\"",
    "nan:0x7fc00001",
    ",",
    "\u{0}",
    "\u{e9}",
    "gather",
    "dims=[0]",
    "cast",
    "<n>",
    "<2*n-1>",
    "<n/0>",
    "\"n\"",
];

fn damage(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 if at < data.len() => data[at] = random.next() as u8,
            1 if at < data.len() => data[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + random.below(16)).min(data.len());
                data.drain(at..end);
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())].bytes();
                data.splice(at..at, piece);
            }
            4 => {
                let end = (at + random.below(40)).min(data.len());
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
            _ => {
                let digits: Vec<usize> = (0..data.len()).filter(|&i| data[i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    let at = digits[random.below(digits.len())];
                    let piece = PIECES[random.below(PIECES.len())].bytes();
                    data.splice(at..at + 1, piece);
                }
            }
        }
    }
}

/// A value that the reader of JSON or a check behind it cares about.
fn odd(random: &mut Random) -> Json {
    let numbers = [0, 1, 2, 3, 7, 64, 65, 1 << 20, 1 << 31, 1 << 32, 1 << 40, i64::MAX as u64, u64::MAX];
    let texts =
        ["", "float32", "float64", "bool", "int8", "parameter", "constant", "float", "graph.txt", "x", "\u{1b}", "é"];
    match random.below(6) {
        0 | 1 => numbers[random.below(numbers.len())].into(),
        2 => texts[random.below(texts.len())].into(),
        3 => [Json::Null, true.into(), (-1).into(), 0.5.into()][random.below(4)].clone(),
        4 => [serde_json::json!([]), serde_json::json!({}), serde_json::json!([0]), serde_json::json!({"leaf": 0})]
            [random.below(4)]
        .clone(),
        _ => {
            serde_json::json!({["input", "state", "output", "list", "tuple", "value"][random.below(6)]: random.below(4)})
        }
    }
}

/// Changes one place of a JSON value: the walk goes down at random and changes what it ends at.
fn mutate(at: &mut Json, random: &mut Random, depth: usize) {
    let deeper = depth < 12 && random.below(8) > 0;
    match at {
        Json::Array(items) if deeper && !items.is_empty() => {
            let i = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(i)),
                1 => items.push(items[i].clone()),
                2 => items.swap(i, 0),
                3 => items.insert(i, odd(random)),
                _ => mutate(&mut items[i], random, depth + 1),
            }
        }
        Json::Object(fields) if deeper && !fields.is_empty() => {
            let names: Vec<String> = fields.keys().cloned().collect();
            let name = &names[random.below(names.len())];
            match random.below(12) {
                0 => drop(fields.remove(name)),
                1 => drop(fields.insert(format!("{name}x"), odd(random))),
                _ => mutate(&mut fields[name], random, depth + 1),
            }
        }
        Json::Number(n) => {
            let old = n.as_u64().unwrap_or(0);
            let near = [old.wrapping_add(1), old.saturating_sub(1), old.wrapping_mul(2), old ^ 1];
            *at = if random.below(2) == 0 { near[random.below(4)].into() } else { odd(random) };
        }
        Json::String(text) if random.below(2) == 0 && !text.is_empty() => {
            let mut bytes = std::mem::take(text).into_bytes();
            damage(&mut bytes, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        other => *other = odd(random),
    }
}

fn mutate_json(data: &mut Vec<u8>, random: &mut Random) {
    let Ok(mut json) = serde_json::from_slice::<Json>(data) else { return };
    for _ in 0..=random.below(8) / 6 {
        mutate(&mut json, random, 0);
    }
    *data = json.to_string().into_bytes();
}

/// Words and numbers of a graph exchanged for others of it: what comes out is often a graph.
fn mutate_graph(data: &mut Vec<u8>, random: &mut Random) {
    const OPS: &[&str] = &["add", "mul", "sub", "div", "max", "neg", "exp", "tanh", "sqrt", "sum", "reshape", "expand"];
    let text = String::from_utf8_lossy(data).into_owned();
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '%' | '.');
    let mut words: Vec<String> = Vec::new();
    let mut last = None;
    for c in text.chars() {
        match words.last_mut().filter(|_| last == Some(true) && is_word(c)) {
            Some(word) => word.push(c),
            None => words.push(c.to_string()),
        }
        last = Some(is_word(c));
    }
    let real: Vec<usize> = (0..words.len()).filter(|&i| words[i].starts_with(is_word)).collect();
    if real.is_empty() {
        return;
    }
    for _ in 0..=random.below(8) / 6 {
        let at = real[random.below(real.len())];
        // Mostly one of its kind: a value, a number, an op.
        let kind = |word: &str| match word.chars().next() {
            Some('%') => 0,
            Some('0'..='9') => 1,
            _ => 2,
        };
        let wanted = kind(&words[at]);
        let alike: Vec<usize> = real.iter().copied().filter(|&i| kind(&words[i]) == wanted).collect();
        words[at] = match random.below(8) {
            0 => PIECES[random.below(PIECES.len())].to_string(),
            1 => words[real[random.below(real.len())]].clone(),
            _ if wanted == 2 && random.below(2) == 0 => OPS[random.below(OPS.len())].to_string(),
            _ => words[alike[random.below(alike.len())]].clone(),
        };
    }
    *data = words.concat().into_bytes();
}

/// The header of the weights with changed fields, its length fitting or not, before the data as it was or longer.
fn mutate_weights(data: &mut Vec<u8>, random: &mut Random) {
    let Some(len) = data.first_chunk::<8>().map(|n| u64::from_le_bytes(*n) as usize) else { return };
    let Some(header) = data.get(8..8 + len) else { return };
    let (mut header, mut rest) = (header.to_vec(), data[8 + len..].to_vec());
    if random.below(3) == 0 && !rest.is_empty() {
        // Other numbers: NaN, infinities, indices.
        let at = random.below(rest.len());
        rest[at..].iter_mut().take(8).for_each(|b| *b = [0, 0xff, 0x7f, 0x80][random.below(4)]);
        data.truncate(8 + len);
        data.extend(rest);
        return;
    }
    mutate_json(&mut header, random);
    header.resize((header.len() + 8).next_multiple_of(64) - 8, b' ');
    let claimed = match random.below(10) {
        0 => random.next() >> random.below(64),
        _ => header.len() as u64,
    };
    if random.below(4) == 0 {
        rest.resize(random.below(2 * rest.len() + 64), 1);
    }
    *data = [claimed.to_le_bytes().as_slice(), &header, &rest].concat();
}

/// What became of the cases.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    /// Not read.
    pub refused: u64,
    /// Read.
    pub loaded: u64,
    /// Of those, compiled and run.
    pub ran: u64,
    /// Bytes of the largest file.
    pub largest: u64,
}

/// Makes cases and tries them, one at a time, in a file.
pub struct Fuzzer {
    parts: Vec<Vec<(String, Vec<u8>)>>,
    seeds: Vec<Vec<u8>>,
    random: Random,
    executor: &'static CpuExecutor,
    path: PathBuf,
    bytes: Vec<u8>,
    /// What became of the cases so far.
    pub figures: Figures,
}

impl Fuzzer {
    /// A fuzzer of these packages. The same seed makes the same cases.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64, executor: &'static CpuExecutor, path: PathBuf) -> Fuzzer {
        let parts: Vec<_> = seeds.iter().map(|s| entries(s)).collect();
        for (whole, parts) in seeds.iter().zip(&parts) {
            assert_eq!(pack(parts.clone(), false), *whole, "a package has one form");
        }
        let random = Random(seed.wrapping_mul(2) | 1);
        Fuzzer { parts, seeds, random, executor, path, bytes: Vec::new(), figures: Figures::default() }
    }

    /// Writes the next case and returns its size.
    pub fn make(&mut self) -> u64 {
        let random = &mut self.random;
        let pick = random.below(self.seeds.len());
        self.bytes = if random.below(5) == 0 {
            let mut bytes = self.seeds[pick].clone();
            damage(&mut bytes, random);
            bytes
        } else {
            let mut parts = self.parts[pick].clone();
            // A signature would stop every other change.
            parts.retain(|(n, _)| n != "signature.json");
            for _ in 0..=random.below(4) / 3 {
                let which = random.below(parts.len());
                let (name, data) = &mut parts[which];
                match (name.as_str(), random.below(6)) {
                    (_, 0) => damage(data, random),
                    ("manifest.json", _) => mutate_json(data, random),
                    ("weights.safetensors", _) => mutate_weights(data, random),
                    (code, _) if code.starts_with("code-") => damage(data, random),
                    (program, _) if program.starts_with("program") && data.len() > LOWERED_HEAD => {
                        let mut body = data.split_off(LOWERED_HEAD);
                        damage(&mut body, random);
                        data.extend(body);
                    }
                    _ => mutate_graph(data, random),
                }
            }
            let at = random.below(parts.len());
            match random.below(30) {
                0 => drop(parts.remove(at)),
                1 => parts.swap(0, at),
                2 => parts.push(parts[at].clone()),
                _ => {}
            }
            pack(parts, random.below(12) > 0)
        };
        std::fs::write(&self.path, &self.bytes).expect("the case is written");
        self.figures.largest = self.figures.largest.max(self.bytes.len() as u64);
        self.bytes.len() as u64
    }

    /// Loads the case.
    pub fn load(&mut self) -> Option<Package> {
        // Code is run by whoever believes it; what is lowered must be harmless even so.
        let code = self.bytes.windows(5).any(|w| w == b"code-");
        let sha256 = (!code).then(|| <sha2::Sha256 as sha2::Digest>::digest(&self.bytes).into());
        let options = LoadOptions { memory: Some(self.executor.memory()), sha256, ..LoadOptions::default() };
        match Package::load_with(&self.path, &options) {
            Ok(package) => {
                self.figures.loaded += 1;
                Some(package)
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Package, "{e}");
                assert!(e.message().len() < 4000, "{e}");
                self.figures.refused += 1;
                None
            }
        }
    }

    /// Runs what was loaded.
    pub fn run(&mut self, package: Option<Package>) {
        if let Some(package) = package {
            self.figures.ran += u64::from(runs(&package, self.executor));
        }
    }
}

/// Runs a package on zeros, if that takes little.
fn runs(package: &Package, executor: &CpuExecutor) -> bool {
    let types = &package.types().inputs;
    // It may not have been read, where a lowered program stands for it.
    let graph = match package.forward() {
        Ok(graph) => graph,
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::Package | ErrorKind::Limit), "{e}");
            assert!(package.program(false, &[]).is_some(), "a graph was taken that is none: {e}");
            return false;
        }
    };
    if types.iter().chain(&package.types().outputs).any(|t| t.nbytes() > 1 << 20) || graph.len() > 2000 {
        return false;
    }
    if graph.ids().any(|id| graph.ty(id).nbytes() > 1 << 20) {
        return false;
    }
    let mut model = match package.instantiate(executor) {
        Ok(model) => model,
        Err(e) => {
            assert_ne!(e.kind(), ErrorKind::Internal, "{e}\n{}", text::print(graph));
            return false;
        }
    };
    let inputs: Vec<Value> = types
        .iter()
        .map(|t| Value::from_bytes(executor, t.clone(), &vec![0; t.nbytes()]).expect("a tensor of zeros"))
        .collect();
    match model.run(&inputs) {
        Ok(_) => {
            at_other_sizes(package, &mut model, executor);
            true
        }
        Err(e) => {
            assert_ne!(e.kind(), ErrorKind::Internal, "{e}\n{}", text::print(graph));
            false
        }
    }
}

/// Runs a package with dims at sizes a little larger than the smallest, if they give a program that takes little.
fn at_other_sizes(package: &Package, model: &mut Model<'_>, executor: &CpuExecutor) {
    let Some(templates) = package.templates() else { return };
    let sizes: Vec<u64> = package.manifest().dims.iter().map(|d| d.max.min(d.min.saturating_add(3))).collect();
    let made = match templates.at(&sizes) {
        Ok(made) => made,
        Err(e) => return assert_ne!(e.kind(), ErrorKind::Internal, "{e}\n{}", templates.forward()),
    };
    if made.forward.ids().any(|id| made.forward.ty(id).nbytes() > 1 << 20) {
        return;
    }
    let zeros = |t: &Type| Value::from_bytes(executor, t.clone(), &vec![0; t.nbytes()]).expect("a tensor of zeros");
    let inputs: Vec<Value> = made.types.inputs.iter().map(zeros).collect();
    if let Err(e) = model.run(&inputs) {
        assert_ne!(e.kind(), ErrorKind::Internal, "{e}\n{}", templates.forward());
    }
}
