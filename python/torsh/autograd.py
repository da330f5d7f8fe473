"""Switching gradients on and off, and `torsh.autograd.grad`."""

from __future__ import annotations

import functools

from torsh import _C

Tensor = _C.Tensor


class _GradMode:
    _mode = True

    def __init__(self):
        self._previous: list[bool] = []

    def __enter__(self):
        self._previous.append(_C.set_grad_enabled(self._mode))

    def __exit__(self, *exc):
        _C.set_grad_enabled(self._previous.pop())

    def __call__(self, fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            with type(self)() if type(self) is not set_grad_enabled else set_grad_enabled(self._mode):
                return fn(*args, **kwargs)

        return wrapper


class no_grad(_GradMode):
    """Context manager and decorator under which operations record no gradient.

    >>> x = torsh.ones(1, requires_grad=True)
    >>> with torsh.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    _mode = False

    def __new__(cls, fn=None):
        self = super().__new__(cls)
        if fn is not None and callable(fn):
            self.__init__()
            return self(fn)
        return self

    def __init__(self, fn=None):
        super().__init__()


class inference_mode(_GradMode):
    """As `no_grad`; `inference_mode(False)` leaves gradients on."""

    _mode = False

    def __init__(self, mode: bool = True):
        super().__init__()
        self._mode = not mode

    def __call__(self, fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            with inference_mode(not self._mode):
                return fn(*args, **kwargs)

        return wrapper


class enable_grad(_GradMode):
    """Context manager and decorator under which operations record gradients again."""

    _mode = True


class set_grad_enabled(_GradMode):
    """Sets the mode at once; as a context manager restores the old one on exit."""

    def __init__(self, mode: bool):
        super().__init__()
        self._mode = bool(mode)
        self._before = _C.set_grad_enabled(self._mode)

    def __enter__(self):
        self._previous.append(self._before)
        _C.set_grad_enabled(self._mode)

    def __call__(self, fn):
        _C.set_grad_enabled(self._before)
        return super().__call__(fn)


def is_grad_enabled() -> bool:
    """Whether operations record gradients now."""
    return _C.is_grad_enabled()


def _seq(x, name):
    if isinstance(x, Tensor):
        return (x,)
    x = tuple(x)
    for t in x:
        if not isinstance(t, Tensor):
            raise TypeError(f"grad(): argument '{name}' must hold Tensors, got {type(t).__name__}")
    return x


def grad(outputs, inputs, grad_outputs=None, retain_graph=None, create_graph: bool = False, allow_unused: bool = False):
    """Gradients of `sum(outputs * grad_outputs)` with respect to `inputs`, as a tuple.

    Raises: RuntimeError for outputs that are not scalar without grad_outputs, or inputs that are unused
    (unless `allow_unused`, which gives None for them).

    >>> x = torsh.tensor([3.0], requires_grad=True)
    >>> torsh.autograd.grad((x * x).sum(), x)[0].tolist()
    [6.0]
    """
    outs, ins = _seq(outputs, "outputs"), _seq(inputs, "inputs")
    if grad_outputs is None:
        grad_outputs = (None,) * len(outs)
    elif isinstance(grad_outputs, Tensor):
        grad_outputs = (grad_outputs,)
    grad_outputs = tuple(grad_outputs)
    if len(grad_outputs) != len(outs):
        raise RuntimeError(f"grad(): got {len(outs)} outputs and {len(grad_outputs)} grad_outputs")
    return tuple(_C.grad(list(outs), list(ins), list(grad_outputs), bool(create_graph), bool(allow_unused)))


def backward(tensors, grad_tensors=None, retain_graph=None, create_graph: bool = False) -> None:
    """Adds the gradients of the tensors to the `.grad` of the leaves."""
    ts = _seq(tensors, "tensors")
    gs = (None,) * len(ts) if grad_tensors is None else _seq(grad_tensors, "grad_tensors")
    for t, g in zip(ts, gs, strict=False):
        t.backward(g, retain_graph=True, create_graph=create_graph)
