//! The signature of a call: the tree of its arguments, with tensors and floats as leaves.

use crate::functions::{has_attributes, is_plain, is_plain_kind};
use crate::tensor::PyTensor;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyList, PyTuple};
use smallvec::SmallVec;
use torsh_frontend::Tensor;
use torsh_frontend::compiled::Args;
use torsh_frontend::trace::Leaf;
use torsh_ir::Type;
use torsh_ir::exec::Device;

/// Containers nested deeper than this are objects like any other.
const MAX_DEPTH: usize = 16;

/// What an argument must be for a program to fit.
pub enum Spec {
    /// A tensor of a type on a device; `grad`: gradients flow into it.
    Tensor { ty: Type, device: Device, grad: bool },
    /// A Python float; with a value when the trace needed it.
    Float(Option<f64>),
    /// None, bool, int, str without attributes: compared by type and value.
    Plain(Py<PyAny>),
    /// Anything else, by identity.
    Object(Py<PyAny>),
    /// Any plain value or object: for calls that run lazily because it keeps changing.
    Any,
    /// A list.
    List(Vec<Spec>),
    /// A tuple or named tuple, with its class.
    Tuple(Py<PyAny>, Vec<Spec>),
    /// A dict with text keys, in order.
    Dict(Vec<(Py<PyAny>, Spec)>),
}

/// A leaf of a call.
pub enum Given {
    /// A tensor.
    Tensor(Py<PyTensor>),
    /// A float and its object.
    Float(f64, Py<PyAny>),
}

/// The leaves of a call, in the order of the tree. They hold the objects: a call runs without the GIL, and what it
/// was given may change meanwhile.
#[derive(Default)]
pub struct Leaves(SmallVec<[Given; 8]>);

impl Leaves {
    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Given> {
        self.0.iter()
    }
    /// The object of a leaf.
    pub fn object<'py>(&self, py: Python<'py>, leaf: usize) -> Option<&Bound<'py, PyAny>> {
        self.0.get(leaf).map(|given| given.object(py))
    }
    /// As the front knows them.
    pub fn values(&self) -> Vec<Leaf> {
        let value = |given: &Given| match given {
            Given::Tensor(t) => Leaf::Tensor(t.get().t.clone()),
            Given::Float(x, _) => Leaf::Float(*x),
        };
        self.iter().map(value).collect()
    }
}

impl Given {
    /// Its object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Given::Tensor(t) => t.bind(py).as_any(),
            Given::Float(_, object) => object.bind(py),
        }
    }
    /// The tensor.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Given::Tensor(t) => Some(&t.get().t),
            Given::Float(..) => None,
        }
    }
}

impl Args for Leaves {
    fn tensor(&self, leaf: usize) -> Option<&Tensor> {
        self.0.get(leaf).and_then(Given::tensor)
    }
    fn float(&self, leaf: usize) -> Option<f64> {
        match self.0.get(leaf) {
            Some(Given::Float(x, _)) => Some(*x),
            _ => None,
        }
    }
    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Builds the signature of an object and lists its leaves.
pub fn describe(obj: &Bound<'_, PyAny>, leaves: &mut Leaves, depth: usize) -> PyResult<Spec> {
    if let Ok(t) = obj.cast::<PyTensor>() {
        leaves.0.push(Given::Tensor(t.clone().unbind()));
        let t = &t.get().t;
        return Ok(Spec::Tensor { ty: t.ty(), device: t.device(), grad: t.requires_grad() });
    }
    if obj.is_exact_instance_of::<PyFloat>() {
        leaves.0.push(Given::Float(obj.extract()?, obj.clone().unbind()));
        return Ok(Spec::Float(None));
    }
    if is_plain(obj) {
        return Ok(Spec::Plain(obj.clone().unbind()));
    }
    if depth < MAX_DEPTH {
        if obj.is_exact_instance_of::<PyList>() {
            let items = obj.try_iter()?.map(|o| describe(&o?, leaves, depth + 1)).collect::<PyResult<_>>()?;
            return Ok(Spec::List(items));
        }
        if obj.is_instance_of::<PyTuple>() {
            let items = obj.try_iter()?.map(|o| describe(&o?, leaves, depth + 1)).collect::<PyResult<_>>()?;
            return Ok(Spec::Tuple(obj.get_type().into_any().unbind(), items));
        }
        if obj.is_exact_instance_of::<PyDict>() {
            let dict = obj.cast::<PyDict>()?;
            if dict.keys().iter().all(|k| is_plain_kind(&k)) {
                let items = dict
                    .iter()
                    .map(|(k, v)| Ok((k.unbind(), describe(&v, leaves, depth + 1)?)))
                    .collect::<PyResult<_>>()?;
                return Ok(Spec::Dict(items));
            }
        }
    }
    Ok(Spec::Object(obj.clone().unbind()))
}

fn same_plain(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    if a.is(b) {
        return true;
    }
    if let (Ok(x), Ok(y)) = (a.cast_exact::<PyFloat>(), b.cast_exact::<PyFloat>()) {
        // By bits: 0.0 and -0.0 differ, NaN is itself.
        return x.value().to_bits() == y.value().to_bits();
    }
    a.get_type().is(b.get_type()) && a.eq(b).unwrap_or(false) && !has_attributes(b)
}

/// Same plain value, or the same object.
pub fn same(a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> bool {
    a.is(b) || (is_plain(a) && same_plain(a, b))
}

/// Why a signature does not fit; says something only when asked to.
pub struct Why(Option<String>);

impl Why {
    /// Collects the reason.
    pub fn asked() -> Why {
        Why(Some(String::new()))
    }
    /// Collects nothing.
    pub fn silent() -> Why {
        Why(None)
    }
    /// The reason.
    pub fn text(self) -> String {
        self.0.unwrap_or_default()
    }
    /// Notes a reason; always false.
    pub fn no(&mut self, f: impl FnOnce() -> String) -> bool {
        if let Some(text) = &mut self.0 {
            *text = f();
        }
        false
    }
}

/// Whether an object fits; lists its leaves on the way.
pub fn fits(spec: &Spec, obj: &Bound<'_, PyAny>, leaves: &mut Leaves, why: &mut Why) -> bool {
    let py = obj.py();
    let all = |specs: &[Spec], leaves: &mut Leaves, why: &mut Why| {
        let same = obj.len().is_ok_and(|n| n == specs.len());
        if !same {
            return why.no(|| "a container changed its length".into());
        }
        let Ok(items) = obj.try_iter() else { return false };
        items.zip(specs).all(|(o, s)| o.is_ok_and(|o| fits(s, &o, leaves, why)))
    };
    match spec {
        Spec::Tensor { ty, device, grad } => {
            let Ok(t) = obj.cast::<PyTensor>() else {
                return why.no(|| format!("argument was a tensor {ty}, now is no tensor"));
            };
            if !t.get().t.is_like(ty, *device, *grad) {
                let (now, place) = (t.get().t.ty(), t.get().t.device());
                return why.no(|| match now == *ty {
                    true if place != *device => format!("a tensor argument was on {device}, now is on {place}"),
                    true => format!("a tensor argument changed requires_grad to {}", !grad),
                    false => format!("a tensor argument was {ty}, now is {now}"),
                });
            }
            leaves.0.push(Given::Tensor(t.clone().unbind()));
            true
        }
        Spec::Float(value) => {
            if !obj.is_exact_instance_of::<PyFloat>() {
                return why.no(|| "a float argument changed its type".into());
            }
            let Ok(x) = obj.extract::<f64>() else { return false };
            if value.is_some_and(|v| v.to_bits() != x.to_bits()) {
                return why.no(|| format!("a float argument whose value the trace needed is now {x}"));
            }
            leaves.0.push(Given::Float(x, obj.clone().unbind()));
            true
        }
        Spec::Plain(value) => {
            let value = value.bind(py);
            same_plain(value, obj) || why.no(|| format!("an argument was {value}, now is {obj}"))
        }
        Spec::Object(value) => {
            value.bind(py).is(obj) || why.no(|| format!("an argument is another object of class {}", obj.get_type()))
        }
        Spec::Any => wildcard(obj) || why.no(|| "an argument is now a tensor, a float or a container".into()),
        Spec::List(items) => {
            if !obj.is_exact_instance_of::<PyList>() {
                return why.no(|| "an argument is no longer a list".into());
            }
            all(items, leaves, why)
        }
        Spec::Tuple(class, items) => {
            if obj.get_type_ptr().cast() != class.as_ptr() {
                return why.no(|| "a tuple argument changed its class".into());
            }
            match obj.cast::<PyTuple>() {
                Ok(tuple) => fits_tuple(items, tuple, leaves, why),
                Err(_) => false,
            }
        }
        Spec::Dict(items) => {
            let Ok(dict) = obj.cast_exact::<PyDict>() else {
                return why.no(|| "an argument is no longer a dict".into());
            };
            dict.len() == items.len()
                && dict
                    .iter()
                    .zip(items)
                    .all(|((k, v), (key, s))| same_plain(key.bind(py), &k) && fits(s, &v, leaves, why))
                || why.no(|| "a dict argument changed".into())
        }
    }
}

/// Whether the objects of a tuple fit.
pub fn fits_tuple(specs: &[Spec], tuple: &Bound<'_, PyTuple>, leaves: &mut Leaves, why: &mut Why) -> bool {
    if tuple.len() != specs.len() {
        return why.no(|| "a container changed its length".into());
    }
    tuple.iter_borrowed().zip(specs).all(|(o, s)| fits(s, &o, leaves, why))
}

// What `describe` takes for a plain value or an object.
fn wildcard(obj: &Bound<'_, PyAny>) -> bool {
    !obj.is_instance_of::<PyTensor>()
        && !obj.is_exact_instance_of::<PyFloat>()
        && !obj.is_exact_instance_of::<PyList>()
        && !obj.is_instance_of::<PyTuple>()
        && !obj.is_exact_instance_of::<PyDict>()
}

impl Spec {
    /// Lists the plain values and objects in which two signatures differ, by their place in the tree; false
    /// if anything else differs. Values of specialised floats do not count.
    pub fn differences(&self, other: &Spec, py: Python<'_>, next: &mut usize, out: &mut Vec<usize>) -> bool {
        let all = |a: &[Spec], b: &[Spec], next: &mut usize, out: &mut Vec<usize>| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.differences(b, py, next, out))
        };
        match (self, other) {
            (Spec::Tensor { ty: a, device: d, grad: g }, Spec::Tensor { ty: b, device: e, grad: h }) => {
                a == b && d == e && g == h
            }
            (Spec::Float(_), Spec::Float(_)) => true,
            (Spec::Plain(a) | Spec::Object(a), Spec::Plain(b) | Spec::Object(b)) => {
                let place = *next;
                *next += 1;
                if !same(a.bind(py), b.bind(py)) {
                    out.push(place);
                }
                true
            }
            (Spec::List(a), Spec::List(b)) => all(a, b, next, out),
            (Spec::Tuple(c, a), Spec::Tuple(d, b)) => c.is(d) && all(a, b, next, out),
            (Spec::Dict(a), Spec::Dict(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|((k, a), (l, b))| same_plain(k.bind(py), l.bind(py)) && a.differences(b, py, next, out))
            }
            _ => false,
        }
    }

    /// Lets the plain value or object at this place be anything.
    pub fn relax(&mut self, place: usize, next: &mut usize) {
        match self {
            Spec::Plain(_) | Spec::Object(_) => {
                if *next == place {
                    *self = Spec::Any;
                }
                *next += 1;
            }
            Spec::Tensor { .. } | Spec::Float(_) | Spec::Any => {}
            Spec::List(items) | Spec::Tuple(_, items) => items.iter_mut().for_each(|s| s.relax(place, next)),
            Spec::Dict(items) => items.iter_mut().for_each(|(_, s)| s.relax(place, next)),
        }
    }

    /// Fixes the floats at these leaves to their values.
    pub fn specialise(&mut self, wanted: &[usize], leaves: &Leaves, next: &mut usize) {
        match self {
            Spec::Tensor { .. } => *next += 1,
            Spec::Float(value) => {
                if wanted.contains(next) {
                    *value = leaves.float(*next);
                }
                *next += 1;
            }
            Spec::Plain(_) | Spec::Object(_) | Spec::Any => {}
            Spec::List(items) | Spec::Tuple(_, items) => {
                items.iter_mut().for_each(|s| s.specialise(wanted, leaves, next));
            }
            Spec::Dict(items) => items.iter_mut().for_each(|(_, s)| s.specialise(wanted, leaves, next)),
        }
    }

    /// Shows the cycle collector what it holds.
    pub fn visit(&self, visit: &pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        match self {
            Spec::Tensor { .. } | Spec::Float(_) | Spec::Any => Ok(()),
            Spec::Plain(object) | Spec::Object(object) => visit.call(object),
            Spec::List(items) => items.iter().try_for_each(|s| s.visit(visit)),
            Spec::Tuple(class, items) => {
                visit.call(class)?;
                items.iter().try_for_each(|s| s.visit(visit))
            }
            Spec::Dict(items) => items.iter().try_for_each(|(key, s)| {
                visit.call(key)?;
                s.visit(visit)
            }),
        }
    }

    /// A short text.
    pub fn text(&self, py: Python<'_>) -> String {
        let list = |items: &[Spec]| items.iter().map(|s| s.text(py)).collect::<Vec<_>>().join(", ");
        match self {
            Spec::Tensor { ty, device, grad } => {
                let place = if *device == Device::Cpu { String::new() } else { format!(" {device}") };
                format!("{ty}{place}{}", if *grad { " grad" } else { "" })
            }
            Spec::Float(None) => "float".into(),
            Spec::Float(Some(x)) => format!("float={x}"),
            Spec::Plain(v) => v.bind(py).repr().map(|r| r.to_string()).unwrap_or_default(),
            Spec::Object(v) => v.bind(py).get_type().name().map(|n| n.to_string()).unwrap_or_default(),
            Spec::Any => "any".into(),
            Spec::List(items) => format!("[{}]", list(items)),
            Spec::Tuple(_, items) => format!("({})", list(items)),
            Spec::Dict(items) => {
                let parts: Vec<String> = items.iter().map(|(k, s)| format!("{}: {}", k.bind(py), s.text(py))).collect();
                format!("{{{}}}", parts.join(", "))
            }
        }
    }
}

/// The object with its leaves replaced, in order.
pub fn rebuild<'py>(
    spec: &Spec,
    obj: &Bound<'py, PyAny>,
    leaves: &mut dyn Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = obj.py();
    match spec {
        Spec::Tensor { .. } | Spec::Float(_) => Ok(leaves.next().unwrap_or_else(|| obj.clone())),
        Spec::Plain(_) | Spec::Object(_) | Spec::Any => Ok(obj.clone()),
        Spec::List(items) => {
            let made = children(items, obj, leaves)?;
            Ok(PyList::new(py, made)?.into_any())
        }
        Spec::Tuple(class, items) => {
            let made = children(items, obj, leaves)?;
            let class = class.bind(py);
            if class.is(py.get_type::<PyTuple>()) {
                return Ok(PyTuple::new(py, made)?.into_any());
            }
            if class.hasattr("_make")? {
                return class.call_method1("_make", (made,));
            }
            class.call1((PyList::new(py, made)?,))
        }
        Spec::Dict(items) => {
            let dict = PyDict::new(py);
            for (key, s) in items {
                let key = key.bind(py);
                dict.set_item(key, rebuild(s, &obj.get_item(key)?, leaves)?)?;
            }
            Ok(dict.into_any())
        }
    }
}

fn children<'py>(
    items: &[Spec],
    obj: &Bound<'py, PyAny>,
    leaves: &mut dyn Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mut made = Vec::with_capacity(items.len());
    for (o, s) in obj.try_iter()?.zip(items) {
        made.push(rebuild(s, &o?, leaves)?);
    }
    Ok(made)
}
