//! A program of a graph that is there already: that of a package, which needs no trace.

use super::{From, Ids, Input, Program, ResultSpec, Role, Target, To, Write};
use crate::node::Grad;
use crate::session::{self, Donations, Known};
use crate::tensor::Tensor;
use crate::trace::Source;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use torsh_ir::exec::Device;
use torsh_ir::{DType, Error, Graph, Loc, Result, Type};

/// A graph, what its inputs and outputs are, and what is known of it.
pub struct Ready<'a> {
    /// The graph, which is asked for where no program of it is used.
    pub graph: &'a dyn Fn() -> Result<&'a Arc<Graph>>,
    /// Types of its inputs.
    pub input_types: Vec<Type>,
    /// Types of its outputs.
    pub output_types: Vec<Type>,
    /// What each input is; floats and tensors that are found, or arguments.
    pub inputs: Vec<From>,
    /// What each output is.
    pub outputs: Vec<To>,
    /// Pairs (input, output) of the graph of which the output may take the input's memory: tensors that are found.
    pub donate: &'a dyn Fn(&Graph) -> Donations,
    /// Its lowered program, where that is known.
    pub known: Option<Known<'a>>,
    /// Where it is to run.
    pub device: Device,
    /// The user's line that wants it: that of its errors, as its nodes have none.
    pub site: Option<Loc>,
}

impl Program {
    /// A program whose runs give the results of the graph, without history, and write what it says to the tensors that it
    /// found. `None` where a tensor that is found is no plain one of the device, of the type that the graph has: a
    /// trace says then what is to be done.
    ///
    /// # Errors
    /// Those of the compilation.
    pub fn ready(ready: Ready<'_>) -> Result<Option<Program>> {
        let Ready { graph, input_types, output_types, inputs: given, outputs, donate, known, device, site } = ready;
        if given.len() != input_types.len() || outputs.len() != output_types.len() {
            return Err(Error::internal("a graph with other inputs or outputs than are said"));
        }
        let mut inputs = Vec::with_capacity(given.len());
        for (from, ty) in given.iter().zip(&input_types) {
            let Some(input) = input(from, ty.clone(), device) else { return Ok(None) };
            inputs.push(input);
        }
        let at_site = |e: Error| e.with_loc(site.clone());
        let session = session::get()?;
        let mut made = None;
        if let Some(known) = known {
            let compiled = session.executable_of(device, &known).map_err(at_site)?;
            made = compiled.map(|compiled| (compiled, None, known.donate));
        }
        let (compiled, graph, donate) = match made {
            Some(made) => made,
            None => {
                let graph = graph().map_err(at_site)?;
                let donate = donate(graph);
                let compiled = session.executable(device, graph, donate.clone()).map_err(at_site)?;
                (compiled, Some(graph.clone()), donate)
            }
        };
        let mut results: Vec<(usize, ResultSpec)> = Vec::new();
        let mut writes = Vec::new();
        let mut written = Ids::default();
        for (output, to) in outputs.iter().enumerate() {
            let ty = output_types[output].clone();
            match *to {
                To::Result(i) => results.push((i, ResultSpec::New { output, ty, role: Role::None, weak: false })),
                To::Input(i) => {
                    let (Some(From::Tensor(t)), Some(input)) = (given.get(i), inputs.get(i)) else {
                        return Err(Error::internal("an output is written to what is no tensor"));
                    };
                    let role = if let Grad::Leaf(slot) = &input.grad { Role::Leaf(slot.clone()) } else { Role::None };
                    let donated = donate.contains(&(i, output)).then_some(i);
                    written.insert(t.id());
                    writes.push(Write { target: Target::Handle(t.clone()), output, ty, role, donated });
                }
            }
        }
        results.sort_by_key(|(i, _)| *i);
        let mut lenders: Vec<usize> = (0..writes.len()).filter(|&w| writes[w].donated.is_some()).collect();
        lenders.sort_by_key(|&w| if let Target::Handle(t) = &writes[w].target { t.id() } else { u64::MAX });
        let mut lends = vec![false; inputs.len()];
        for input in lenders.iter().filter_map(|&w| writes[w].donated) {
            lends[input] = true;
        }
        let found: Ids =
            given.iter().filter_map(|f| if let From::Tensor(t) = f { Some(t.id()) } else { None }).collect();
        let in_order = results
            .iter()
            .enumerate()
            .all(|(at, (i, spec))| *i == at && matches!(spec, ResultSpec::New { output, .. } if *output == at));
        Ok(Some(Program {
            compiled: Some(compiled),
            device,
            graph,
            output_count: outputs.len(),
            plain: writes.is_empty() && in_order,
            inputs,
            writes,
            grads: Vec::new(),
            clears: Vec::new(),
            grad_handles: Vec::new(),
            results: results.into_iter().map(|(_, spec)| spec).collect(),
            history: Vec::new(),
            written,
            handles: found.clone(),
            captured: found,
            views: Vec::new(),
            writes_args: false,
            lenders,
            lends,
            reads_grads: false,
            checked: AtomicU64::new(0),
            specialised: Vec::new(),
            captured_specialised: false,
            escaped: 0,
            site,
        }))
    }
}

// Where an input comes from at each call; `None` for a tensor that is not what the graph takes.
fn input(from: &From, ty: Type, device: Device) -> Option<Input> {
    match from {
        From::Arg(leaf) => Some(Input { source: Source::Arg(*leaf), ty, grad: Grad::None, device }),
        // The number is made on the host; a run copies it.
        From::Float(leaf) if ty == Type::scalar(DType::F64) => {
            Some(Input { source: Source::Float(*leaf), ty, grad: Grad::None, device: Device::Cpu })
        }
        From::Tensor(t) => {
            plain(t, &ty, device).map(|grad| Input { source: Source::Handle(t.clone()), ty, grad, device })
        }
        From::Float(_) | From::Captured(_) | From::Fixed(_) => None,
    }
}

// What a tensor is to autograd, if it is a plain one of this type and device.
fn plain(t: &Tensor, ty: &Type, device: Device) -> Option<Grad> {
    let state = t.lock();
    let fits = state.view.is_none() && state.node.device == device && state.node.ty == *ty;
    match &state.node.grad {
        Grad::None if fits => Some(Grad::None),
        Grad::Leaf(slot) if fits => Some(Grad::Leaf(slot.clone())),
        _ => None,
    }
}
