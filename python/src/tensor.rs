//! `torsh.Tensor`: properties, conversion, autograd, indexing. The operators' bodies are in `number.rs`.

use crate::convert::{self, need_tensor};
use crate::errors::{OrRaise, guarded};
use crate::number::{Any, forward, inplace, reflected, unary};
use crate::{device, dtype, index, source};
use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyTuple};
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};
use torsh_frontend::{Arg, Tensor, grad, ops};
use torsh_ir::Scalar;
use torsh_ir::exec::{Device, DeviceKind};

/// A multi-dimensional array of one dtype.
#[pyclass(name = "Tensor", module = "torsh", subclass, weakref, dict, frozen)]
pub struct PyTensor {
    /// The handle.
    pub t: Tensor,
    // The object last given out as `.grad`, so that `x.grad is x.grad`.
    grad: Mutex<Option<Py<PyTensor>>>,
}

impl Drop for PyTensor {
    fn drop(&mut self) {
        // The objects of a chain of gradients are released one after the other, not each within the one before.
        thread_local!(static QUEUE: RefCell<Option<Vec<Py<PyTensor>>>> = const { RefCell::new(None) });
        let Some(first) = self.grad.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let turn = QUEUE.try_with(|queue| match &mut *queue.borrow_mut() {
            Some(waiting) => {
                waiting.push(first);
                None
            }
            empty @ None => {
                *empty = Some(Vec::new());
                Some(first)
            }
        });
        let Ok(mut next) = turn else { return };
        while let Some(object) = next {
            drop(object);
            next = QUEUE.with(|queue| {
                let mut queue = queue.borrow_mut();
                let last = queue.as_mut().and_then(Vec::pop);
                if last.is_none() {
                    *queue = None;
                }
                last
            });
        }
    }
}

static HOOKS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// Keeps Python objects that the core calls back into: `size` (the class of shapes).
pub fn hooks(py: Python<'_>) -> &Bound<'_, PyDict> {
    HOOKS.get_or_init(py, || PyDict::new(py).unbind()).bind(py)
}

impl From<Tensor> for PyTensor {
    fn from(t: Tensor) -> PyTensor {
        PyTensor { t, grad: Mutex::new(None) }
    }
}

/// A Python tensor of a handle.
pub fn wrap(py: Python<'_>, t: Tensor) -> PyResult<Py<PyTensor>> {
    Py::new(py, PyTensor::from(t))
}

/// The shape as `torsh.Size`.
pub fn size<'py>(py: Python<'py>, dims: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    let tuple = PyTuple::new(py, dims)?;
    match hooks(py).get_item("size")? {
        Some(class) => class.call1((tuple,)),
        None => Ok(tuple.into_any()),
    }
}

#[pymethods]
impl PyTensor {
    #[new]
    #[pyo3(signature = (data = None, *, dtype = None, device = None, requires_grad = false))]
    fn new(
        py: Python<'_>,
        data: Option<&Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
        device: Option<&Bound<'_, PyAny>>,
        requires_grad: bool,
    ) -> PyResult<PyTensor> {
        source::enter(py);
        let own = data.and_then(|d| Some(d.cast::<PyTensor>().ok()?.get().t.device()));
        let device = match own {
            Some(own) if device.is_none_or(|d| d.is_none()) => own,
            _ => device::resolve(py, device)?,
        };
        let dtype = dtype.filter(|d| !d.is_none()).map(dtype::extract).transpose()?;
        let t = match data.filter(|d| !d.is_none()) {
            Some(d) => match d.cast::<PyTensor>() {
                Ok(t) if dtype.is_none_or(|d| d == t.get().t.dtype()) && own == Some(device) => {
                    return Ok(Tensor::adopt(&t.get().t, requires_grad).or_raise()?.into());
                }
                _ => convert::tensor(d, dtype, device)?,
            },
            None => convert::tensor(PyList::empty(py).as_any(), dtype, device)?,
        };
        if requires_grad {
            t.set_requires_grad(true).or_raise()?;
        }
        Ok(t.into())
    }

    fn __traverse__(&self, visit: pyo3::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        match self.grad.try_lock() {
            Ok(grad) => visit.call(&*grad),
            Err(_) => Ok(()),
        }
    }
    fn __clear__(&self) {
        if let Ok(mut grad) = self.grad.try_lock() {
            *grad = None;
        }
    }

    /// Sizes of the dims.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        size(py, &self.t.shape())
    }
    /// Sizes, or the size of one dim.
    #[pyo3(signature = (dim = None))]
    fn size<'py>(&self, py: Python<'py>, dim: Option<i64>) -> PyResult<Bound<'py, PyAny>> {
        let shape = self.t.shape();
        match dim {
            None => size(py, &shape),
            Some(d) => {
                if shape.rank() == 0 {
                    return Err(PyIndexError::new_err("Dimension specified as 0 but tensor has no dimensions"));
                }
                Ok(shape[shape.dim(d).or_raise()?].into_pyobject(py)?.into_any())
            }
        }
    }
    /// The type of the elements.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> Py<dtype::PyDType> {
        dtype::singleton(py, self.t.dtype())
    }
    /// Where the elements live.
    #[getter]
    fn device(&self, py: Python<'_>) -> PyResult<Py<device::PyDevice>> {
        device::object(py, self.t.device())
    }
    /// Number of the CUDA device; -1 for the CPU.
    fn _device_index(&self) -> i64 {
        match self.t.device() {
            Device::Cuda(i) => i64::from(i),
            Device::Cpu | Device::Metal => -1,
        }
    }
    /// Whether the elements live on a CUDA device.
    #[getter]
    fn is_cuda(&self) -> bool {
        self.t.device().kind() == DeviceKind::Cuda
    }
    /// Whether the elements live on the CPU.
    #[getter]
    fn is_cpu(&self) -> bool {
        self.t.device() == Device::Cpu
    }
    /// Number of dims.
    #[getter]
    fn ndim(&self) -> usize {
        self.t.rank()
    }
    /// Number of dims.
    fn dim(&self) -> usize {
        self.t.rank()
    }
    /// Number of elements.
    fn numel(&self) -> usize {
        self.t.shape().numel()
    }
    /// Bytes per element.
    fn element_size(&self) -> usize {
        self.t.dtype().size()
    }
    /// Bytes of one element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.t.dtype().size()
    }
    /// Bytes of all elements.
    #[getter]
    fn nbytes(&self) -> usize {
        self.t.ty().nbytes()
    }
    /// Whether operations on this tensor record gradients.
    #[getter]
    fn requires_grad(&self) -> bool {
        self.t.requires_grad()
    }
    #[setter]
    fn set_requires_grad(&self, py: Python<'_>, on: bool) -> PyResult<()> {
        source::enter(py);
        self.t.set_requires_grad(on).or_raise()
    }
    /// Sets `requires_grad` and returns the tensor.
    #[pyo3(signature = (requires_grad = true))]
    fn requires_grad_<'py>(slf: &Bound<'py, Self>, requires_grad: bool) -> PyResult<Bound<'py, Self>> {
        slf.get().set_requires_grad(slf.py(), requires_grad)?;
        Ok(slf.clone())
    }
    /// Whether no recorded operation made this tensor.
    #[getter]
    fn is_leaf(&self) -> bool {
        self.t.is_leaf()
    }
    /// A name for the operation that made this tensor, or None for a leaf.
    #[getter]
    fn grad_fn(&self) -> Option<String> {
        let node = self.t.node();
        (node.requires_grad() && !self.t.is_leaf()).then(|| format!("<{}Backward>", node.op.name))
    }
    /// The gradient that `backward` has accumulated, or None.
    #[getter]
    fn grad(&self, py: Python<'_>) -> PyResult<Option<Py<PyTensor>>> {
        let known = || self.grad.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(g) = self.t.grad() else {
            let old = known().take();
            drop(old);
            return Ok(None);
        };
        let cached = known().as_ref().map(|o| o.clone_ref(py));
        if let Some(object) = cached
            && object.get().t.same(&g)
        {
            return Ok(Some(object));
        }
        let object = wrap(py, g)?;
        let old = known().replace(object.clone_ref(py));
        drop(old);
        Ok(Some(object))
    }
    #[setter]
    fn set_grad(&self, py: Python<'_>, value: Option<Bound<'_, PyTensor>>) -> PyResult<()> {
        source::enter(py);
        self.t.set_grad(value.as_ref().map(|v| v.get().t.clone())).or_raise()?;
        *self.grad.lock().unwrap_or_else(PoisonError::into_inner) = value.map(Bound::unbind);
        Ok(())
    }
    /// Keeps `.grad` of a tensor that is not a leaf.
    fn retain_grad(&self) -> PyResult<()> {
        self.t.retain_grad().or_raise()
    }
    /// Accumulates gradients into the leaves.
    #[pyo3(signature = (gradient = None, retain_graph = None, create_graph = false, inputs = None))]
    fn backward(
        &self,
        py: Python<'_>,
        gradient: Option<&Bound<'_, PyAny>>,
        retain_graph: Option<bool>,
        create_graph: bool,
        inputs: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        source::enter(py);
        let gradient = gradient.filter(|g| !g.is_none()).map(|g| need_tensor(g, "backward")).transpose()?;
        let inputs = inputs.filter(|i| !i.is_none()).map(tensors).transpose()?;
        let options = grad::Options { create_graph, retain_graph: retain_graph.unwrap_or(create_graph) };
        let run = || grad::backward(std::slice::from_ref(&self.t), &[gradient], inputs.as_deref(), options);
        crate::errors::guarded(run).or_raise()?;
        convert::settle(py)?;
        Ok(())
    }
    /// The same memory without gradient.
    fn detach(&self, py: Python<'_>) -> PyResult<PyTensor> {
        source::enter(py);
        Ok(self.t.detach().or_raise()?.into())
    }
    /// Cuts this tensor from its history.
    fn detach_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().t.cut_history();
        Ok(slf.clone())
    }
    /// The value without gradient, sharing memory.
    #[getter]
    fn data(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.detach(py)
    }
    #[setter]
    fn set_data(&self, py: Python<'_>, value: &Bound<'_, PyTensor>) -> PyResult<()> {
        source::enter(py);
        self.t.set_data(&value.get().t).or_raise()
    }
    /// A number that changes at every in-place write.
    #[getter]
    fn _version(&self) -> u64 {
        self.t.version()
    }
    #[getter]
    fn _base(&self, py: Python<'_>) -> PyResult<Option<Py<PyTensor>>> {
        if self.t.is_view() { Ok(Some(wrap(py, self.t.root())?)) } else { Ok(None) }
    }
    /// True when this is a view of another tensor.
    fn _is_view(&self) -> bool {
        self.t.is_view()
    }
    /// Strides in elements.
    #[pyo3(signature = (dim = None))]
    fn stride<'py>(&self, py: Python<'py>, dim: Option<i64>) -> PyResult<Bound<'py, PyAny>> {
        let strides = self.t.layout().strides;
        match dim {
            None => Ok(PyTuple::new(py, &strides)?.into_any()),
            Some(d) => match strides.get(self.t.shape().dim(d).or_raise()?) {
                Some(stride) => Ok(stride.into_pyobject(py)?.into_any()),
                None => Err(PyIndexError::new_err("Dimension specified as 0 but tensor has no dimensions")),
            },
        }
    }
    /// Offset of the first element in the memory of the base.
    fn storage_offset(&self) -> i64 {
        self.t.layout().offset
    }
    /// True when elements lie in row-major order without gaps.
    fn is_contiguous(&self) -> bool {
        self.t.layout().is_contiguous(&self.t.shape())
    }

    /// The only element as a Python number.
    fn item(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        source::enter(py);
        convert::to_python(py, convert::item(py, &self.t, "item()")?)
    }
    /// Nested lists of Python numbers.
    fn tolist(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        source::enter(py);
        convert::tolist(py, &self.t)
    }
    /// A NumPy array of its own memory.
    #[pyo3(signature = (*, force = false))]
    fn numpy<'py>(&self, py: Python<'py>, force: bool) -> PyResult<Bound<'py, PyAny>> {
        source::enter(py);
        if self.t.requires_grad() && !force {
            return Err(PyRuntimeError::new_err(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
            ));
        }
        let device = self.t.device();
        if device != Device::Cpu && !force {
            return Err(PyTypeError::new_err(format!(
                "can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory \
                 first."
            )));
        }
        convert::numpy(py, &self.t)
    }
    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if copy == Some(false) {
            return Err(pyo3::exceptions::PyValueError::new_err(
                "the array is always a copy; copy=False is not possible",
            ));
        }
        let array = self.numpy(py, false)?;
        match dtype.filter(|d| !d.is_none()) {
            Some(d) => array.call_method1("astype", (d,)),
            None => Ok(array),
        }
    }
    /// DLPack capsule of a copy.
    #[pyo3(signature = (**kwargs))]
    fn __dlpack__<'py>(slf: &Bound<'py, Self>, kwargs: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("torsh._C")?.getattr("to_dlpack")?.call((slf,), kwargs)
    }
    /// DLPack's numbers of the device: `(1, 0)` for the CPU, `(2, i)` for a CUDA device.
    fn __dlpack_device__(&self) -> (i32, i32) {
        match self.t.device() {
            Device::Cpu => (1, 0),
            Device::Cuda(i) => (2, i as i32),
            Device::Metal => (8, 0),
        }
    }
    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        source::enter(py);
        match self.t.shape().numel() {
            1 => Ok(match convert::item(py, &self.t, "bool()")? {
                Scalar::Float(x) => x != 0.0,
                other => other.as_i64() != 0,
            }),
            0 => Err(PyRuntimeError::new_err("Boolean value of Tensor with no values is ambiguous")),
            _ => Err(PyRuntimeError::new_err("Boolean value of Tensor with more than one value is ambiguous")),
        }
    }
    fn __float__(&self, py: Python<'_>) -> PyResult<f64> {
        source::enter(py);
        Ok(convert::item(py, &self.t, "float()")?.as_f64())
    }
    fn __int__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        source::enter(py);
        let value = convert::to_python(py, convert::item(py, &self.t, "int()")?)?;
        py.get_type::<PyInt>().call1((value,))
    }
    fn __index__(&self, py: Python<'_>) -> PyResult<i64> {
        source::enter(py);
        if self.t.dtype().is_float() {
            return Err(PyTypeError::new_err("only integer tensors of a single element can be converted to an index"));
        }
        if self.t.shape().numel() != 1 {
            return Err(PyTypeError::new_err("only integer tensors of a single element can be converted to an index"));
        }
        Ok(convert::item(py, &self.t, "an index")?.as_i64())
    }
    fn __complex__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.get_type::<pyo3::types::PyComplex>().call1((PyFloat::new(py, self.__float__(py)?),))
    }
    fn __len__(&self) -> PyResult<usize> {
        match self.t.shape().first() {
            Some(&n) => Ok(n),
            None => Err(PyTypeError::new_err("len() of a 0-d tensor")),
        }
    }
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        source::enter(py);
        let t = &slf.get().t;
        let Some(&n) = t.shape().first() else {
            return Err(PyTypeError::new_err("iteration over a 0-d tensor"));
        };
        let limit = torsh_ir::limits::get().max_nodes;
        if n as u64 > limit {
            let text =
                format!("iteration over {n} entries, more than the limit of {limit} nodes (torsh.limits.max_nodes)");
            return Err(crate::errors::raise(py, &torsh_ir::Error::limit(text)));
        }
        let items = (0..n)
            .map(|i| {
                wrap(py, torsh_frontend::index::get(t, &[torsh_frontend::index::Index::Int(i as i64)]).or_raise()?)
            })
            .collect::<PyResult<Vec<_>>>()?;
        Ok(PyList::new(py, items)?.try_iter()?.into_any())
    }
    fn __contains__(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let found = slf.as_any().eq(value);
        let equal = slf.as_any().rich_compare(value, pyo3::basic::CompareOp::Eq)?;
        match equal.cast::<PyTensor>() {
            Ok(e) => {
                let list = convert::tolist(slf.py(), &e.get().t)?;
                Ok(list.bind(slf.py()).repr()?.to_string().contains("True"))
            }
            Err(_) => found,
        }
    }
    fn __getitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        source::enter(py);
        let items = index::parse(key)?;
        let t = crate::errors::guarded(|| torsh_frontend::index::get(&self.t, &items)).or_raise()?;
        convert::settle(py)?;
        Ok(t.into())
    }
    fn __setitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        source::enter(py);
        let items = index::parse(key)?;
        let value = match convert::arg(value)? {
            Some(v) => v,
            None => torsh_frontend::Arg::Tensor(convert::tensor(value, None, self.t.device())?),
        };
        crate::errors::guarded(|| torsh_frontend::index::set(&self.t, &items, &value)).or_raise()?;
        convert::settle(py)?;
        Ok(())
    }
    fn __hash__(slf: &Bound<'_, Self>) -> isize {
        (slf.as_ptr() as isize) >> 4
    }
    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        source::enter(py);
        match py.import("torsh._repr") {
            Ok(module) => module.call_method1("tensor_repr", (slf,))?.extract(),
            Err(_) => {
                let list = convert::tolist(py, &slf.get().t)?;
                Ok(format!("tensor({})", list.bind(py).repr()?))
            }
        }
    }
    fn __format__(slf: &Bound<'_, Self>, spec: &str) -> PyResult<String> {
        let py = slf.py();
        if slf.get().t.rank() == 0 && !spec.is_empty() {
            let item = slf.get().item(py)?;
            return item.bind(py).call_method1("__format__", (spec,))?.extract();
        }
        Ok(slf.str()?.to_string())
    }
    fn __deepcopy__<'py>(slf: &Bound<'py, Self>, memo: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let key = slf.as_ptr() as usize;
        if let Some(found) = memo.get_item(key)? {
            return Ok(found);
        }
        let t = &slf.get().t;
        let copy = wrap(py, Tensor::new(ops::detach(&t.node())))?;
        let class = slf.get_type();
        let base = py.get_type::<PyTensor>();
        let copy = if class.is(&base) {
            let copy = copy.into_bound(py).into_any();
            if t.requires_grad() && t.is_leaf() {
                copy.setattr("requires_grad", true)?;
            }
            copy
        } else {
            let copy = class.call1((copy,))?;
            copy.setattr("requires_grad", t.requires_grad())?;
            copy
        };
        memo.set_item(key, &copy)?;
        Ok(copy)
    }

    fn __add__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "add", other)
    }
    fn __radd__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "add", other)
    }
    fn __iadd__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "add", other)
    }
    fn __sub__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "sub", other)
    }
    fn __rsub__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "sub", other)
    }
    fn __isub__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "sub", other)
    }
    fn __mul__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "mul", other)
    }
    fn __rmul__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "mul", other)
    }
    fn __imul__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "mul", other)
    }
    fn __truediv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "div", other)
    }
    fn __rtruediv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "div", other)
    }
    fn __itruediv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "div", other)
    }
    fn __floordiv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "floor_divide", other)
    }
    fn __rfloordiv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "floor_divide", other)
    }
    fn __ifloordiv__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "floor_divide", other)
    }
    fn __mod__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "remainder", other)
    }
    fn __rmod__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "remainder", other)
    }
    fn __imod__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "remainder", other)
    }
    fn __pow__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, modulo: &Bound<'_, PyAny>) -> PyResult<Any> {
        if !modulo.is_none() {
            return Ok(py.NotImplemented());
        }
        forward(self, py, "pow", other)
    }
    fn __rpow__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, modulo: &Bound<'_, PyAny>) -> PyResult<Any> {
        if !modulo.is_none() {
            return Ok(py.NotImplemented());
        }
        reflected(self, py, "pow", other)
    }
    fn __ipow__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, _modulo: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "pow", other)
    }
    fn __and__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "bitwise_and", other)
    }
    fn __rand__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "bitwise_and", other)
    }
    fn __iand__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "bitwise_and", other)
    }
    fn __or__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "bitwise_or", other)
    }
    fn __ror__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "bitwise_or", other)
    }
    fn __ior__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "bitwise_or", other)
    }
    fn __xor__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "bitwise_xor", other)
    }
    fn __rxor__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "bitwise_xor", other)
    }
    fn __ixor__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "bitwise_xor", other)
    }
    fn __lshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "bitwise_left_shift", other)
    }
    fn __rlshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "bitwise_left_shift", other)
    }
    fn __ilshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "bitwise_left_shift", other)
    }
    fn __rshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        forward(self, py, "bitwise_right_shift", other)
    }
    fn __rrshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        reflected(self, py, "bitwise_right_shift", other)
    }
    fn __irshift__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        inplace(self, py, "bitwise_right_shift", other)
    }
    fn __matmul__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        let Some(Arg::Tensor(other)) = convert::arg(other)? else { return Ok(py.NotImplemented()) };
        source::enter(py);
        Ok(wrap(py, guarded(|| ops::matmul(&self.t, &other)).or_raise()?)?.into_any())
    }
    fn __rmatmul__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Any> {
        let Some(Arg::Tensor(other)) = convert::arg(other)? else { return Ok(py.NotImplemented()) };
        source::enter(py);
        Ok(wrap(py, guarded(|| ops::matmul(&other, &self.t)).or_raise()?)?.into_any())
    }
    fn __neg__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        unary(self, py, "neg")
    }
    fn __pos__(&self) -> PyTensor {
        Tensor::new(self.t.node()).into()
    }
    fn __abs__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        unary(self, py, "abs")
    }
    fn __invert__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        unary(self, py, "bitwise_not")
    }
    fn __richcmp__(&self, py: Python<'_>, other: &Bound<'_, PyAny>, op: CompareOp) -> PyResult<Any> {
        let name = match op {
            CompareOp::Eq => "eq",
            CompareOp::Ne => "ne",
            CompareOp::Lt => "lt",
            CompareOp::Le => "le",
            CompareOp::Gt => "gt",
            CompareOp::Ge => "ge",
        };
        forward(self, py, name, other)
    }
}

/// Tensors out of one tensor or a sequence.
pub fn tensors(obj: &Bound<'_, PyAny>) -> PyResult<Vec<Tensor>> {
    if let Ok(t) = obj.cast::<PyTensor>() {
        return Ok(vec![t.get().t.clone()]);
    }
    obj.try_iter()?.map(|o| need_tensor(&o?, "a list of tensors")).collect()
}
