//! Indexing as PyTorch does it: integers, slices, None and Ellipsis give views; boolean and integer tensors
//! gather copies; and assignment for all of them.

use crate::known;
use crate::mode;
use crate::node::NodeRef;
use crate::ops;
use crate::place;
use crate::promote::Arg;
use crate::realise;
use crate::tensor::Tensor;
use crate::trace;
use crate::view::Step;
use smallvec::smallvec;
use torsh_ir::exec::Device;
use torsh_ir::{Attr, Attrs, DType, Error, Ints, Result, Scalar, Shape, Type};

/// One item between the brackets.
#[derive(Clone)]
pub enum Index {
    /// An integer.
    Int(i64),
    /// A slice.
    Slice(Option<i64>, Option<i64>, Option<i64>),
    /// A new dim of size 1.
    NewDim,
    /// As many full slices as there is room for.
    Ellipsis,
    /// A Python bool: a new dim of size 1 or 0.
    Bool(bool),
    /// Integer positions or a boolean mask.
    Tensor(Tensor),
}

/// The view that the basic items select, and the tensors that index dims of it.
struct Plan {
    view: Tensor,
    tensors: Vec<(usize, Tensor)>,
}

fn located<R>(r: Result<R>, x: &Tensor) -> Result<R> {
    r.map_err(|e| e.with_op("index").with_types(&[x.ty()]).with_loc(mode::loc()))
}

/// `x[items]`.
pub fn get(x: &Tensor, items: &[Index]) -> Result<Tensor> {
    located(get_inner(x, items), x)
}

/// `x[items] = value`.
pub fn set(x: &Tensor, items: &[Index], value: &Arg) -> Result<()> {
    located(set_inner(x, items, value), x)
}

fn get_inner(x: &Tensor, items: &[Index]) -> Result<Tensor> {
    let plan = basic(x, items)?;
    if plan.tensors.is_empty() {
        return Ok(plan.view);
    }
    let gather = Gather::new(&plan)?;
    let taken = gather.read(&plan.view.node())?;
    Ok(Tensor::new(taken))
}

fn set_inner(x: &Tensor, items: &[Index], value: &Arg) -> Result<()> {
    let plan = basic(x, items)?;
    plan.view.check_inplace()?;
    let (ty, device) = (plan.view.ty(), plan.view.device());
    if !plan.tensors.is_empty() {
        place::common(&[Arg::from(&plan.view), value.clone()])?;
    }
    let given = |shape: &Shape| -> Result<NodeRef> {
        let own = value.shape();
        // Leading dims of size 1 may be dropped, as in PyTorch.
        let extra = own.rank().saturating_sub(shape.rank());
        let dropped = Shape::of(&own[extra..]);
        let fits = own[..extra].iter().all(|&d| d == 1) && Shape::broadcast(&dropped, shape).is_ok_and(|s| s == *shape);
        if !fits {
            return Err(Error::shape(format!(
                "shape mismatch: value tensor of shape {own} cannot be broadcast to {shape}"
            )));
        }
        match value {
            Arg::Tensor(t) => {
                let own = ops::to_device(&ops::cast(&t.node(), ty.dtype)?, device)?;
                ops::broadcast_to(&ops::reshape(&own, &dropped)?, shape)
            }
            Arg::Scalar(s) => ops::full_exact(*s, ty.dtype, shape, device),
        }
    };
    if plan.tensors.is_empty() {
        return plan.view.assign(&given(&ty.shape)?);
    }
    if let [(dim, mask)] = plan.tensors.as_slice()
        && mask.dtype() == DType::Bool
        && value.shape().numel() == 1
    {
        // One number under a mask needs no positions.
        check_mask(&ty.shape, *dim, &mask.shape())?;
        let mut dims = vec![1; ty.rank()];
        dims[*dim..*dim + mask.rank()].copy_from_slice(&mask.shape());
        let mask = beside(mask, device)?;
        let mask = ops::broadcast_to(&ops::reshape(&mask, &Shape::of(&dims))?, &ty.shape)?;
        let scalar = match value {
            Arg::Tensor(t) => {
                let flat = ops::reshape(&ops::cast(&t.node(), ty.dtype)?, &Shape::scalar())?;
                ops::broadcast_to(&ops::to_device(&flat, device)?, &ty.shape)?
            }
            Arg::Scalar(s) => ops::full_exact(*s, ty.dtype, &ty.shape, device)?,
        };
        let value = ops::apply_named("select", &[mask, scalar, plan.view.node()], Attrs::new())?;
        return plan.view.assign(&value);
    }
    let gather = Gather::new(&plan)?;
    gather.check()?;
    let src = given(&gather.result)?;
    plan.view.assign(&gather.write(&plan.view.node(), &src, "set")?)
}

/// `x.index_put_(tensors, value, accumulate)`: `tensors[i]` indexes dim i.
pub fn put(x: &Tensor, items: &[Index], value: &Arg, accumulate: bool) -> Result<()> {
    if !accumulate {
        return set(x, items, value);
    }
    let run = || {
        let plan = basic(x, items)?;
        plan.view.check_inplace()?;
        let gather = Gather::new(&plan)?;
        gather.check()?;
        let device = place::common(&[Arg::from(x), value.clone()])?;
        let src = ops::prepare(value, x.dtype(), &gather.result, device)?;
        plan.view.assign(&gather.write(&plan.view.node(), &src, "add")?)
    };
    located(run(), x)
}

fn basic(x: &Tensor, items: &[Index]) -> Result<Plan> {
    let used: usize = items
        .iter()
        .map(|i| match i {
            Index::Int(_) | Index::Slice(..) => 1,
            Index::Tensor(t) if t.dtype() == DType::Bool => t.rank(),
            Index::Tensor(_) => 1,
            _ => 0,
        })
        .sum();
    let rank = x.rank();
    if used > rank {
        return Err(Error::index(format!("too many indices for tensor of dimension {rank}")));
    }
    if items.iter().filter(|i| matches!(i, Index::Ellipsis)).count() > 1 {
        return Err(Error::index("an index can only have a single ellipsis ('...')"));
    }
    let mut build = Build { shape: x.shape(), ..Build::default() };
    for item in items {
        build.item(item, rank - used)?;
    }
    build.finish(x)
}

#[derive(Default)]
struct Build {
    shape: Shape,
    // Position in `shape`.
    at: usize,
    starts: Ints,
    stops: Ints,
    steps: Ints,
    // Shape after slicing, before ints are dropped and new dims put in; then the final shape.
    sliced: Vec<usize>,
    last: Vec<usize>,
    tensors: Vec<(usize, Tensor)>,
    plain: bool,
}

impl Build {
    fn keep(&mut self) {
        let d = self.shape[self.at];
        self.range(0, d as i64, 1);
        self.last.push(d);
    }

    fn range(&mut self, start: i64, stop: i64, step: i64) {
        self.starts.push(start);
        self.stops.push(stop);
        self.steps.push(step);
        self.sliced.push(((stop - start).max(0) as usize).div_ceil(step as usize));
        self.plain |= start != 0 || step != 1 || stop != self.shape[self.at] as i64;
        self.at += 1;
    }

    fn item(&mut self, item: &Index, room: usize) -> Result<()> {
        match item {
            Index::Int(i) => {
                let size = self.shape[self.at] as i64;
                if *i < -size || *i >= size {
                    return Err(Error::index(format!(
                        "index {i} is out of bounds for dimension {} with size {size}",
                        self.at
                    )));
                }
                let i = if *i < 0 { i + size } else { *i };
                self.range(i, i + 1, 1);
            }
            Index::Slice(start, stop, step) => {
                let size = self.shape[self.at] as i64;
                let step = step.unwrap_or(1);
                if step <= 0 {
                    return Err(Error::value("step must be greater than zero"));
                }
                let bound = |v: i64| if v < 0 { (v.saturating_add(size)).max(0) } else { v.min(size) };
                let start = bound(start.unwrap_or(0));
                let stop = bound(stop.unwrap_or(size)).max(start);
                self.range(start, stop, step.min(size.max(1)));
                let n = self.sliced[self.sliced.len() - 1];
                self.last.push(n);
            }
            Index::NewDim => self.last.push(1),
            Index::Bool(b) => {
                let index = if *b { vec![0i64] } else { vec![] };
                self.tensors.push((self.last.len(), positions(&index)?));
                self.last.push(1);
            }
            Index::Ellipsis => (0..room).for_each(|_| self.keep()),
            Index::Tensor(t) => {
                let dims = if t.dtype() == DType::Bool { t.rank() } else { 1 };
                if t.dtype() == DType::Bool && t.rank() == 0 {
                    return self.scalar_mask(t);
                }
                self.tensors.push((self.last.len(), t.clone()));
                (0..dims).for_each(|_| self.keep());
            }
        }
        Ok(())
    }

    fn scalar_mask(&mut self, t: &Tensor) -> Result<()> {
        self.tensors.push((self.last.len(), Tensor::new(nonzero(t)?.remove(0))));
        self.last.push(1);
        Ok(())
    }

    fn finish(mut self, x: &Tensor) -> Result<Plan> {
        while self.at < self.shape.rank() {
            self.keep();
        }
        let mut view = x.clone();
        if self.plain {
            view = view.view(Step::Slice { starts: self.starts, stops: self.stops, steps: self.steps })?;
        }
        if self.sliced != self.last || view.same(x) {
            let (from, to) = (Shape::of(&self.sliced), Shape::new(&self.last)?);
            view = view.view(Step::Reshape { from, to })?;
        }
        Ok(Plan { view, tensors: self.tensors })
    }
}

// An index on the device of what it indexes; it may come from the CPU.
fn beside(index: &Tensor, device: Device) -> Result<NodeRef> {
    let node = index.node();
    if node.device != device && node.device != Device::Cpu {
        return Err(Error::device(format!(
            "indices should be either on cpu or on the same device as the indexed tensor ({device}), but found {}",
            node.device
        )));
    }
    ops::to_device(&node, device)
}

fn positions(index: &[i64]) -> Result<Tensor> {
    let ty = Type::new(DType::I64, Shape::of(&[index.len()]));
    let bytes: Vec<u8> = index.iter().flat_map(|i| i.to_le_bytes()).collect();
    let node = ops::apply_on(
        Some(Device::Cpu),
        ops::find("constant")?,
        &[],
        smallvec![Attr::Bytes(bytes.into()), ty.dtype.into(), ty.shape.dims().into()],
    )?;
    Ok(Tensor::new(node))
}

fn check_mask(shape: &Shape, dim: usize, mask: &Shape) -> Result<()> {
    for i in 0..mask.rank() {
        if shape[dim + i] != mask[i] {
            return Err(Error::index(format!(
                "The shape of the mask {mask} at index {i} does not match the shape of the indexed tensor {shape} at \
                 index {}",
                dim + i
            )));
        }
    }
    Ok(())
}

/// The positions of true (or nonzero) elements, one i64 vector per dim; reads the tensor.
pub fn nonzero(mask: &Tensor) -> Result<Vec<NodeRef>> {
    trace::before_read(mask, "the positions of true elements (x[mask], nonzero)")?;
    realise::realise(std::slice::from_ref(mask))?;
    let node = mask.node();
    let buffer = trace::realised(&node)?;
    let session = crate::session::get()?;
    let copied;
    let bytes = match buffer.host_bytes() {
        Some(bytes) => bytes,
        None => {
            copied = session.download(&*buffer)?;
            &copied
        }
    };
    let (size, shape, float) = (node.ty.dtype.size(), &node.ty.shape, node.ty.dtype.is_float());
    let rank = shape.rank().max(1);
    let strides = shape.strides();
    let mut out: Vec<Vec<u8>> = vec![Vec::new(); rank];
    for (i, element) in bytes.chunks_exact(size).enumerate() {
        // -0.0 is zero too.
        let last = element[size - 1] & if float { 0x7f } else { 0xff };
        if element[..size - 1].iter().all(|&b| b == 0) && last == 0 {
            continue;
        }
        for (d, list) in out.iter_mut().enumerate() {
            let p = if shape.rank() == 0 { 0 } else { i as i64 / strides[d] % shape[d] as i64 };
            list.extend_from_slice(&p.to_le_bytes());
        }
    }
    let count = out[0].len() / 8;
    let ty = Type::new(DType::I64, Shape::of(&[count]));
    out.iter()
        .map(|bytes| {
            let buffer = session.upload_to(node.device, &ty, bytes)?;
            Ok(crate::node::Node::data(ty.clone(), buffer, crate::node::Grad::None))
        })
        .collect()
}

// How index tensors select from a view: the indexed dims are brought together and merged into one, which a
// vector of linear positions indexes.
struct Gather {
    // The view's dims with the indexed ones together, starting at `first`.
    order: Ints,
    first: usize,
    merged: Shape,
    permuted: Shape,
    index: NodeRef,
    // Of several index tensors, each with the dim that it indexes and that dim's size.
    several: Vec<(NodeRef, usize, usize)>,
    spread: Shape,
    result: Shape,
}

impl Gather {
    fn new(plan: &Plan) -> Result<Gather> {
        let (shape, device) = (plan.view.shape(), plan.view.device());
        let mut dims: Vec<usize> = Vec::new();
        let mut lists: Vec<NodeRef> = Vec::new();
        for (dim, t) in &plan.tensors {
            if t.dtype() == DType::Bool {
                check_mask(&shape, *dim, &t.shape())?;
                for (k, list) in nonzero(t)?.into_iter().enumerate() {
                    dims.push(dim + k);
                    lists.push(beside(&Tensor::new(list), device)?);
                }
            } else if t.dtype().is_int() {
                dims.push(*dim);
                lists.push(ops::cast(&beside(t, device)?, DType::I64)?);
            } else {
                return Err(Error::index("tensors used as indices must be long, int, short, byte or bool tensors"));
            }
        }
        let mut spread = Shape::scalar();
        for list in &lists {
            spread = Shape::broadcast(&spread, &list.ty.shape).map_err(|_| {
                let shapes: Vec<String> = lists.iter().map(|l| l.ty.shape.to_string()).collect();
                Error::index(format!(
                    "shape mismatch: indexing tensors could not be broadcast together with shapes {}",
                    shapes.join(", ")
                ))
            })?;
        }
        let together = dims.windows(2).all(|w| w[1] == w[0] + 1);
        let first = if together { dims[0] } else { 0 };
        let rest: Vec<usize> = (0..shape.rank()).filter(|d| !dims.contains(d)).collect();
        let mut order: Vec<usize> = rest.clone();
        order.splice(first..first, dims.iter().copied());
        let permuted: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        let size: usize = dims.iter().map(|&d| shape[d]).product();
        let around = |middle: &[usize]| {
            let mut s: Vec<usize> = rest.iter().map(|&d| shape[d]).collect();
            s.splice(first..first, middle.iter().copied());
            Shape::new(&s)
        };
        let sizes: Vec<usize> = dims.iter().map(|&d| shape[d]).collect();
        let index = linear(&lists, &sizes, &spread)?;
        let several = if lists.len() > 1 {
            lists.into_iter().zip(dims.iter().zip(&sizes)).map(|(list, (&dim, &size))| (list, dim, size)).collect()
        } else {
            Vec::new()
        };
        Ok(Gather {
            order: order.iter().map(|&d| d as i64).collect(),
            first,
            merged: around(&[size])?,
            permuted: Shape::of(&permuted),
            index,
            several,
            result: around(&spread)?,
            spread: around(&[spread.numel()])?,
        })
    }

    // Before a write. One index tensor alone is checked with the op that takes it.
    fn check(&self) -> Result<()> {
        self.several.iter().try_for_each(|(list, dim, size)| known::check(list, *size, *dim, true))
    }

    fn together(&self, x: &NodeRef) -> Result<NodeRef> {
        let x = permute(x, &self.order)?;
        ops::reshape(&x, &self.merged)
    }

    fn read(&self, x: &NodeRef) -> Result<NodeRef> {
        let attrs: Attrs = smallvec![Attr::Int(self.first as i64)];
        let taken = ops::apply_named("take", &[self.together(x)?, self.index.clone()], attrs)?;
        ops::reshape(&taken, &self.result)
    }

    fn write(&self, x: &NodeRef, src: &NodeRef, mode: &str) -> Result<NodeRef> {
        let src = ops::reshape(src, &self.spread)?;
        let attrs: Attrs = smallvec![Attr::Int(self.first as i64), mode.into()];
        let put = ops::apply_named("index_put", &[self.together(x)?, self.index.clone(), src], attrs)?;
        let back = ops::reshape(&put, &self.permuted)?;
        let mut inverse = Ints::from_elem(0, self.order.len());
        for (i, &d) in self.order.iter().enumerate() {
            inverse[d as usize] = i as i64;
        }
        permute(&back, &inverse)
    }
}

fn permute(x: &NodeRef, order: &Ints) -> Result<NodeRef> {
    if order.iter().enumerate().all(|(i, &d)| i as i64 == d) {
        return Ok(x.clone());
    }
    ops::apply_named("permute", std::slice::from_ref(x), smallvec![Attr::Ints(order.clone())])
}

// One position per selected element, row-major over the indexed dims. An index out of range in any dim gives
// a position out of range of the whole, which the library call reports.
fn linear(lists: &[NodeRef], sizes: &[usize], spread: &Shape) -> Result<NodeRef> {
    let flat = Shape::of(&[spread.numel()]);
    let spread_out = |n: &NodeRef| ops::reshape(&ops::broadcast_to(n, spread)?, &flat);
    if let [only] = lists {
        return spread_out(only);
    }
    let device = lists.first().map_or_else(Device::default, |l| l.device);
    let number = |v: i64| ops::full(Scalar::Int(v), DType::I64, &flat, device);
    let two = |name: &str, a: &NodeRef, b: &NodeRef| ops::apply_named(name, &[a.clone(), b.clone()], Attrs::new());
    let mut position: Option<NodeRef> = None;
    let mut valid: Option<NodeRef> = None;
    for (list, &size) in lists.iter().zip(sizes) {
        let raw = spread_out(list)?;
        let n = number(size as i64)?;
        let negative = two("lt", &raw, &number(0)?)?;
        let index = ops::apply_named("select", &[negative, two("add", &raw, &n)?, raw], Attrs::new())?;
        let ok = two("bitwise_and", &two("ge", &index, &number(0)?)?, &two("lt", &index, &n)?)?;
        position = Some(match &position {
            Some(p) => two("add", &two("mul", p, &n)?, &index)?,
            None => index,
        });
        valid = Some(match &valid {
            Some(v) => two("bitwise_and", v, &ok)?,
            None => ok,
        });
    }
    match (position, valid) {
        (Some(p), Some(v)) => ops::apply_named("select", &[v, p, number(i64::MAX)?], Attrs::new()),
        _ => Err(Error::internal("no index tensors")),
    }
}
