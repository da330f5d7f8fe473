"""Making tensors."""

from __future__ import annotations

import math

from torsh import _C

from ._args import DTypeError, ShapeError, Tensor, int_arg, number_arg, sizes_arg, tensor_arg

_default_dtype = _C.float32


def _finish(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x


def get_default_dtype():
    """The dtype of float tensors made without one: float32."""
    return _default_dtype


def set_default_dtype(dtype) -> None:
    """Only float32 can be the default; any other float dtype is refused, so that a program never
    computes silently in another precision than it asked for."""
    if _C.PyDType(dtype) != _C.float32:
        raise ValueError(f"torsh computes in float32 by default; pass dtype={dtype} where tensors are made")


def tensor(data, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data` (a number, nested lists, an array or a tensor).

    Ints give int64, floats float32, bools bool; arrays keep their dtype.

    Raises: ValueError for ragged or too deep lists, TypeError for objects that are not numbers.

    >>> torsh.tensor([[1, 2], [3, 4]]).shape
    torsh.Size([2, 2])
    """
    return _C.tensor(data, dtype, device, requires_grad)


def as_tensor(data, dtype=None, device=None) -> Tensor:
    """`data` itself when it is a tensor that fits already, else `torsh.tensor(data)`."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    return _C.tensor(data, dtype, device, False)


def from_numpy(array) -> Tensor:
    """A tensor with a copy of a NumPy array's elements and its dtype."""
    if type(array).__module__.split(".")[0] != "numpy":
        raise TypeError(f"from_numpy(): expected np.ndarray (got {type(array).__name__})")
    return _C.tensor(array, None, "cpu", False)


def from_dlpack(ext_tensor, *, device=None, copy=None) -> Tensor:
    """A tensor with a copy of what another library exports: an object with `__dlpack__` on the CPU, or an unused
    capsule. `numpy.from_dlpack(x)` and the like take torsh tensors in turn, as copies too: a consumer may write what it
    was given.

    Raises: BufferError for `copy=False`; TypeError for what is no DLPack export and for dtypes that torsh does not
    have.

    >>> import numpy
    >>> torsh.from_dlpack(numpy.arange(3)).tolist()
    [0, 1, 2]
    """
    if copy is not None and not copy:
        raise BufferError("from_dlpack(): torsh imports copies only; copy=False is not possible")
    x = _C.from_dlpack(ext_tensor)
    return x if device is None else _C.to_device(x, device)


def full(*args, dtype=None, device=None, requires_grad: bool = False, **kwargs) -> Tensor:
    """`torsh.full(size, fill_value)`: one number everywhere; its type chooses the dtype.

    >>> torsh.full((2,), 7).tolist()
    [7, 7]
    """
    if "size" in kwargs:
        args = (kwargs.pop("size"), *args)
    if "fill_value" in kwargs:
        args = (*args, kwargs.pop("fill_value"))
    if kwargs:
        raise TypeError(f"full() got an unexpected keyword argument '{next(iter(kwargs))}'")
    if len(args) != 2:
        raise TypeError(f"full(): expected (size, fill_value), got {len(args)} arguments")
    size, value = args
    if not isinstance(size, (list, tuple)):
        size = (size,)
    value = number_arg(value, "full", "fill_value")
    return _finish(_C.full(sizes_arg(size, "full"), value, dtype, device), requires_grad)


def zeros(*size, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape, given as ints or as one tuple.

    >>> torsh.zeros(2, 2).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    dtype = _default_dtype if dtype is None else dtype
    return _finish(_C.full(sizes_arg(size, "zeros"), 0, dtype, device), requires_grad)


def ones(*size, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape.

    >>> torsh.ones(2).tolist()
    [1.0, 1.0]
    """
    dtype = _default_dtype if dtype is None else dtype
    return _finish(_C.full(sizes_arg(size, "ones"), 1, dtype, device), requires_grad)


def empty(*size, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """A tensor whose values the caller overwrites; torsh fills it with zeros, never with old memory."""
    dtype = _default_dtype if dtype is None else dtype
    return _finish(_C.full(sizes_arg(size, "empty"), 0, dtype, device), requires_grad)


def full_like(input, fill_value, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """`fill_value` everywhere, in the shape and (unless given) dtype of `input`."""
    tensor_arg(input, "full_like")
    value = number_arg(fill_value, "full_like", "fill_value")
    x = _C.full(
        list(input.shape), value, input.dtype if dtype is None else dtype, input.device if device is None else device
    )
    return _finish(x, requires_grad)


def zeros_like(input, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Zeros in the shape and dtype of `input`."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(input, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape and dtype of `input`."""
    return full_like(input, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(input, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """See `empty`."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(start, end=None, step=1, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """`start, start + step, ..` up to but without `end`; int64 when all three are ints, else float32.

    Element i is `start + i * step`, with one rounding of the product and one of the sum.

    >>> torsh.arange(0, 6, 2).tolist()
    [0, 2, 4]
    """
    if end is None:
        start, end = 0, start
    start, end, step = (number_arg(v, "arange", n) for v, n in ((start, "start"), (end, "end"), (step, "step")))
    if step == 0:
        raise ValueError("arange(): step must be nonzero")
    if any(isinstance(v, float) and not math.isfinite(v) for v in (start, end, step)):
        raise ValueError(f"arange(): unsupported range: {start} -> {end} with step {step}")
    if (end > start and step < 0) or (end < start and step > 0):
        raise ValueError(f"arange(): upper bound and lower bound inconsistent with step sign: {start} -> {end}, {step}")
    ints = not any(isinstance(v, float) for v in (start, end, step))
    if dtype is None:
        dtype = _C.int64 if ints else _default_dtype
    dtype = _C.PyDType(dtype)
    n = max(0, -((start - end) // step)) if ints else max(0, math.ceil((end - start) / step))
    return _finish(_ramp(int(n), start, step, dtype, device), requires_grad)


def _ramp(n: int, start, step, dtype, device) -> Tensor:
    if dtype == _C.PyDType("bool"):
        raise DTypeError("arange(): bool has no ranges; make an integer range and compare")
    work = dtype
    if dtype.is_floating_point:
        work = _C.float64 if dtype == _C.float64 else _C.float32
        start, step = float(start), float(step)
    else:
        work = _C.int64
        if isinstance(start, float) or isinstance(step, float):
            # PyTorch truncates the bounds before it counts on.
            start, step = int(start), int(step)
    if work == _C.float32:
        # Positions and products in float64, so that each element is rounded once.
        work = _C.float64
    x = _C.apply("iota", (), (0, work, [n]), device)
    if step != 1:
        x = x * step
    if start != 0:
        x = x + start
    return _C.cast(x, dtype)


def linspace(start, end, steps, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """`steps` evenly spaced numbers from `start` to `end`, both included; symmetric about the middle.

    >>> torsh.linspace(0, 1, 5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    start, end = number_arg(start, "linspace", "start"), number_arg(end, "linspace", "end")
    n = int_arg(steps, "linspace", "steps")
    if n < 0:
        raise ValueError(f"linspace(): number of steps must be non-negative, got {n}")
    dtype = _C.PyDType(_default_dtype if dtype is None else dtype)
    if n == 1:
        return _finish(_C.full([1], start, dtype, device), requires_grad)
    i = _C.apply("iota", (), (0, _C.float64, [n]), device)
    step = (float(end) - float(start)) / max(n - 1, 1)
    lower = i * step + float(start)
    upper = float(end) - (float(n - 1) - i) * step
    return _finish(_C.cast(_C.where(i < n / 2, lower, upper), dtype), requires_grad)


def logspace(start, end, steps, base=10.0, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """`base ** linspace(start, end, steps)`."""
    dtype = _C.PyDType(_default_dtype if dtype is None else dtype)
    e = linspace(start, end, steps, dtype=_C.float64, device=device)
    return _finish(_C.cast(_C.binary("pow", float(base), e), dtype), requires_grad)


def eye(n, m=None, *, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an n x m matrix.

    >>> torsh.eye(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    n = int_arg(n, "eye", "n")
    m = n if m is None else int_arg(m, "eye", "m")
    if n < 0 or m < 0:
        raise ShapeError(f"eye(): sizes must be >= 0, got n={n}, m={m}")
    dtype = _C.PyDType(_default_dtype if dtype is None else dtype)
    x = _C.apply("iota", (), (0, _C.int64, [n, m]), device) == _C.apply("iota", (), (1, _C.int64, [n, m]), device)
    return _finish(_C.cast(x, dtype), requires_grad)


def clone(input) -> Tensor:
    """A copy that does not alias `input`; gradients flow through it."""
    return _C.clone(tensor_arg(input, "clone"))


def meshgrid(*tensors, indexing: str = "ij"):
    """Coordinate grids of 1-d tensors.

    >>> torsh.meshgrid(torsh.arange(2), torsh.arange(3), indexing="ij")[0].tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    if indexing not in ("ij", "xy"):
        raise ValueError(f'meshgrid(): indexing must be one of "xy" or "ij", but received: {indexing}')
    ts = [tensor_arg(t, "meshgrid", "tensors").reshape(-1) for t in tensors]
    swap = indexing == "xy" and len(ts) > 1
    if swap:
        ts[0], ts[1] = ts[1], ts[0]
    shape = [t.shape[0] for t in ts]
    out = []
    for i, t in enumerate(ts):
        view = [1] * len(ts)
        view[i] = shape[i]
        out.append(t.reshape(view).expand(shape))
    if swap:
        out[0], out[1] = out[1], out[0]
        out = [t.transpose(0, 1) for t in out]
    return tuple(out)
