//! A package that runs: compiled for one executor, with state of its own.

use super::dims::Templates;
use super::load::Package;
use super::lowered::Stored;
use super::manifest::{Manifest, Program, Slot, Types};
use super::value::Value;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use torsh_ir::exec::{BufferRef, Device, Executable, Executor};
use torsh_ir::program::{Place, Program as LoweredProgram};
use torsh_ir::{Error, Graph, Result, Type};
use torsh_passes::pipeline::{self, Options};

/// An instance of a package. What it does not change is shared with every other instance. Instances may run at the same
/// time on different threads; one instance runs one call at a time.
pub struct Model<'e> {
    manifest: Manifest,
    // `None` only while a run has the buffer.
    state: Vec<Option<BufferRef>>,
    executor: &'e dyn Executor,
    // Of a package with dims.
    templates: Option<Arc<Templates>>,
    stored: Stored,
    // Never empty; the one in use is the last. Without dims there is one.
    programs: Vec<Programs>,
}

/// Sizes whose programs an instance keeps.
const KEPT: usize = 16;

/// What was compiled for some sizes.
struct Programs {
    sizes: Vec<u64>,
    types: Types,
    forward: Loaded,
    vjp: Option<Loaded>,
}

struct Loaded {
    exe: Arc<dyn Executable>,
    program: Program,
    // Per input of the graph: whether a run may write its memory.
    donated: Vec<bool>,
}

impl Package {
    /// Compiles the package for an executor, of the CPU or of another device, to which the state is copied then; with
    /// dims, for the smallest sizes, and for others when they are met.
    /// Errors: `Limit` when a run would need more memory than the limits allow.
    pub fn instantiate<'e>(&self, executor: &'e dyn Executor) -> Result<Model<'e>> {
        let (manifest, types, stored) = (self.manifest(), self.types(), self.stored());
        let graph = || self.forward().map(|graph| &**graph);
        let programs = Programs::new(manifest, manifest.smallest(), types, (&graph, self.vjp()), stored, executor)?;
        let place = |i: usize| match self.state(i)? {
            buffer if executor.device() == Device::Cpu => Ok(Some(buffer)),
            buffer => executor.upload(&types.state[i], buffer.host_bytes().unwrap_or_default()).map(Some),
        };
        let state = (0..types.state.len()).map(place).collect::<Result<_>>()?;
        let templates = self.templates().cloned();
        let (manifest, stored) = (manifest.clone(), stored.clone());
        Ok(Model { manifest, state, executor, templates, stored, programs: vec![programs] })
    }
}

impl Programs {
    fn new<'g>(
        manifest: &Manifest,
        sizes: Vec<u64>,
        types: &Types,
        (forward, vjp): (&dyn Fn() -> Result<&'g Graph>, Option<&'g Graph>),
        stored: &Stored,
        executor: &dyn Executor,
    ) -> Result<Programs> {
        let forward = Loaded::new(forward, &manifest.forward, types, stored.find(false, &sizes), executor)?;
        let vjp = match (vjp, &manifest.vjp) {
            (Some(graph), Some(program)) => {
                Some(Loaded::new(&|| Ok(graph), program, types, stored.find(true, &sizes), executor)?)
            }
            _ => None,
        };
        Ok(Programs { sizes, types: types.clone(), forward, vjp })
    }
}

/// Inputs of the graph whose memory may receive an output, with that output: state that a run replaces.
pub fn donations(graph: &Graph, program: &Program) -> Vec<(usize, usize)> {
    let kept: HashSet<_> = graph.outputs().iter().filter(|o| graph.inputs().contains(o)).collect();
    let mut taken = HashSet::new();
    let mut pairs = Vec::new();
    for (o, slot) in program.outputs.iter().enumerate() {
        let Slot::State(_) = slot else { continue };
        let Some(i) = program.inputs.iter().position(|s| s == slot) else { continue };
        let (from, to) = (graph.inputs()[i], graph.outputs()[o]);
        // A value that is given under two names, or an input that is given as it is, keeps its memory.
        if graph.ty(from) == graph.ty(to) && !kept.contains(&from) && !kept.contains(&to) && taken.insert(to) {
            pairs.push((i, o));
        }
    }
    pairs
}

/// Those of [`donations`] that a lowered program makes use of.
pub fn donated(lowered: &LoweredProgram, program: &Program) -> Vec<(usize, usize)> {
    let used: HashSet<u32> = lowered
        .buffers
        .iter()
        .filter_map(|buffer| if let Place::Donated(input) = buffer.place { Some(input) } else { None })
        .collect();
    let pair = |(o, slot): (usize, &Slot)| {
        let state = matches!(slot, Slot::State(_));
        let i = program.inputs.iter().position(|s| s == slot).filter(|&i| state && used.contains(&(i as u32)))?;
        Some((i, o))
    };
    if used.is_empty() { Vec::new() } else { program.outputs.iter().enumerate().filter_map(pair).collect() }
}

/// Runs `f`; a panic becomes an internal error.
fn guarded<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(Error::internal(format!("panic while a package {what}"))))
}

impl Loaded {
    fn new<'g>(
        graph: &dyn Fn() -> Result<&'g Graph>,
        program: &Program,
        types: &Types,
        stored: Option<&Arc<LoweredProgram>>,
        executor: &dyn Executor,
    ) -> Result<Loaded> {
        let target = executor.target();
        let stored = match stored {
            Some(lowered) if pipeline::serves(graph, &target)? => Some(lowered),
            _ => None,
        };
        let donate = match stored {
            Some(lowered) => donated(lowered, program),
            None => donations(graph()?, program),
        };
        let mut donated = vec![false; program.inputs.len()];
        donate.iter().for_each(|&(i, _)| donated[i] = true);
        let options = Options { target, donate, ..Options::default() };
        let lowered = || match stored {
            // The limits may be others than when the file was read.
            Some(lowered) => {
                let (inputs, outputs) = (types.of_all(&program.inputs), types.of_all(&program.outputs));
                pipeline::fits(lowered, &inputs, &outputs, &options.donate).map(|()| lowered.clone())
            }
            None => pipeline::compile(graph()?, &options).map(Arc::new),
        };
        let exe = guarded("was compiled", || executor.load(lowered()?))?;
        Ok(Loaded { exe, program: program.clone(), donated })
    }
}

impl Model<'_> {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Types of inputs, outputs and state; with dims, at the sizes of the last call, and before it at the smallest.
    pub fn types(&self) -> &Types {
        &self.programs().types
    }

    /// The compiled program, for the sizes of [`Model::types`].
    pub fn executable(&self) -> &Arc<dyn Executable> {
        &self.programs().forward.exe
    }

    /// The compiled gradient program, for the sizes of [`Model::types`].
    pub fn vjp_executable(&self) -> Option<&Arc<dyn Executable>> {
        self.programs().vjp.as_ref().map(|v| &v.exe)
    }

    fn programs(&self) -> &Programs {
        // A model is made with one, and the last is never dropped.
        &self.programs[self.programs.len() - 1]
    }

    /// One call: inputs in the manifest's order, outputs likewise. The state that the program updates is updated; on an
    /// error nothing has changed.
    ///
    /// Errors: `Shape`, `DType` and `Device` that name the input, `Index` for indices out of range, `Limit` for want of memory.
    pub fn run(&mut self, inputs: &[Value]) -> Result<Vec<Value>> {
        self.check(inputs)?;
        let Model { state, programs, .. } = self;
        let Programs { forward, types, .. } = &programs[programs.len() - 1];
        let mut outputs: Vec<Option<Value>> = vec![None; types.outputs.len()];
        let made = call(forward, state, inputs, &[])?;
        for (slot, buffer) in forward.program.outputs.iter().zip(made) {
            match *slot {
                Slot::Output(o) => outputs[o as usize] = Some(Value::new(types.outputs[o as usize].clone(), buffer)),
                Slot::State(s) => state[s as usize] = Some(buffer),
                Slot::Input(_) => {}
            }
        }
        let missing = || Error::internal("an output is missing");
        outputs.into_iter().map(|o| o.ok_or_else(missing)).collect()
    }

    /// The outputs, by number, whose cotangents [`Model::vjp`] takes.
    pub fn cotangents(&self) -> Vec<usize> {
        let program = self.programs().vjp.as_ref().map(|v| &v.program);
        let slots = program.into_iter().flat_map(|p| &p.inputs);
        slots.filter_map(|s| if let Slot::Output(o) = s { Some(*o as usize) } else { None }).collect()
    }

    /// Vector-Jacobian products at `inputs` and the present state: for each float input and parameter that an output
    /// depends on, its name and `sum(cotangent * d output / d it)`. `cotangents` are those of [`Model::cotangents`].
    ///
    /// Errors: `Runtime` for a package without gradients; `Shape` and `DType`.
    pub fn vjp(&mut self, inputs: &[Value], cotangents: &[Value]) -> Result<Vec<(String, Value)>> {
        self.check(inputs)?;
        let (wanted, device) = (self.cotangents(), self.executor.device());
        let Model { manifest, state, programs, .. } = self;
        let Programs { vjp, types, .. } = &programs[programs.len() - 1];
        let Some(vjp) = vjp else {
            return Err(Error::runtime("the package has no gradients: it was exported without include_grad=True"));
        };
        if wanted.len() != cotangents.len() {
            return Err(Error::value(format!("{} cotangents expected, got {}", wanted.len(), cotangents.len())));
        }
        let mut by_output = vec![None; types.outputs.len()];
        for (&o, value) in wanted.iter().zip(cotangents) {
            let what = format!("the cotangent of {:?}", manifest.outputs[o].name);
            fits(&what, &types.outputs[o], value, device)?;
            by_output[o] = Some(value.clone());
        }
        let made = call(vjp, state, inputs, &by_output)?;
        let mut out = Vec::with_capacity(made.len());
        for (slot, buffer) in vjp.program.outputs.iter().zip(made) {
            let (name, ty) = match *slot {
                Slot::Input(i) => (&manifest.inputs[i as usize].name, &types.inputs[i as usize]),
                Slot::State(s) => (&manifest.state[s as usize].name, &types.state[s as usize]),
                Slot::Output(_) => continue,
            };
            out.push((name.clone(), Value::new(ty.clone(), buffer)));
        }
        Ok(out)
    }

    /// A tensor of the state.
    pub fn state(&self, name: &str) -> Result<Value> {
        let i = self.position(name)?;
        let buffer = self.state[i].clone().ok_or_else(|| Error::internal("a tensor of the state is in use"))?;
        Ok(Value::new(self.types().state[i].clone(), buffer))
    }

    /// Replaces a tensor of the state. Errors: `Value` for an unknown name, `Shape`, `DType` and `Device`.
    pub fn set_state(&mut self, name: &str, value: &Value) -> Result<()> {
        let i = self.position(name)?;
        fits(&format!("the state {name:?}"), &self.types().state[i], value, self.executor.device())?;
        self.state[i] = Some(value.buffer().clone());
        Ok(())
    }

    fn position(&self, name: &str) -> Result<usize> {
        let found = self.manifest.state.iter().position(|s| s.name == name);
        found.ok_or_else(|| Error::value(format!("the package has no state named {name:?}")))
    }

    /// Checks the inputs of a call; afterwards the programs for their sizes are the last.
    fn check(&mut self, inputs: &[Value]) -> Result<()> {
        let ports = &self.manifest.inputs;
        if ports.len() != inputs.len() {
            let names: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
            return Err(Error::value(format!(
                "{} inputs expected ({}), got {}",
                ports.len(),
                names.join(", "),
                inputs.len()
            )));
        }
        if let Some(templates) = &self.templates {
            let shapes: Vec<&[usize]> = inputs.iter().map(Value::shape).collect();
            let sizes = self.manifest.sizes_of(&shapes)?;
            match self.programs.iter().position(|p| p.sizes == sizes) {
                Some(i) => self.programs[i..].rotate_left(1),
                None => {
                    let made = templates.at(&sizes)?;
                    let graphs: (&dyn Fn() -> _, _) = (&|| Ok(&*made.forward), made.vjp.as_ref());
                    let (manifest, executor) = (&self.manifest, self.executor);
                    let new = Programs::new(manifest, sizes, &made.types, graphs, &self.stored, executor)?;
                    if self.programs.len() >= KEPT {
                        self.programs.remove(0);
                    }
                    self.programs.push(new);
                }
            }
        }
        let (ports, device) = (&self.manifest.inputs, self.executor.device());
        let mut pairs = ports.iter().zip(&self.programs().types.inputs).zip(inputs);
        pairs.try_for_each(|((port, ty), value)| fits(&format!("input {:?}", port.name), ty, value, device))
    }
}

fn fits(what: &str, ty: &Type, value: &Value, device: Device) -> Result<()> {
    let got = value.ty();
    let place = value.buffer().device();
    if place != device {
        return Err(Error::device(format!("{what} is on {place}, and the program on {device}")));
    }
    if got.dtype != ty.dtype {
        return Err(Error::dtype(format!("{what} must be {}, got {}", ty.dtype, got.dtype)).with_types([ty, got]));
    }
    if got.shape != ty.shape {
        return Err(
            Error::shape(format!("{what} must have shape {}, got {}", ty.shape, got.shape)).with_types([ty, got])
        );
    }
    Ok(())
}

/// Runs a program on inputs and state. Donated state is handed over for the run, and comes back when it fails.
fn call(
    loaded: &Loaded,
    state: &mut [Option<BufferRef>],
    inputs: &[Value],
    cotangents: &[Option<Value>],
) -> Result<Vec<BufferRef>> {
    let slots = &loaded.program.inputs;
    let mut buffers = Vec::with_capacity(slots.len());
    for (slot, &donated) in slots.iter().zip(&loaded.donated) {
        let found = match *slot {
            Slot::Input(i) => inputs.get(i as usize).map(|v| v.buffer().clone()),
            Slot::Output(o) => cotangents.get(o as usize).and_then(|v| v.as_ref()).map(|v| v.buffer().clone()),
            // Each slot stands once: what is taken here is not asked for again.
            Slot::State(s) if donated => state.get_mut(s as usize).and_then(Option::take),
            Slot::State(s) => state.get(s as usize).cloned().flatten(),
        };
        buffers.push(found);
    }
    let back = |state: &mut [Option<BufferRef>], buffers: Vec<Option<BufferRef>>| {
        for ((slot, &donated), buffer) in slots.iter().zip(&loaded.donated).zip(buffers) {
            if let (Slot::State(s), true) = (slot, donated) {
                state[*s as usize] = buffer;
            }
        }
    };
    if buffers.iter().any(Option::is_none) {
        back(state, buffers);
        return Err(Error::internal("an input of the program has no value"));
    }
    let mut ready: Vec<BufferRef> = buffers.into_iter().flatten().collect();
    let made = guarded("ran", || loaded.exe.run(&mut ready)).and_then(|made| {
        let whole = made.len() == loaded.program.outputs.len();
        if whole { Ok(made.into_vec()) } else { Err(Error::internal("a program gave another number of outputs")) }
    });
    if made.is_err() {
        back(state, ready.into_iter().map(Some).collect());
    }
    made
}
