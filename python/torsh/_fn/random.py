"""Random numbers: counter-based Philox4x32-10, so that the same seed gives the same bits lazily, compiled,
on every device. The state (seed, offset) is a tensor; a draw of n words advances the offset by n."""

from __future__ import annotations

import math
import os

from torsh import _C

from . import creation
from ._args import DTypeError, Tensor, int_arg, is_float, number_arg, sizes_arg, tensor_arg


def _seed_arg(seed) -> int:
    seed = int_arg(seed, "manual_seed", "seed")
    if not -(2**63) <= seed < 2**64:
        raise RuntimeError(f"manual_seed(): Overflow when unpacking long: {seed} does not fit in 64 bits")
    return seed & (2**64 - 1)


class Generator:
    """A stream of random numbers for tensors of one device; the numbers are the same on every device.

    >>> g = torsh.Generator().manual_seed(0)
    >>> torsh.equal(torsh.rand(3, generator=g), torsh.rand(3, generator=torsh.Generator().manual_seed(0)))
    True
    """

    def __init__(self, device="cpu"):
        self.device = _C.resolve_device(device)
        self._seed = 67280421310721
        self._state = _C.tensor([self._seed, 0], _C.int64, self.device, False)

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream of `seed` (taken modulo 2^64) from its beginning."""
        self._seed = _seed_arg(seed)
        signed = self._seed - 2**64 if self._seed >= 2**63 else self._seed
        _C.assign(self._state, _C.tensor([signed, 0], _C.int64, self.device, False))
        return self

    def seed(self) -> int:
        """Seeds from the operating system and returns the seed."""
        s = int.from_bytes(os.urandom(7), "little")
        self.manual_seed(s)
        return s

    def initial_seed(self) -> int:
        """The seed last set."""
        return self._seed

    def get_state(self) -> Tensor:
        """A copy of the state on the CPU: int64 [seed, offset]."""
        return _C.to_device(_C.clone(self._state), "cpu")

    def set_state(self, state: Tensor) -> None:
        """Restores a state taken with `get_state`."""
        s = tensor_arg(state, "set_state", "new_state")
        if tuple(s.shape) != (2,) or s.dtype != _C.int64:
            raise DTypeError(f"set_state(): expected int64 of shape [2], got {s.dtype.name} {list(s.shape)}")
        self._seed = int(s[0]) & (2**64 - 1)
        _C.assign(self._state, s)


default_generator = Generator()

# The default generators of devices that have been asked for numbers, and the seed of those to come.
_generators: dict = {default_generator.device: default_generator}
_first_seed = default_generator.initial_seed()


def generator_of(device) -> Generator:
    """The default generator of a device."""
    device = _C.resolve_device(device)
    found = _generators.get(device)
    if found is None:
        found = _generators[device] = Generator(device).manual_seed(_first_seed)
    return found


def seed_devices(seed: int) -> None:
    """Seeds the default generators of all devices but the CPU, now or when they are first used."""
    global _first_seed
    seed = _seed_arg(seed)
    for device, generator in _generators.items():
        if device.type != "cpu":
            generator.manual_seed(seed)
    _first_seed = seed


def manual_seed(seed: int) -> Generator:
    """Seeds the default generators of all devices and returns the CPU's."""
    default_generator.manual_seed(seed)
    seed_devices(seed)
    return default_generator


def seed() -> int:
    """Seeds the default generators from the operating system; returns the seed."""
    s = default_generator.seed()
    seed_devices(s)
    return s


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """State of the default generator."""
    return default_generator.get_state()


def set_rng_state(state: Tensor) -> None:
    """Restores the state of the default generator."""
    default_generator.set_state(state)


def pick(generator, device, fn: str) -> Generator:
    """The generator given, which must be one of the device, or the device's own."""
    if generator is None:
        return generator_of(device)
    if not isinstance(generator, Generator):
        raise TypeError(f"{fn}(): argument 'generator' must be torsh.Generator, not {type(generator).__name__}")
    if generator.device != (device := _C.resolve_device(device)):
        raise RuntimeError(f"{fn}(): Expected a '{device}' device type for generator but found '{generator.device}'")
    return generator


def _bits(shape: list[int], generator, fn: str, device) -> Tensor:
    """int32 words of the stream, one an element in row-major order."""
    g = pick(generator, device, fn)
    state = g._state
    n = math.prod(shape)
    seed, offset = state[0], state[1]
    pos = _C.apply("iota", (), (0, _C.int64, [n]), g.device)
    counter = pos + offset
    words = _C.apply("philox", (seed.expand(n), counter), ())
    _C.assign(state, state + _C.tensor([0, n], _C.int64, g.device, False))
    return words.reshape(shape)


def _unit(shape, generator, dtype, fn: str, device) -> Tensor:
    """Uniform in [0, 1): multiples of 2^-24 (2^-53 for float64, from two words)."""
    if dtype == _C.float64:
        w = _C.cast(_bits([2, *shape], generator, fn, device), _C.int64)
        hi, lo = (w[0] >> 5) & 0x7FFFFFF, (w[1] >> 6) & 0x3FFFFFF
        return (_C.cast(hi, _C.float64) * 67108864.0 + _C.cast(lo, _C.float64)) * (1.0 / 9007199254740992.0)
    bits = 24 if dtype == _C.float32 else 11 if dtype == _C.float16 else 8
    w = (_bits(shape, generator, fn, device) >> (32 - bits)) & ((1 << bits) - 1)
    return _C.cast(_C.cast(w, _C.float32) * (2.0**-bits), dtype)


def _float_dtype(dtype, fn: str):
    d = _C.PyDType(creation.get_default_dtype() if dtype is None else dtype)
    if not d.is_floating_point:
        raise DTypeError(f"{fn}(): expected a floating point dtype, got {d.name}")
    return d


def _finish(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x


def rand(*size, generator=None, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1)."""
    d = _float_dtype(dtype, "rand")
    return _finish(_unit(sizes_arg(size, "rand"), generator, d, "rand", device), requires_grad)


def _normal(shape, generator, dtype, fn: str, device) -> Tensor:
    # Box-Muller: sqrt(-2 log u1) cos(2 pi u2), u1 in (0, 1].
    work = _C.float64 if dtype == _C.float64 else _C.float32
    u = _unit([2, *shape], generator, work, fn, device)
    r = (-2.0 * _C.unary("log", 1.0 - u[0])).sqrt()
    return _C.cast(r * _C.unary("cos", u[1] * (2.0 * math.pi)), dtype)


def randn(*size, generator=None, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958)."""
    d = _float_dtype(dtype, "randn")
    return _finish(_normal(sizes_arg(size, "randn"), generator, d, "randn", device), requires_grad)


def rand_like(input, *, dtype=None, generator=None, requires_grad: bool = False) -> Tensor:
    """`rand` in the shape and dtype of `input`."""
    x = tensor_arg(input, "rand_like")
    return rand(
        list(x.shape), dtype=dtype or x.dtype, generator=generator, device=x.device, requires_grad=requires_grad
    )


def randn_like(input, *, dtype=None, generator=None, requires_grad: bool = False) -> Tensor:
    """`randn` in the shape and dtype of `input`."""
    x = tensor_arg(input, "randn_like")
    return randn(
        list(x.shape), dtype=dtype or x.dtype, generator=generator, device=x.device, requires_grad=requires_grad
    )


def normal(mean=0.0, std=1.0, size=None, *, generator=None, dtype=None, device=None) -> Tensor:
    """Normal numbers; mean and std are numbers or tensors that broadcast."""
    if size is None:
        from .shape import broadcast_shapes

        shapes = [v.shape for v in (mean, std) if isinstance(v, Tensor)]
        if not shapes:
            raise TypeError("normal(): size is needed when mean and std are numbers")
        size = broadcast_shapes(*shapes)
        if device is None:
            device = next(v.device for v in (mean, std) if isinstance(v, Tensor))
    if not isinstance(std, Tensor) and number_arg(std, "normal", "std") < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    return randn(list(size), generator=generator, dtype=dtype, device=device) * std + mean


def randint(*args, generator=None, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """`randint(high, size)` or `randint(low, high, size)`: integers in [low, high), int64 by default.

    Drawn from 64 bits modulo the range: for ranges below 2^32 the bias is under 2^-32.
    """
    if len(args) == 2:
        low, (high, size) = 0, args
    elif len(args) == 3:
        low, high, size = args
    else:
        raise TypeError(f"randint(): expected (high, size) or (low, high, size), got {len(args)} arguments")
    low, high = int_arg(low, "randint", "low"), int_arg(high, "randint", "high")
    if low >= high:
        raise RuntimeError(f"randint(): random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    if not isinstance(size, (list, tuple)):
        raise TypeError(f"randint(): argument 'size' must be tuple of ints, not {type(size).__name__}")
    shape = sizes_arg((list(size),), "randint")
    w = _C.cast(_bits([2, *shape], generator, "randint", device), _C.int64)
    # 63 uniform bits, then the remainder.
    u = ((w[0] & 0x7FFFFFFF) << 32) | (w[1] & 0xFFFFFFFF)
    span = high - low
    if span < 2**63:
        u = u % span
    x = _C.cast(u + low, _C.PyDType(_C.int64 if dtype is None else dtype))
    return _finish(x, requires_grad)


def randint_like(input, *args, dtype=None, generator=None) -> Tensor:
    """`randint` in the shape and dtype of `input`."""
    x = tensor_arg(input, "randint_like")
    return randint(*args, list(x.shape), dtype=dtype or x.dtype, generator=generator, device=x.device)


def randperm(n, *, generator=None, dtype=None, device=None) -> Tensor:
    """A random order of 0..n-1 (the order that sorts n random 63-bit keys)."""
    n = int_arg(n, "randperm", "n")
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    w = _C.cast(_bits([2, n], generator, "randperm", device), _C.int64)
    keys = ((w[0] & 0x7FFFFFFF) << 32) | (w[1] & 0xFFFFFFFF)
    x = _C.apply("argsort", (keys,), (0, False))
    return x if dtype is None else _C.cast(x, _C.PyDType(dtype))


def bernoulli(input, p=None, *, generator=None) -> Tensor:
    """1 with probability `input` (or `p`), else 0, in the dtype of `input`.

    Raises: RuntimeError (when the values are computed) for a probability outside [0, 1] or NaN.
    """
    x = tensor_arg(input, "bernoulli")
    if p is None:
        if not is_float(x):
            raise DTypeError(f"bernoulli(): expected a floating point dtype, got {x.dtype.name}")
        p = _C.cast(x, _C.float32)
    if isinstance(p, Tensor):
        p = p + _C.check(((p >= 0) & (p <= 1)).all(), "bernoulli(): expected every probability to be in [0, 1]")
    elif not 0 <= number_arg(p, "bernoulli", "p") <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    return _C.cast(_unit(list(x.shape), generator, _C.float32, "bernoulli", x.device) < p, x.dtype)


def dropout(input, p: float = 0.5, training: bool = True, inplace: bool = False, *, generator=None) -> Tensor:
    """Zeroes elements with probability `p` and scales the others by `1 / (1 - p)` (Srivastava et al., 2014).

    >>> torsh.nn.functional.dropout(torsh.ones(3), p=0.0).tolist()
    [1.0, 1.0, 1.0]
    """
    x = tensor_arg(input, "dropout")
    p = float(number_arg(p, "dropout", "p"))
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return x
    if p == 1.0:
        y = x * 0.0
    else:
        keep = _unit(list(x.shape), generator, _C.float32, "dropout", x.device) >= p
        y = _C.where(keep, x * (1.0 / (1.0 - p)), 0.0)
    return _C.assign(x, y) if inplace else y


def multinomial(input, num_samples: int, replacement: bool = False, *, generator=None) -> Tensor:
    """Indices drawn with the probabilities in each row (weights need not sum to 1), by the Gumbel-max trick
    (without replacement: the largest keys) or the inverse of the cumulative sum (with replacement).

    Raises: RuntimeError (when the values are computed) for a weight that is negative, infinite or NaN, for a row
    without a positive weight, and for fewer positive weights in a row than samples without replacement.

    >>> torsh.multinomial(torsh.tensor([0.0, 1.0]), 3, replacement=True).tolist()
    [1, 1, 1]
    """
    x = tensor_arg(input, "multinomial")
    if not is_float(x):
        raise DTypeError(f"multinomial only supports floating-point dtypes for input, got: {x.dtype.name}")
    if x.ndim not in (1, 2):
        raise RuntimeError("multinomial(): prob_dist must be 1 or 2 dim")
    n = int_arg(num_samples, "multinomial", "num_samples")
    k = x.shape[-1]
    if n <= 0 or (not replacement and n > k):
        raise RuntimeError(
            f"multinomial(): cannot sample n_sample={n} out of {k} categories (replacement={replacement})"
        )
    rows = _C.cast(x.reshape(-1, k), _C.float64)
    good = _C.check(
        ((rows >= 0) & (rows < math.inf)).all(),
        "multinomial(): probability tensor contains either `inf`, `nan` or element < 0",
    )
    positive = _C.cast(rows > 0, _C.int64).sum(1)
    good = good + _C.check(
        (positive > 0).all(), "multinomial(): invalid multinomial distribution (sum of probabilities <= 0)"
    )
    if not replacement and n > 1:
        good = good + _C.check(
            (positive >= n).all(),
            f"multinomial(): cannot sample {n} categories without replacement where fewer have a positive weight",
        )
    if replacement:
        c = rows.cumsum(1)
        u = _unit([rows.shape[0], n], generator, _C.float64, "multinomial", x.device) * c[:, -1:]
        out = _C.cast(c.unsqueeze(1) <= u.unsqueeze(2), _C.int64).sum(2)
        # A draw never lands on a trailing category of weight zero.
        last = k - 1 - _C.apply("argmax", (_C.cast(rows > 0, _C.int64).flip(1),), ([1],))
        out = _C.binary("minimum", out, last)
    else:
        u = 1.0 - _unit(list(rows.shape), generator, _C.float64, "multinomial", x.device)
        keys = _C.unary("log", rows) - _C.unary("log", -_C.unary("log", u))
        out = _C.apply("argsort", (keys,), (1, True)).narrow(1, 0, n)
    out = out + good
    return out.reshape([n]) if x.ndim == 1 else out
