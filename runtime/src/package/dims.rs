//! Sizes that vary: named dims with ranges in the manifest, and the graphs of a package at the sizes of a call.
//!
//! A package with dims holds templates (`torsh_ir::text::Template`) instead of graphs. They are read when the package is
//! loaded and filled in for the smallest sizes, so that a file that is no program is refused at once; at other sizes the
//! text that comes out is parsed, verified and held against the limits and the manifest again.

use super::format::{MANIFEST, MAX_DIM, MAX_DIMS, MAX_GRAPH_BYTES, bad};
use super::graphs::checked;
use super::manifest::{Manifest, Port, PortKind, Program, Types, ty};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use torsh_ir::text::size::is_dim_name;
use torsh_ir::text::{SizeExpr, Template};
use torsh_ir::{Error, Graph, Result, limits};

/// A dim: a size that each call has one value of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dim {
    /// Its name.
    pub name: String,
    /// The smallest size.
    pub min: u64,
    /// The largest size.
    pub max: u64,
}

/// A size of an input or output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// A number.
    Fixed(u64),
    /// An expression in the dims; that of an input is the name of a dim.
    Expr(String),
}

impl From<u64> for Size {
    fn from(size: u64) -> Size {
        Size::Fixed(size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Fixed(n) => n.fmt(f),
            Size::Expr(text) => text.fmt(f),
        }
    }
}

impl Port {
    /// The sizes as text: `[batch, 3]`.
    pub fn sizes(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(Size::to_string).collect();
        format!("[{}]", sizes.join(", "))
    }
}

impl Manifest {
    pub(super) fn dim_names(&self) -> Vec<&str> {
        self.dims.iter().map(|d| d.name.as_str()).collect()
    }

    /// The smallest size of each dim.
    pub fn smallest(&self) -> Vec<u64> {
        self.dims.iter().map(|d| d.min).collect()
    }

    /// The sizes of a port at these sizes of the dims.
    pub(super) fn shape_at(&self, what: &str, port: &Port, sizes: &[u64]) -> Result<Vec<u64>> {
        let one = |size: &Size| match size {
            Size::Fixed(n) => Ok(*n),
            Size::Expr(text) => {
                let value = SizeExpr::parse(text, &self.dim_names()).and_then(|e| e.at(sizes));
                let value = value.map_err(|e| bad(MANIFEST, format!("{what}: {}", e.message())))?;
                u64::try_from(value).map_err(|_| bad(MANIFEST, format!("{what} has the negative size {value}")))
            }
        };
        port.shape.iter().map(one).collect()
    }

    /// Checks names and ranges of the dims, and that the inputs say the size of each.
    pub(super) fn check_dims(&self) -> Result<()> {
        let refuse = |why: String| Err(bad(MANIFEST, why));
        if self.dims.len() > MAX_DIMS {
            return refuse(format!("{} dims; the most is {MAX_DIMS}", self.dims.len()));
        }
        let mut seen = HashSet::new();
        for (i, dim) in self.dims.iter().enumerate() {
            if !is_dim_name(&dim.name) || !seen.insert(dim.name.as_str()) {
                return refuse(format!("dim {i} has a name that is no word of 1 to 64 letters, or stands twice"));
            }
            if dim.min < 1 || dim.min > dim.max || dim.max > MAX_DIM {
                let (name, min, max) = (&dim.name, dim.min, dim.max);
                return refuse(format!("dim {name} goes from {min} to {max}; a range lies within 1 to {MAX_DIM}"));
            }
        }
        let mut known = HashSet::new();
        for (i, port) in self.inputs.iter().enumerate() {
            for size in &port.shape {
                let Size::Expr(text) = size else { continue };
                let Some(dim) = self.dims.iter().find(|d| d.name == *text) else {
                    let shown: String = text.chars().take(64).collect();
                    return refuse(format!("input {i} has the size {shown:?}, which is no dim"));
                };
                known.insert(dim.name.as_str());
            }
        }
        match self.dims.iter().find(|d| !known.contains(d.name.as_str())) {
            Some(dim) => refuse(format!("dim {} is the size of no input", dim.name)),
            None => Ok(()),
        }
    }

    /// The types of inputs, outputs and state at these sizes of the dims.
    fn types_at(&self, sizes: &[u64], state: &Types) -> Result<Types> {
        let within = limits::get();
        let port = |(side, i, port): (&str, usize, &Port)| {
            let what = format!("{side} {i}");
            ty(&what, &port.dtype, &self.shape_at(&what, port, sizes)?, &within)
        };
        Ok(Types {
            inputs: self.inputs.iter().enumerate().map(|(i, p)| port(("input", i, p))).collect::<Result<_>>()?,
            outputs: self.outputs.iter().enumerate().map(|(i, p)| port(("output", i, p))).collect::<Result<_>>()?,
            state: state.state.clone(),
        })
    }

    /// The size of each dim in a call with inputs of these shapes, of which there are as many as the manifest has.
    ///
    /// Errors: `Shape`, for another rank or fixed size, for inputs that disagree about a dim, and for a size out of range.
    pub fn sizes_of(&self, shapes: &[&[usize]]) -> Result<Vec<u64>> {
        let mut found: Vec<Option<(u64, &str)>> = vec![None; self.dims.len()];
        for (port, shape) in self.inputs.iter().zip(shapes) {
            let wrong =
                || Error::shape(format!("input {:?} must have shape {}, got {shape:?}", port.name, port.sizes()));
            if port.kind == PortKind::Tensor && port.shape.len() != shape.len() {
                return Err(wrong());
            }
            for (axis, (size, &given)) in port.shape.iter().zip(*shape).enumerate() {
                let given = given as u64;
                match size {
                    Size::Fixed(n) if *n == given => {}
                    Size::Fixed(_) => return Err(wrong()),
                    Size::Expr(name) => {
                        let dim = self.dims.iter().position(|d| d.name == *name).ok_or_else(wrong)?;
                        let Dim { min, max, .. } = self.dims[dim];
                        if given < min || given > max {
                            return Err(Error::shape(format!(
                                "input {:?} has size {given} in dim {axis}; {name} must be from {min} to {max}",
                                port.name
                            )));
                        }
                        match found[dim] {
                            Some((other, first)) if other != given => {
                                return Err(Error::shape(format!(
                                    "input {:?} has size {given} in dim {axis}, but {name} is {other} in input {first:?}",
                                    port.name
                                )));
                            }
                            _ => found[dim] = Some((given, &port.name)),
                        }
                    }
                }
            }
        }
        let missing = || Error::internal("a dim is the size of no input");
        found.into_iter().map(|f| f.map(|(size, _)| size).ok_or_else(missing)).collect()
    }
}

/// Text of templates that are kept filled in, in all.
const KEPT_BYTES: usize = 64 << 20;
/// Sizes for which graphs are kept.
const KEPT: usize = 32;

/// The graphs of a package with dims.
#[derive(Debug)]
pub struct Templates {
    manifest: Manifest,
    types: Types,
    forward: Template,
    vjp: Option<Template>,
    // Those used last at the end.
    made: Mutex<Vec<(Vec<u64>, Arc<Instance>)>>,
}

/// A package's graphs at some sizes.
#[derive(Debug)]
pub struct Instance {
    /// Types of inputs, outputs and state.
    pub types: Types,
    /// The program.
    pub forward: Arc<Graph>,
    /// The gradient program.
    pub vjp: Option<Graph>,
}

impl Templates {
    /// Reads templates; `types` are those at the smallest sizes.
    pub(super) fn new(manifest: &Manifest, types: &Types, forward: String, vjp: Option<String>) -> Result<Templates> {
        let read = |text: String, entry: &str| {
            Template::parse(text, &manifest.dim_names()).map_err(|e| bad(entry, e.message()))
        };
        let vjp = match (&manifest.vjp, vjp) {
            (Some(program), Some(text)) => Some(read(text, &program.graph)?),
            _ => None,
        };
        Ok(Templates {
            forward: read(forward, &manifest.forward.graph)?,
            vjp,
            manifest: manifest.clone(),
            types: types.clone(),
            made: Mutex::default(),
        })
    }

    /// The program's template.
    pub fn forward(&self) -> &str {
        self.forward.text()
    }

    /// The template of the gradient program.
    pub fn vjp(&self) -> Option<&str> {
        self.vjp.as_ref().map(Template::text)
    }

    /// The graphs at these sizes, one for each dim. Those of the last few sizes are kept.
    ///
    /// Errors: `Shape` for a size out of its range, `Limit` where a tensor would be too large, `Package` where the
    /// templates give no valid graph.
    pub fn at(&self, sizes: &[u64]) -> Result<Arc<Instance>> {
        let fits = |(dim, size): (&Dim, &u64)| (dim.min..=dim.max).contains(size);
        if sizes.len() != self.manifest.dims.len() || !self.manifest.dims.iter().zip(sizes).all(fits) {
            return Err(Error::shape(format!("sizes {sizes:?} are not those of the dims {:?}", self.manifest.dims)));
        }
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made = lock();
        if let Some(i) = made.iter().position(|(s, _)| s == sizes) {
            made[i..].rotate_left(1);
            return Ok(made[made.len() - 1].1.clone());
        }
        drop(made);
        let instance = Arc::new(self.make(sizes)?);
        let text = self.forward.text().len() + self.vjp().map_or(0, str::len);
        let kept = (KEPT_BYTES / text.max(1)).clamp(1, KEPT);
        let mut made = lock();
        // Another thread may have made the same: either will do.
        made.retain(|(s, _)| s != sizes);
        let extra = (made.len() + 1).saturating_sub(kept);
        made.drain(..extra);
        made.push((sizes.to_vec(), instance.clone()));
        Ok(instance)
    }

    fn make(&self, sizes: &[u64]) -> Result<Instance> {
        let m = &self.manifest;
        let types = m.types_at(sizes, &self.types)?;
        let graph = |template: &Template, program: &Program| {
            let text = template.at(sizes, MAX_GRAPH_BYTES).map_err(|e| bad(&program.graph, e.message()))?;
            checked(&text, m, program, &types).map_err(|e| {
                let pairs = m.dims.iter().zip(sizes).map(|(d, s)| format!("{}={s}", d.name));
                Error::new(e.kind(), format!("{} (at {})", e.message(), pairs.collect::<Vec<_>>().join(", ")))
            })
        };
        let forward = graph(&self.forward, &m.forward)?;
        let vjp = match (&self.vjp, &m.vjp) {
            (Some(template), Some(program)) => Some(graph(template, program)?),
            _ => None,
        };
        Ok(Instance { types, forward: Arc::new(forward), vjp })
    }
}
