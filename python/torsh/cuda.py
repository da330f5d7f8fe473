"""`torsh.cuda`: the CUDA devices of this machine, their memory, streams and events, as in `torch.cuda`.

Tensors are computed when they are looked at: an event marks what has been asked for before it was recorded, and
`synchronize` waits for that too. Where there is no CUDA device, `is_available()` is False, `device_count()` is 0, and
what needs a device raises DeviceError with what was looked for.

A device has no worker threads of torsh's: `torsh.set_num_threads` and `TORSH_THREADS` are about the CPU. What a device
is given to do at once is a matter of streams.

Memory that does not suffice, be it the cap's or the device's own, raises `OutOfMemoryError`: a `torsh.LimitError`, and
a RuntimeError as in PyTorch. It carries `device`, `requested`, `in_use` and `limit` in bytes, and `largest`, the
largest things in memory with their bytes; its text names these and the line that asked. Nothing is lost by it.

>>> torsh.cuda.is_available() or torsh.cuda.device_count() == 0
True
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, NamedTuple

from torsh import _C
from torsh._fn import random as _random

DeviceError = _C.DeviceError
OutOfMemoryError = _C.OutOfMemoryError


def _expect(what: str, value, kind: type):
    """The value, if it is of the kind that an argument must have; a subclass or None are told by the caller.

    Raises: TypeError that names the argument, what it must be, and what it is.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"{what} must be of type {name}, not {type(value).__name__}")
    return value


# -- devices -----------------------------------------------------------------------------------------------


def is_available() -> bool:
    """Whether a CUDA device can be used; never raises."""
    return device_count() > 0


def device_count() -> int:
    """Number of CUDA devices; 0 where there is no driver."""
    try:
        return _C.device_count("cuda")
    except DeviceError:
        return 0


def is_initialized() -> bool:
    """Whether a CUDA device has been opened."""
    return any(_C.is_open(_device(i)) for i in range(device_count()))


def init() -> None:
    """Opens the current device, which happens by itself when a tensor is put there.

    Raises: DeviceError where it is not there.
    """
    _C.open_device(_device(None))


def _index(device) -> int:
    """The number of a device given as a number, a name, a device, or None for the current one.

    Raises: TypeError for anything else, ValueError for a name or number that is no CUDA device's.
    """
    if device is None:
        return _C.current_cuda()
    if isinstance(device, bool) or not isinstance(device, (int, str, _C.PyDevice)):
        raise TypeError(
            "a CUDA device must be given as an int, a str such as 'cuda:0' or a torsh.device, "
            f"not {type(device).__name__}"
        )
    device = _C.resolve_device(device)
    if device.type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {device}")
    return device.index


def _device(device):
    return _C.PyDevice("cuda", _index(device))


def _there(device) -> int:
    """The number of a device that there is."""
    index, count = _index(device), _C.device_count("cuda")
    if index >= count:
        raise DeviceError(f"device cuda:{index} is not available: {count} CUDA devices were found")
    return index


def current_device() -> int:
    """Number of the device that `"cuda"` means on this thread.

    Raises: DeviceError without a CUDA device.
    """
    return _there(None)


def set_device(device) -> None:
    """Sets the device that `"cuda"` means on this thread; a negative number changes nothing.

    Raises: DeviceError for a device that is not there.
    """
    if isinstance(device, int) and device < 0:
        return
    if device is None:
        raise TypeError("set_device(): a device is needed, got None")
    _C.set_current_cuda(_there(device))


class device:
    """Context manager that changes the current device; None or a negative number changes nothing."""

    def __init__(self, device):
        self._to = None if device is None or (isinstance(device, int) and device < 0) else _index(device)
        self._before: list[int] = []

    def __enter__(self):
        self._before.append(_C.current_cuda())
        if self._to is not None:
            _C.set_current_cuda(_there(self._to))
        return self

    def __exit__(self, *exception):
        if not self._before:
            raise RuntimeError("torsh.cuda.device: the block ends without having begun")
        _C.set_current_cuda(self._before.pop())
        return False


class device_of(device):
    """Context manager that makes the device of a tensor the current one; a tensor of the CPU changes nothing."""

    def __init__(self, obj):
        super().__init__(_expect("device_of(): obj", obj, _C.Tensor).get_device())


class _Properties(NamedTuple):
    """What a device is. Bytes and counts."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    max_threads_per_multi_processor: int
    warp_size: int
    shared_memory_per_block: int
    shared_memory_per_block_optin: int
    regs_per_multiprocessor: int
    L2_cache_size: int


def get_device_properties(device=None) -> _Properties:
    """Name, compute capability, memory and multiprocessors of a device.

    Raises: DeviceError for a device that is not there.
    """
    return _Properties(**_C.device_properties(_device(device)))


def get_device_name(device=None) -> str:
    """The vendor's name of a device."""
    return get_device_properties(device).name


def get_device_capability(device=None) -> tuple[int, int]:
    """Compute capability: major, minor."""
    p = get_device_properties(device)
    return p.major, p.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the current device computes in bfloat16: from compute capability 8.0 on. False without a device."""
    return is_available() and (including_emulation or get_device_capability()[0] >= 8)


def synchronize(device=None) -> None:
    """Waits until all work of a device is done, that which is pending on this thread included."""
    _C.synchronize(_device(device))


# -- streams and events ------------------------------------------------------------------------------------


class Stream:
    """A queue of work on a device. Work of one stream runs in order; that of two needs an event for an order.

    `with stream:` sends this thread's work there, as `torsh.cuda.stream(stream)` does.

    Raises: DeviceError for a device that is not there; TypeError for a device or priority of another type.
    """

    def __init__(self, device=None, priority: int = 0):
        _expect("Stream(): priority", priority, int)
        if not -(2**31) <= priority < 2**31:
            raise ValueError(f"Stream(): priority must fit 32 bits, got {priority}")
        self._stream = _C.Stream(_device(device), priority)
        self._outer: list[Any] = []

    @classmethod
    def _of(cls, raw) -> Stream:
        s = cls.__new__(cls)
        s._stream, s._outer = raw, []
        return s

    @property
    def device(self):
        """The device."""
        return self._stream.device

    @property
    def device_index(self) -> int:
        """Number of the device."""
        return self._stream.device.index

    @property
    def cuda_stream(self) -> int:
        """The driver's handle; 0 for the default stream."""
        return self._stream.handle

    @property
    def priority(self) -> int:
        """Lower is more urgent."""
        return self._stream.priority

    def query(self) -> bool:
        """Whether all work given to it is done."""
        return self._stream.query()

    def synchronize(self) -> None:
        """Waits until all work given to it is done."""
        self._stream.synchronize()

    def record_event(self, event: Event | None = None) -> Event:
        """Marks this moment in an event, a new one unless given; returns it."""
        event = Event() if event is None else _expect("record_event(): event", event, Event)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Later work of this stream starts after what the event marks."""
        _expect("wait_event(): event", event, Event).wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """Later work of this stream starts after what the other has been given."""
        self.wait_event(_expect("wait_stream(): stream", stream, Stream).record_event())

    def __enter__(self) -> Stream:
        context = globals()["stream"](self)
        context.__enter__()
        self._outer.append(context)
        return self

    def __exit__(self, *exception):
        if not self._outer:
            raise RuntimeError("torsh.cuda.Stream: the block ends without having begun")
        return self._outer.pop().__exit__(*exception)

    def __eq__(self, other) -> bool:
        return isinstance(other, Stream) and (self.device, self.cuda_stream) == (other.device, other.cuda_stream)

    def __hash__(self) -> int:
        return hash((self.device, self.cuda_stream))

    def __repr__(self) -> str:
        return f"<torsh.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class Event:
    """A moment of a stream, made on the device of the stream that first records it."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        if interprocess:
            raise ValueError("Event(): events are not shared between processes")
        self._timing, self._blocking, self._event = bool(enable_timing), bool(blocking), None

    @property
    def device(self):
        """The device; None before the first record."""
        return None if self._event is None else self._event.device

    @property
    def cuda_event(self) -> int:
        """The driver's handle; 0 before the first record."""
        return 0 if self._event is None else self._event.handle

    def record(self, stream: Stream | None = None) -> None:
        """Marks this moment of a stream, the current one unless given."""
        s = current_stream() if stream is None else _expect("record(): stream", stream, Stream)
        if self._event is None:
            self._event = _C.Event(s.device, self._timing, self._blocking)
        elif self._event.device != s.device:
            raise RuntimeError(
                f"Event device {self._event.device} does not match recording stream's device {s.device}."
            )
        s._stream.record(self._event)

    def wait(self, stream: Stream | None = None) -> None:
        """Later work of a stream, the current one unless given, starts after this moment."""
        s = None if stream is None else _expect("wait(): stream", stream, Stream)
        if self._event is not None:
            (current_stream() if s is None else s)._stream.wait(self._event)

    def query(self) -> bool:
        """Whether the work before this moment is done."""
        return self._event is None or self._event.query()

    def synchronize(self) -> None:
        """Waits until the work before this moment is done."""
        if self._event is not None:
            self._event.synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to a later one.

        Raises: ValueError unless both were made with `enable_timing=True` and recorded.
        """
        _expect("elapsed_time(): end_event", end_event, Event)
        if not (self._timing and end_event._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._event is None or end_event._event is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        return self._event.elapsed_ms(end_event._event)

    def __repr__(self) -> str:
        return f"<torsh.cuda.Event {self.cuda_event:#x}>" if self._event else "<torsh.cuda.Event uninitialized>"


def current_stream(device=None) -> Stream:
    """The stream on which this thread's work on a device goes."""
    return Stream._of(_C.current_stream(_device(device)))


def default_stream(device=None) -> Stream:
    """The stream on which work on a device goes unless another is set."""
    return Stream._of(_C.default_stream(_device(device)))


def set_stream(stream: Stream | None) -> None:
    """Sends this thread's work to a stream and makes its device the current one; None changes nothing."""
    if stream is not None:
        _expect("set_stream(): stream", stream, Stream)
        _C.set_stream(stream._stream)
        _C.set_current_cuda(stream.device_index)


@contextmanager
def stream(stream: Stream | None):
    """Sends this thread's work to a stream within a block; None changes nothing."""
    if stream is None:
        yield
        return
    _expect("stream(): stream", stream, Stream)
    current, before = _C.current_cuda(), current_stream(stream.device)
    set_stream(stream)
    try:
        yield
    finally:
        _C.set_stream(before._stream)
        _C.set_current_cuda(current)


# -- memory ------------------------------------------------------------------------------------------------


def _counted(device):
    """The device whose memory is asked for. Where there are none at all, any; their figures are 0.

    Raises: DeviceError for one that is not there beside others.
    """
    return _device(_there(device) if device_count() > 0 else device)


def _figures(device) -> dict[str, int]:
    """Memory figures of a device; zeros while it has not been opened."""
    d = _counted(device)
    if _C.is_open(d):
        return _C.memory_stats(d)
    return dict.fromkeys(("live", "peak", "cached", "limit", "allocations", "code"), 0)


def memory_stats(device=None) -> dict[str, int]:
    """Bytes and counts under the names of `torch.cuda.memory_stats`, as far as torsh counts them.

    Raises: DeviceError for a device that is not there; so do the other figures of a device's memory.
    """
    f = _figures(device)
    return {
        "allocated_bytes.all.current": f["live"],
        "allocated_bytes.all.peak": f["peak"],
        "reserved_bytes.all.current": f["live"] + f["cached"],
        "inactive_split_bytes.all.current": f["cached"],
        "allocation.all.allocated": f["allocations"],
        "limit_bytes": f["limit"],
        "code_bytes": f["code"],
    }


def memory_allocated(device=None) -> int:
    """Bytes held by tensors and running programs; 0 for a device that has not been opened."""
    return _figures(device)["live"]


def max_memory_allocated(device=None) -> int:
    """The most bytes held since the last `reset_peak_memory_stats`."""
    return _figures(device)["peak"]


def memory_reserved(device=None) -> int:
    """Bytes held and kept for reuse."""
    f = _figures(device)
    return f["live"] + f["cached"]


def reset_peak_memory_stats(device=None) -> None:
    """Sets the peak to what is held now."""
    d = _counted(device)
    if _C.is_open(d):
        _C.reset_peak_memory_stats(d)


reset_max_memory_allocated = reset_peak_memory_stats


def empty_cache() -> None:
    """Returns what is kept for reuse to the driver, on every device that has been opened."""
    for i in range(device_count()):
        if _C.is_open(_device(i)):
            _C.empty_cache(_device(i))


def mem_get_info(device=None) -> tuple[int, int]:
    """Bytes of a device's memory, free and in all, as the driver sees them."""
    return _C.memory_info(_device(device))


def set_per_process_memory_fraction(fraction: float, device=None) -> None:
    """Caps the bytes of this process on a device at a part of its memory.

    Raises: TypeError and ValueError for a fraction that is no number in 0..1; OutOfMemoryError later, where the cap is
    met.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
        raise TypeError(f"Invalid type for fraction argument, must be `float`, not {type(fraction).__name__}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    d = _device(device)
    _C.set_memory_limit(int(fraction * get_device_properties(d).total_memory), d)


def get_per_process_memory_fraction(device=None) -> float:
    """The part of a device's memory that this process may use; 0 for a device that has not been opened."""
    limit = _figures(device)["limit"]
    return limit / get_device_properties(device).total_memory if limit else 0.0


def _size(value: int) -> str:
    """Bytes in the unit that shows them with three or four digits."""
    if value < 10_000:
        return f"{value} B"
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 10_000:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GiB"


def memory_summary(device=None, abbreviated: bool = False) -> str:
    """The figures of `memory_stats` as a table."""
    rows = [f"torsh memory on {_device(device)}"]
    for name, value in memory_stats(device).items():
        text = f"{value}" if name.startswith("allocation.") else _size(value)
        rows.append(f"  {name:<34} {text:>16}")
    return "\n".join(rows)


# -- random numbers ----------------------------------------------------------------------------------------


def manual_seed(seed: int) -> None:
    """Seeds the default generator of the current device; without devices, nothing."""
    if is_available():
        _random.generator_of(_device(None)).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seeds the default generators of all CUDA devices, those not yet used included."""
    _random.seed_devices(seed)


def initial_seed() -> int:
    """The seed of the current device's default generator."""
    return _random.generator_of(_device(current_device())).initial_seed()


def get_rng_state(device="cuda"):
    """The state of a device's default generator, on the CPU."""
    return _random.generator_of(_device(_there(device))).get_state()


def set_rng_state(new_state, device="cuda") -> None:
    """Restores the state of a device's default generator."""
    _random.generator_of(_device(_there(device))).set_state(new_state)


def seed() -> None:
    """Seeds the default generator of the current device with a drawn number; without devices, nothing."""
    if is_available():
        _random.generator_of(_device(None)).seed()


def seed_all() -> None:
    """Seeds the default generators of all CUDA devices with one drawn number."""
    if is_available():
        _random.seed_devices(_random.generator_of(_device(0)).seed())


def get_rng_state_all() -> list:
    """The states of all devices' default generators, in the order of their numbers."""
    return [get_rng_state(i) for i in range(device_count())]


def set_rng_state_all(new_states) -> None:
    """Restores what `get_rng_state_all` gave.

    Raises: ValueError for more states than there are devices.
    """
    states = list(new_states)
    if len(states) > device_count():
        raise ValueError(f"set_rng_state_all(): {len(states)} states for {device_count()} CUDA devices")
    for i, state in enumerate(states):
        set_rng_state(state, i)
