//! Random graphs and packages as libraries in C for either architecture, with programs in C that call them and compare
//! what they give with what the engine of this machine gives.

use crate::fuzz::Case;
use crate::fuzz::make::make;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Executor};
use torsh_ir::interp::HostTensor;
use torsh_ir::{DType, ErrorKind, Graph, Result, Scalar, Type};
use torsh_passes::pipeline::{Options, compile};
use torsh_runtime::CpuExecutor;
use torsh_runtime::aot::{Architecture, Library, Request, build};
use torsh_runtime::package::manifest::{Literal, Port, PortKind, Program, Slot, Tree};
use torsh_runtime::package::{Manifest, Package, Value};

/// Both of them.
pub const ARCHITECTURES: [Architecture; 2] = [Architecture::X86, Architecture::Arm];
/// Calls of a program in C: state may change at each.
const CALLS: usize = 3;
/// Bytes of inputs and outputs that stand in the text of a program.
const MAX_BYTES: usize = 1 << 16;

/// A program with all that a library is made of.
pub struct Item {
    /// Name of the library.
    pub name: String,
    manifest: Manifest,
    graph: Graph,
    state: Vec<BufferRef>,
    inputs: Vec<HostTensor>,
    // None where the engine gives an error.
    outputs: Option<Vec<HostTensor>>,
}

impl Item {
    /// The random graph of a seed, without state.
    pub fn random(seed: u64, executor: &CpuExecutor) -> Result<Item> {
        let case = make(seed);
        let outputs = match run(&case, executor) {
            Err(e) if e.kind() == ErrorKind::Internal => return Err(e),
            given => given.ok(),
        };
        let Case { graph, inputs, .. } = case;
        Ok(Item { name: format!("graph{seed}"), manifest: manifest(&graph), graph, state: Vec::new(), inputs, outputs })
    }

    /// A package without sizes that vary, with inputs of small numbers.
    pub fn package(path: &Path, executor: &CpuExecutor) -> Result<Item> {
        let package = Package::load(path)?;
        let types = package.types();
        let inputs: Vec<HostTensor> =
            types.inputs.iter().map(|ty| HostTensor::from_fn(ty.clone(), small(ty))).collect();
        let mut model = package.instantiate(executor)?;
        let values: Vec<Value> =
            inputs.iter().map(|t| Value::from_bytes(executor, t.ty.clone(), &t.to_bytes())).collect::<Result<_>>()?;
        let mut given = Vec::new();
        for _ in 0..CALLS {
            given = model.run(&values)?;
        }
        let outputs = given.iter().map(|v| HostTensor::from_bytes(v.ty().clone(), v.bytes().unwrap_or_default()));
        Ok(Item {
            name: path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned()),
            manifest: package.manifest().clone(),
            graph: Graph::clone(package.forward()?),
            state: (0..types.state.len()).map(|i| package.state(i)).collect::<Result<_>>()?,
            outputs: Some(outputs.collect::<Result<_>>()?),
            inputs,
        })
    }

    /// Its library; `None` for what cannot be one.
    ///
    /// Errors: those of [`build`], but for `Export`.
    pub fn library(&self, target: Architecture) -> Result<Option<Library>> {
        let Item { name, manifest, graph, state, .. } = self;
        let request =
            Request { manifest, graph, gradients: None, state, seeds: &[], name, target, weights_in_file: false };
        match build(&request) {
            Err(e) if e.kind() == ErrorKind::Export => Ok(None),
            made => made.map(Some),
        }
    }

    /// A program in C that ends with status 0 if the library gives the bits that the engine gave, NaNs aside. `None` without such,
    /// or where the C library decides about bits: its functions of float64.
    pub fn caller(&self) -> Option<String> {
        let outputs = self.outputs.as_ref()?;
        let wide = self.graph.ids().any(|id| self.graph.ty(id).dtype == DType::F64);
        let bytes: usize = self.inputs.iter().chain(outputs).map(|t| t.ty.nbytes()).sum();
        let plain = self.state.is_empty();
        (bytes <= MAX_BYTES && !(wide && plain)).then(|| caller(&self.name, &self.inputs, outputs))
    }
}

/// 0, 1, 2 over and over for integers, which may be indices or classes; quarters from -1 to 1 for floats.
fn small(ty: &Type) -> impl FnMut(usize) -> Scalar {
    let float = ty.dtype.is_float();
    move |i| match float {
        true => Scalar::Float((i * 5 % 9) as f64 / 4.0 - 1.0),
        false => Scalar::Int((i % 3) as i64),
    }
}

/// A manifest for a graph without state.
fn manifest(graph: &Graph) -> Manifest {
    let port = |prefix: char, (i, ty): (usize, &Type)| Port {
        name: format!("{prefix}{i}"),
        dtype: ty.dtype.to_string(),
        shape: ty.shape.iter().map(|&d| (d as u64).into()).collect(),
        kind: PortKind::Tensor,
    };
    let given = graph.input_types();
    let inputs: Vec<Port> = given.iter().enumerate().map(|at| port('x', at)).collect();
    let outputs: Vec<Port> = graph.outputs().iter().map(|&o| graph.ty(o)).enumerate().map(|at| port('y', at)).collect();
    let leaves = |n: usize| (0..n as u32).map(Tree::Leaf);
    let named = inputs.iter().zip(leaves(inputs.len())).map(|(port, leaf)| (Literal::Str(port.name.clone()), leaf));
    Manifest {
        format: "torsh-package".into(),
        version: 1,
        producer: "a test".into(),
        name: "graph".into(),
        license: None,
        dims: Vec::new(),
        metadata: Default::default(),
        parameters: Vec::new(),
        arguments: Tree::Tuple(vec![Tree::Tuple(Vec::new()), Tree::Dict(named.collect())]),
        result: Tree::List(leaves(outputs.len()).collect()),
        state: Vec::new(),
        forward: Program {
            graph: "graph.txt".into(),
            inputs: (0..inputs.len() as u32).map(Slot::Input).collect(),
            outputs: (0..outputs.len() as u32).map(Slot::Output).collect(),
        },
        vjp: None,
        code: Vec::new(),
        cuda: Vec::new(),
        lowered: Vec::new(),
        entries: Vec::new(),
        inputs,
        outputs,
    }
}

/// What the engine gives.
fn run(case: &Case, executor: &CpuExecutor) -> Result<Vec<HostTensor>> {
    let options = Options { target: executor.target(), ..Options::default() };
    let executable = executor.load(Arc::new(compile(&case.graph, &options)?))?;
    let mut inputs =
        case.inputs.iter().map(|t| executor.upload(&t.ty, &t.to_bytes())).collect::<Result<Vec<BufferRef>>>()?;
    let given = executable.run(&mut inputs)?;
    let outputs = case.graph.outputs().iter().zip(&given);
    let host =
        |ty: &Type, buffer: &BufferRef| HostTensor::from_bytes(ty.clone(), buffer.host_bytes().unwrap_or_default());
    outputs.map(|(&o, buffer)| host(case.graph.ty(o), buffer)).collect()
}

/// Bits of infinity; above it lie NaNs. 0 where there are none.
fn infinity(dtype: DType) -> u64 {
    match dtype {
        DType::F16 => 0x7c00,
        DType::BF16 => 0x7f80,
        DType::F32 => 0x7f80_0000,
        DType::F64 => 0x7ff0_0000_0000_0000,
        _ => 0,
    }
}

/// With one NaN in place of all, whose bits are each machine's own.
fn plain(t: &HostTensor) -> HostTensor {
    HostTensor::from_fn(t.ty.clone(), |i| match t.get(i) {
        Scalar::Float(x) if x.is_nan() => Scalar::Float(f64::NAN),
        x => x,
    })
}

const COMPARE: &str = "
static unsigned long long bits(const unsigned char *p, size_t width) {
    unsigned long long x = 0;
    for (size_t i = width; i-- > 0;) x = x << 8 | p[i];
    return x;
}

static int same(const unsigned char *a, const unsigned char *b, size_t n, size_t width, unsigned long long infinity) {
    unsigned long long magnitude = (1ull << (8 * width - 1)) - 1;
    for (size_t i = 0; i < n; i += width) {
        unsigned long long x = bits(a + i, width), y = bits(b + i, width);
        int nan = infinity && (x & magnitude) > infinity && (y & magnitude) > infinity;
        if (x != y && !nan) {
            fprintf(stderr, \"element %zu: %llx instead of %llx\\n\", i / width, x, y);
            return 0;
        }
    }
    return 1;
}
";

fn caller(name: &str, inputs: &[HostTensor], outputs: &[HostTensor]) -> String {
    let mut text = format!("#include \"{name}.h\"\n#include <stdio.h>\n{COMPARE}\n");
    // Writing to a text cannot fail.
    let mut block = |what: &str, constant: &str, bytes: usize, data: &[u8]| {
        let list: Vec<String> = data.iter().map(u8::to_string).collect();
        let start = if data.is_empty() { String::new() } else { format!(" = {{{{{}}}}}", list.join(",")) };
        let _ = writeln!(
            text,
            "static {constant}union {{ unsigned char bytes[{}]; double align; }} {what}{start};",
            bytes.max(1)
        );
    };
    for (i, t) in inputs.iter().enumerate() {
        block(&format!("x{i}"), "const ", t.ty.nbytes(), &t.to_bytes());
    }
    for (i, t) in outputs.iter().enumerate() {
        block(&format!("y{i}"), "", t.ty.nbytes(), &[]);
        block(&format!("wanted{i}"), "const ", t.ty.nbytes(), &plain(t).to_bytes());
    }
    let given = (0..inputs.len()).map(|i| format!("(const void *)x{i}.bytes"));
    let taken = (0..outputs.len()).map(|i| format!("(void *)y{i}.bytes"));
    let pointers: Vec<String> = ["&context".to_string()].into_iter().chain(given).chain(taken).collect();
    let (lines, pointers) = (outputs.iter().enumerate(), pointers.join(", "));
    let checks: String = lines
        .map(|(i, t)| {
            let (n, width, infinity) = (t.ty.nbytes(), t.dtype().size(), infinity(t.dtype()));
            format!("    if (!same(y{i}.bytes, wanted{i}.bytes, {n}, {width}, {infinity}ull)) return {};\n", 10 + i)
        })
        .collect();
    let _ = write!(
        text,
        "\nint main(void) {{\n    {name}_context context;\n    if ({name}_init(&context, NULL, 0)) return 2;\n    \
         for (int call = 0; call < {CALLS}; call++) if ({name}_run({pointers})) return 3;\n{checks}    \
         {name}_free(&context);\n    return 0;\n}}\n"
    );
    text
}
