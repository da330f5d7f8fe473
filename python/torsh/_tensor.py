"""Attaches the Python-side methods to `torsh.Tensor`: one list of names per function module."""

from __future__ import annotations

from torsh import _C
from torsh._fn import creation, indexing, linalg, pointwise, random, reduce, shape, sorting
from torsh._fn._args import number_arg, store, tensor_arg

Tensor = _C.Tensor

_METHODS = {
    creation: "clone",
    reduce: "sum nansum prod mean nanmean var std amax amin aminmax argmax argmin max min any all count_nonzero "
    "logsumexp norm cumsum cumprod cummax cummin median",
    shape: "reshape view view_as reshape_as flatten ravel unflatten permute transpose swapaxes swapdims t movedim "
    "moveaxis "
    "expand broadcast_to expand_as squeeze unsqueeze narrow select split chunk tensor_split unbind unfold flip fliplr "
    "flipud roll repeat tile repeat_interleave diagonal diag diag_embed",
    pointwise: "clamp clip clamp_min clamp_max add sub subtract div divide true_divide round logical_and logical_or "
    "logical_xor logical_not addcmul addcdiv lerp nan_to_num isclose allclose equal float_power sinc positive "
    "heaviside",
    indexing: "gather take_along_dim take index_select scatter scatter_add scatter_reduce index_add index_copy "
    "index_put index_fill masked_fill masked_select nonzero tril triu",
    sorting: "argsort sort topk kthvalue",
    linalg: "matmul mm bmm mv dot outer addmm addmv baddbmm trace",
    random: "bernoulli multinomial",
}

_INPLACE = {
    pointwise: "clamp clip clamp_min clamp_max add sub subtract div divide true_divide round logical_and logical_or "
    "logical_xor "
    "logical_not addcmul addcdiv lerp nan_to_num",
    indexing: "scatter scatter_add scatter_reduce index_add index_copy index_fill masked_fill tril triu",
    linalg: "addmm addmv baddbmm",
    reduce: "cumsum cumprod",
}


def _inplace(fn, name):
    def method(self, *args, **kwargs):
        return store(self, fn(self, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of `{name[:-1]}`."
    return method


# -- conversions -------------------------------------------------------------------------------------------


def _is_device(v) -> bool:
    return isinstance(v, _C.PyDevice) or (
        isinstance(v, str) and v.split(":")[0] in ("cpu", "cuda", "metal", "mps", "xpu", "meta")
    )


def to(self, *args, dtype=None, device=None, non_blocking: bool = False, copy: bool = False, memory_format=None):
    """`x.to(dtype)`, `x.to(device)`, `x.to(device, dtype)` or `x.to(other)`; x itself where nothing changes, unless
    `copy`. Gradients flow through. Copies between devices are asynchronous as far as the device allows, whatever
    `non_blocking` says.

    Raises: DeviceError for a device that is not there.

    >>> torsh.tensor([1.5]).to(torsh.int64).tolist()
    [1]
    """
    flags = 0
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a.dtype, a.device
        elif isinstance(a, _C.PyDType):
            dtype = a
        elif isinstance(a, _C.PyDevice):
            device = a
        elif isinstance(a, str):
            if _is_device(a):
                device = a
            else:
                try:
                    dtype = _C.PyDType(a)
                except ValueError:
                    device = _C.PyDevice(a)
        elif isinstance(a, bool):
            # By position: non_blocking, then copy.
            copy, flags = copy or (flags == 1 and a), flags + 1
        elif isinstance(a, int):
            device = _C.PyDevice(a)
        elif a is not None:
            raise TypeError(f"to(): expected a dtype, a device or a Tensor, got {type(a).__name__}")
    x = self
    if device is not None:
        x = _C.to_device(x, device)
    if dtype is not None:
        x = _C.cast(x, _C.PyDType(dtype))
    return _C.clone(x) if copy and x is self else x


def _caster(name, dtype):
    def method(self):
        return _C.cast(self, dtype)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Converts to {dtype.name}."
    return method


def type_(self, dtype=None, non_blocking: bool = False):
    """Without an argument the type's name, else a conversion."""
    return f"torsh.{self.dtype.name}" if dtype is None else _C.cast(self, _C.PyDType(dtype))


def type_as(self, other):
    """Converts to the dtype of `other`."""
    return _C.cast(self, tensor_arg(other, "type_as", "other").dtype)


def cpu(self, memory_format=None):
    """The tensor on the CPU; itself where it is there."""
    return _C.to_device(self, "cpu")


def cuda(self, device=None, non_blocking: bool = False, memory_format=None):
    """The tensor on a CUDA device: a number, a device, or None for the current one.

    Raises: DeviceError where it is not there.
    """
    device = _C.PyDevice("cuda" if device is None else device)
    if device.type != "cuda":
        raise RuntimeError(f"Invalid device, must be cuda device, got {device}")
    return _C.to_device(self, device)


def get_device(self) -> int:
    """Number of the tensor's CUDA device; -1 for the CPU."""
    return self._device_index()


def pin_memory(self, device=None):
    """The tensor itself: host memory for copies to a device is the runtime's business."""
    if self.device.type != "cpu":
        raise RuntimeError(f"cannot pin a tensor on {self.device}: only dense CPU tensors can be pinned")
    return self


def is_pinned(self, device=None) -> bool:
    """False: torsh pins no memory of tensors."""
    return False


def record_stream(self, stream) -> None:
    """Does nothing: a tensor's memory knows the streams that use it, and is not reused before they are done.

    Raises: TypeError for anything but a `torsh.cuda.Stream`; RuntimeError for a tensor of the CPU.
    """
    from torsh.cuda import Stream

    if not isinstance(stream, Stream):
        raise TypeError(f"record_stream(): stream must be of type torsh.cuda.Stream, not {type(stream).__name__}")
    if self.device.type != "cuda":
        raise RuntimeError(f"record_stream(): the tensor is on {self.device}, which has no streams")


# -- facts -------------------------------------------------------------------------------------------------


_is_contiguous = _C.Tensor.is_contiguous


def is_contiguous(self, memory_format=None) -> bool:
    """Whether the elements lie in row-major order without gaps."""
    return _is_contiguous(self)


def contiguous(self, memory_format=None):
    """The tensor itself where it is contiguous, else a copy."""
    return self if _is_contiguous(self) else _C.clone(self)


def is_floating_point(self) -> bool:
    """Whether the dtype is a float."""
    return self.dtype.is_floating_point


def is_complex(self) -> bool:
    """False: torsh has no complex dtypes."""
    return False


def is_same_size(self, other) -> bool:
    """Whether the shapes are equal."""
    return self.shape == tensor_arg(other, "is_same_size", "other").shape


# -- writes ------------------------------------------------------------------------------------------------


def copy_(self, src, non_blocking: bool = False):
    """Overwrites the values with those of `src`, broadcast, converted and brought from its device."""
    if not isinstance(src, Tensor):
        raise TypeError(f"copy_(): argument 'src' must be Tensor, not {type(src).__name__}")
    return _C.assign(self, _C.cast(src, self.dtype))


def fill_(self, value):
    """Overwrites all values with one number."""
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(f"fill_ only supports 0-dimension value tensor but got tensor with {value.ndim} dimensions.")
    v = (
        value
        if isinstance(value, Tensor)
        else _C.full([], number_arg(value, "fill_", "value"), self.dtype, self.device)
    )
    return _C.assign(self, _C.cast(v, self.dtype))


def zero_(self):
    """Overwrites all values with 0."""
    return fill_(self, 0)


def fill_diagonal_(self, value):
    """Overwrites the diagonal of a matrix."""
    if self.ndim != 2:
        raise RuntimeError(f"fill_diagonal_(): expected a matrix, got shape {list(self.shape)}")
    return _C.assign(
        self,
        pointwise.where(
            creation.eye(*self.shape, dtype=_C.bool, device=self.device),
            _C.full([], value, self.dtype, self.device),
            self,
        ),
    )


def uniform_(self, a: float = 0.0, b: float = 1.0, *, generator=None):
    """Overwrites with uniform numbers in [a, b)."""
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    return _C.assign(self, random.rand_like(self, generator=generator) * (b - a) + a)


def normal_(self, mean: float = 0.0, std: float = 1.0, *, generator=None):
    """Overwrites with normal numbers."""
    if std < 0:
        raise RuntimeError(f"normal_ expects std >= 0.0, but found std {std}")
    return _C.assign(self, random.randn_like(self, generator=generator) * std + mean)


def bernoulli_(self, p: float = 0.5, *, generator=None):
    """Overwrites with 0 and 1, 1 with probability p."""
    return _C.assign(self, random.bernoulli(self, p, generator=generator))


def random_(self, low=0, high=None, *, generator=None):
    """Overwrites with integers in [low, high); `random_(n)` is [0, n)."""
    if high is None:
        low, high = 0, low or 2 ** min(8 * self.dtype.itemsize - 1, 24)
    drawn = random.randint(low, high, list(self.shape), dtype=self.dtype, generator=generator, device=self.device)
    return _C.assign(self, drawn)


def _view_setter(name):
    def method(self, *args):
        raise RuntimeError(
            f"{name}() would change the shape of a tensor in place, which torsh's graph does not do; "
            f"assign the result instead: x = x.{name[:-1]}(...)"
        )

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"Refused with the way out: use `{name[:-1]}`."
    return method


# -- creation in the image of a tensor ----------------------------------------------------------------------


def new_tensor(self, data, *, dtype=None, device=None, requires_grad: bool = False):
    """`torsh.tensor(data)` with this tensor's dtype and device."""
    return _C.tensor(data, dtype or self.dtype, self.device if device is None else device, requires_grad)


def new_full(self, size, fill_value, *, dtype=None, device=None, requires_grad: bool = False):
    """`torsh.full` with this tensor's dtype and device."""
    return creation.full(
        size,
        fill_value,
        dtype=dtype or self.dtype,
        device=self.device if device is None else device,
        requires_grad=requires_grad,
    )


def new_zeros(self, *size, dtype=None, device=None, requires_grad: bool = False):
    """`torsh.zeros` with this tensor's dtype and device."""
    return creation.zeros(
        *size, dtype=dtype or self.dtype, device=self.device if device is None else device, requires_grad=requires_grad
    )


def new_ones(self, *size, dtype=None, device=None, requires_grad: bool = False):
    """`torsh.ones` with this tensor's dtype and device."""
    return creation.ones(
        *size, dtype=dtype or self.dtype, device=self.device if device is None else device, requires_grad=requires_grad
    )


def new_empty(self, *size, dtype=None, device=None, requires_grad: bool = False):
    """`torsh.empty` with this tensor's dtype and device."""
    return creation.empty(
        *size, dtype=dtype or self.dtype, device=self.device if device is None else device, requires_grad=requires_grad
    )


# -- operators that Python functions provide -----------------------------------------------------------------


def __contains__(self, item) -> bool:
    return bool((self == item).any())


def __deepcopy__(self, memo):
    from copy import deepcopy

    if not self.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment"
        )
    new = _C.clone(self.detach())
    if type(self) is not Tensor:
        new = type(self)(new)
    new.requires_grad_(self.requires_grad)
    if self.grad is not None:
        new.grad = deepcopy(self.grad, memo)
    memo[id(self)] = new
    return new


def __reduce_ex__(self, protocol):
    raise TypeError("torsh tensors are not pickled; use torsh.save / torsh.load (safetensors), or x.numpy()")


def softmax(self, dim=None, dtype=None):
    """See `torsh.nn.functional.softmax`."""
    from torsh.nn import functional as F

    return F.softmax(self, dim, dtype=dtype)


def log_softmax(self, dim=None, dtype=None):
    """See `torsh.nn.functional.log_softmax`."""
    from torsh.nn import functional as F

    return F.log_softmax(self, dim, dtype=dtype)


def where(self, condition, other):
    """`self` where `condition` holds, else `other`."""
    return pointwise.where(condition, self, other)


def relu(self):
    """See `torsh.nn.functional.relu`."""
    from torsh.nn import functional as F

    return F.relu(self)


def index_put_(self, indices, values, accumulate: bool = False):
    """Writes (or, with `accumulate`, adds) values at `x[indices]`, in place; see `index_put`."""
    return indexing._put(self, indices, values, accumulate, "index_put_")


def relu_(self):
    """In-place `relu`."""
    return _C.assign(self, relu(self))


def apply_methods(registry_methods: dict) -> None:
    """Sets every method on the class; hand-written ones win over those that follow from the registry."""
    for name, fn in registry_methods.items():
        setattr(Tensor, name, fn)
    for module, names in _METHODS.items():
        for name in names.split():
            setattr(Tensor, name, getattr(module, name))
    for module, names in _INPLACE.items():
        for name in names.split():
            setattr(Tensor, name + "_", _inplace(getattr(module, name), name + "_"))
    for name in "unsqueeze squeeze transpose t reshape resize swapaxes".split():
        setattr(Tensor, name + "_", _view_setter(name + "_"))
    for name, dtype in (
        ("float", _C.float32), ("double", _C.float64), ("half", _C.float16), ("bfloat16", _C.bfloat16),
        ("int", _C.int32), ("long", _C.int64), ("short", _C.int16), ("char", _C.int8), ("byte", _C.uint8), ("bool",
        _C.bool),
    ):  # fmt: skip
        setattr(Tensor, name, _caster(name, dtype))
    own = (
        to, type_as, cpu, cuda, get_device, pin_memory, is_pinned, record_stream, is_contiguous, contiguous,
        is_floating_point, is_complex, is_same_size, copy_, fill_, zero_, fill_diagonal_, uniform_, normal_, bernoulli_,
        random_, new_tensor, new_full, new_zeros, new_ones, new_empty, __contains__, __deepcopy__, __reduce_ex__,
        softmax, log_softmax, relu, relu_, index_put_, where,
    )  # fmt: skip
    for fn in own:
        setattr(Tensor, fn.__name__, fn)
    Tensor.type = type_
    Tensor.ndimension = Tensor.dim
    Tensor.nelement = Tensor.numel
    Tensor.T = property(lambda self: self.permute(tuple(reversed(range(self.ndim)))), doc="All dims reversed.")
    Tensor.mT = property(_matrix_transpose, doc="The last two dims swapped.")
    Tensor.is_sparse = property(lambda self: False, doc="Always false.")


def _matrix_transpose(self):
    if self.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {self.ndim}-D tensor.")
    return self.transpose(-2, -1)
