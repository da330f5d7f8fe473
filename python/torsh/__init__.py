"""torsh: a tensor compiler that feels like PyTorch.

Operations on `torsh.Tensor` build a lazy graph; values are computed when they are looked at, as fused
machine code. `torsh.compile` turns a function, a module or a whole training step into one program.

>>> import torsh
>>> x = torsh.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.tolist()
[2.0, 4.0, 6.0]
"""

from __future__ import annotations

from torsh import _C
from torsh._size import Size

from torsh._C import (  # isort: skip
    CompileError, DeviceError, DTypeError, ExportError, InternalError, LimitError, OutOfMemoryError, PackageError,
    PyDevice, PyDType, ShapeError, Tensor, TorshError, TraceError, __version__, bfloat16, bool, float16, float32,
    float64, int8, int16, int32, int64, result_type, uint8,
)  # fmt: skip

device, dtype = PyDevice, PyDType
half, double, float = float16, float64, float32
short, int, long = int16, int32, int64
inf, nan, pi, e = __import__("math").inf, __import__("math").nan, __import__("math").pi, __import__("math").e
newaxis = None

from torsh._fn import _registry  # noqa: E402

_functions, _methods = _registry.build()
globals().update(_functions)

from torsh._fn.creation import (  # noqa: E402
    arange, as_tensor, clone, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, get_default_dtype,
    linspace, logspace, meshgrid, ones, ones_like, set_default_dtype, tensor, zeros, zeros_like,
)  # fmt: skip
from torsh._fn.indexing import (  # noqa: E402
    gather, index_add, index_copy, index_fill, index_put, index_select, masked_fill, masked_select, nonzero, scatter,
    scatter_add, scatter_reduce, take, take_along_dim, tril, triu,
)  # fmt: skip
from torsh._fn.linalg import (  # noqa: E402
    addmm, addmv, baddbmm, bmm, dot, einsum, matmul, mm, mv, outer, tensordot, trace,
)  # fmt: skip
from torsh._fn.pointwise import (  # noqa: E402
    add, addcdiv, addcmul, allclose, clamp, clamp_max, clamp_min, clip, div, divide, equal, float_power,
    heaviside, isclose, lerp, logical_and, logical_not, logical_or, logical_xor, nan_to_num, positive, round, rsub,
    sinc, sub, subtract, true_divide, where,
)  # fmt: skip
from torsh._fn.random import (  # noqa: E402
    Generator, bernoulli, default_generator, dropout, get_rng_state, initial_seed, manual_seed, multinomial, normal,
    rand, rand_like, randint, randint_like, randn, randn_like, randperm, seed, set_rng_state,
)  # fmt: skip
from torsh._fn.reduce import (  # noqa: E402
    all, amax, amin, aminmax, any, argmax, argmin, count_nonzero, cummax, cummin, cumprod, cumsum, logsumexp, max, mean,
    median, min, nanmean, nansum, norm, prod, std, std_mean, sum, var, var_mean,
)  # fmt: skip
from torsh._fn.shape import (  # noqa: E402
    atleast_1d, atleast_2d, broadcast_shapes, broadcast_tensors, broadcast_to, cat, chunk, concat, concatenate, diag,
    diag_embed, diagonal, flatten, flip, fliplr, flipud, hstack, is_tensor, moveaxis, movedim, narrow,
    numel, permute, ravel, repeat_interleave, reshape, roll, select, split, squeeze, stack, swapaxes, swapdims, t,
    tensor_split, tile, transpose, unbind, unflatten, unsqueeze, vstack,
)  # fmt: skip
from torsh._fn.sorting import argsort, kthvalue, sort, topk  # noqa: E402
from torsh._repr import set_printoptions, tensor_repr as _tensor_repr  # noqa: E402
from torsh._tensor import apply_methods as _apply_methods  # noqa: E402
from torsh.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled  # noqa: E402

_apply_methods(_methods)
_C._register(size=Size, repr=_tensor_repr)

_LAZY = {"autograd", "cuda", "func", "limits", "nn", "optim", "random", "serialization", "utils"}


def __getattr__(name: str):
    if name in _LAZY:
        import importlib

        return importlib.import_module("torsh." + name)
    if name == "compile":
        from torsh._compile import compile

        globals()["compile"] = compile
        return compile
    if name == "export":
        from torsh._export import export

        globals()["export"] = export
        return export
    if name == "Dim":
        from torsh._dims import Dim

        globals()["Dim"] = Dim
        return Dim
    if name in ("save", "load"):
        from torsh import serialization

        return getattr(serialization, name)
    if name in ("complex64", "complex128", "cfloat", "cdouble", "complex32"):
        raise AttributeError(
            f"torsh has no complex dtypes (torsh.{name}); keep real and imaginary parts in two tensors"
        )
    raise AttributeError(f"module 'torsh' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY, "Dim", "compile", "export", "load", "save"})


def softmax(input, dim=None, dtype=None):
    """See `torsh.nn.functional.softmax`."""
    from torsh.nn import functional

    return functional.softmax(input, dim, dtype=dtype)


def log_softmax(input, dim=None, dtype=None):
    """See `torsh.nn.functional.log_softmax`."""
    from torsh.nn import functional

    return functional.log_softmax(input, dim, dtype=dtype)


def relu(input):
    """See `torsh.nn.functional.relu`."""
    from torsh.nn import functional

    return functional.relu(input)


def eval(*tensors):
    """Computes pending tensors now; returns them.

    >>> x = torsh.eval(torsh.ones(2) + 1)
    """
    flat = [x for a in tensors for x in (a if isinstance(a, (list, tuple)) else (a,))]
    for x in flat:
        if not isinstance(x, Tensor):
            raise TypeError(f"eval(): expected Tensors, got {type(x).__name__}")
    _C.eval(flat)
    return tensors[0] if len(tensors) == 1 else tensors


def is_floating_point(input) -> bool:
    """Whether the dtype of `input` is a float."""
    if not isinstance(input, Tensor):
        raise TypeError(f"is_floating_point(): argument 'input' must be Tensor, not {type(input).__name__}")
    return input.dtype.is_floating_point


def memory_stats(device=None) -> dict:
    """Bytes of tensor memory of a device (None: the CPU): live, peak, cached, limit, allocations, code."""
    return _C.memory_stats(device)


def reset_peak_memory_stats(device=None) -> None:
    """Sets the peak to what is live now."""
    _C.reset_peak_memory_stats(device)


def empty_cache(device=None) -> None:
    """Returns cached tensor memory to the system, or to the device's driver."""
    _C.empty_cache(device)


def set_default_device(device=None) -> None:
    """Where this thread makes tensors for which no device is named; None for the CPU. As a block:
    `with torsh.device("cuda"):`. Whether the device is there shows when a tensor is made.

    >>> torsh.set_default_device("cpu")
    """
    _C.set_default_device(device)


def get_default_device():
    """Where this thread makes tensors for which no device is named.

    >>> torsh.get_default_device()
    device(type='cpu')
    """
    return _C.get_default_device()


def set_num_threads(n) -> None:
    """Number of worker threads for kernels on the CPU; a CUDA device has none of torsh's, and nothing changes there."""
    from torsh._fn._args import int_arg

    n = int_arg(n, "set_num_threads", "n")
    if n < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, got {n}")
    _C.set_num_threads(n)


def get_num_threads() -> int:
    """Number of worker threads."""
    return _C.get_num_threads()


def set_float32_matmul_precision(precision: str) -> None:
    """How exact products of float32 matrices on CUDA devices are, from the next call on: "highest" computes in float32
    throughout (the default), "high" and "medium" may round the factors to TF32, which has 10 bits of mantissa.
    The CPU always computes in float32.

    Raises: ValueError for another word.

    >>> torsh.set_float32_matmul_precision("highest")
    """
    _C.set_float32_matmul_precision(precision)


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` set: "highest", or "high" for TF32.

    >>> torsh.get_float32_matmul_precision()
    'highest'
    """
    return _C.get_float32_matmul_precision()


def promote_types(a, b):
    """The dtype that operands of two dtypes promote to."""
    return _C.promote_types(PyDType(a), PyDType(b))


def env_help() -> None:
    """Prints the environment variables that torsh reads, their defaults and what they do."""
    for name, default, text in _C.env_table():
        print(f"{name}{f' (default: {default})' if default else ''}\n    {text}")


def finfo(dtype=None):
    """Limits of a float dtype: bits, eps, max, min, tiny."""
    from torsh._dtype_info import finfo as make

    return make(dtype)


def iinfo(dtype):
    """Limits of an integer dtype: bits, max, min."""
    from torsh._dtype_info import iinfo as make

    return make(dtype)
