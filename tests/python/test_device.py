"""Devices. What can be shown without CUDA, and, where `torsh.cuda.is_available()`, tensors on it against the CPU's."""

from __future__ import annotations

import io

import numpy as np
import pytest

import torsh

cuda = pytest.mark.skipif(not torsh.cuda.is_available(), reason="no CUDA device")
without = pytest.mark.skipif(torsh.cuda.is_available(), reason="for machines without a CUDA device")
pytestmark = pytest.mark.names_devices


def host(x):
    """The numbers of a tensor of any device."""
    return x.detach().cpu().numpy()


# -- everywhere --------------------------------------------------------------------------------------------


def test_device_objects():
    assert torsh.device("cuda", 1) == torsh.device("cuda:1") == torsh.device(1)
    assert torsh.device("cuda") != torsh.device("cuda:0")
    assert (torsh.device(2).type, torsh.device(2).index, str(torsh.device(2))) == ("cuda", 2, "cuda:2")
    assert repr(torsh.device("cuda:1")) == "device(type='cuda', index=1)"
    assert torsh.device(torsh.device("cuda:1")).index == 1
    for bad in (True, 1.5, None, [0]):
        with pytest.raises(TypeError):
            torsh.device(bad)
    with pytest.raises(ValueError, match="Invalid CUDA device ID"):
        torsh.device(-1)


def test_facts_of_a_tensor_of_the_cpu():
    x = torsh.ones(2)
    assert (x.device, x.is_cuda, x.is_cpu, x.get_device()) == (torsh.device("cpu"), False, True, -1)
    assert x.__dlpack_device__() == (1, 0)
    assert "device" not in repr(x)
    assert x.pin_memory() is x and not x.is_pinned()


def test_to():
    x = torsh.ones(2, requires_grad=True)
    assert x.to("cpu") is x and x.to(torsh.device("cpu")) is x and x.cpu() is x and x.to("cpu", non_blocking=True) is x
    assert x.to("cpu", torsh.float32, True) is x
    copy = x.to("cpu", torsh.float32, False, True)
    assert copy is not x and copy.to(x) is copy
    assert x.to("cpu", torsh.float64).dtype == torsh.float64
    assert x.to(torsh.ones(1, dtype=torsh.float16)).dtype == torsh.float16
    copy.sum().backward()
    assert x.grad.tolist() == [1, 1]
    for bad in (1.5, object()):
        with pytest.raises(TypeError):
            x.to(bad)
        with pytest.raises(TypeError):
            x.to(device=bad)
    with pytest.raises(RuntimeError, match="Invalid device, must be cuda"):
        x.cuda("cpu")
    with pytest.raises(RuntimeError, match="Invalid device, must be cuda"):
        torsh.nn.Linear(1, 1).cuda("cpu")


def test_default_device_is_restored():
    assert torsh.get_default_device() == torsh.device("cpu")
    with torsh.device("cuda:1") as d:
        assert torsh.get_default_device() == d == torsh.device("cuda:1")
        with torsh.device("cpu"):
            assert torsh.get_default_device() == torsh.device("cpu")
            assert torsh.ones(1).device.type == "cpu"
        assert torsh.get_default_device() == d
        assert torsh.tensor([1.0], device="cpu").device.type == "cpu"
        assert torsh.from_numpy(np.ones(2)).device.type == "cpu"
    with pytest.raises(KeyError), torsh.device("cuda"):
        raise KeyError
    assert torsh.get_default_device() == torsh.device("cpu")
    torsh.set_default_device("cuda:3")
    try:
        assert torsh.get_default_device().index == 3
    finally:
        torsh.set_default_device(None)
    assert torsh.get_default_device() == torsh.device("cpu")
    with pytest.raises(ValueError, match="Unknown device"):
        torsh.set_default_device("gpu")


def test_generators_have_a_device():
    g = torsh.Generator()
    assert g.device == torsh.device("cpu") and torsh.default_generator.device == torsh.device("cpu")
    a = torsh.rand(3, generator=g.manual_seed(5))
    assert torsh.equal(a, torsh.rand(3, generator=g.manual_seed(5), device="cpu"))
    assert torsh.equal(a, torsh.empty(3).uniform_(generator=g.manual_seed(5)))
    torsh.cuda.manual_seed_all(3)
    with pytest.raises(TypeError):
        torsh.cuda.manual_seed_all("x")
    with pytest.raises(RuntimeError, match="Overflow"):
        torsh.cuda.manual_seed_all(2**64)
    torsh.manual_seed(1)
    b = torsh.rand(2)
    with torsh.random.fork_rng(devices=[]):
        torsh.rand(5)
    c = torsh.rand(2)
    torsh.manual_seed(1)
    assert torsh.equal(torsh.rand(4)[:2], b) and not torsh.equal(b, c)


def test_load_takes_a_device():
    f = io.BytesIO()
    torsh.save({"a": torsh.ones(2)}, f)
    for location in (None, "cpu", torsh.device("cpu")):
        f.seek(0)
        assert torsh.load(f, map_location=location)["a"].device.type == "cpu"
    for bad in ({"cuda": "cpu"}, lambda s, _: s):
        f.seek(0)
        with pytest.raises(TypeError, match="map_location"):
            torsh.load(f, map_location=bad)


def test_memory_of_a_device():
    keep = torsh.eval(torsh.ones(1000) * 2)
    assert torsh.memory_stats() == torsh.memory_stats("cpu") and torsh.memory_stats("cpu")["live"] >= 4000
    torsh.empty_cache("cpu")
    torsh.reset_peak_memory_stats("cpu")
    del keep
    with pytest.raises(ValueError, match="Unknown device"):
        torsh.memory_stats("gpu")


def test_program_is_traced_again_for_another_default_device():
    f = torsh.compile(lambda x: x + torsh.ones(2, device="cpu"))
    assert f(torsh.zeros(2)).tolist() == [1, 1]
    with torsh.device("cuda"):
        assert f(torsh.zeros(2, device="cpu")).tolist() == [1, 1]
    assert f.cache_info()["misses"] == 2
    assert "default device is now cuda:0" in str(f.explain())
    assert f(torsh.zeros(2)).tolist() == [1, 1] and f.cache_info()["misses"] == 2


# -- without a CUDA device ---------------------------------------------------------------------------------


@without
def test_queries_never_raise():
    c = torsh.cuda
    assert (c.is_available(), c.device_count(), c.is_initialized(), c.is_bf16_supported()) == (False, 0, False, False)
    assert (c.memory_allocated(), c.max_memory_allocated(), c.memory_reserved()) == (0, 0, 0)
    assert set(c.memory_stats().values()) == {0} and "cuda:0" in c.memory_summary()
    c.empty_cache()
    c.reset_peak_memory_stats()
    c.manual_seed(1)
    c.set_device(-1)
    with c.device(None), c.device(-1), c.device_of(torsh.ones(1)), c.stream(None):
        assert torsh.ones(1).device.type == "cpu"


@without
@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.init(),
        lambda c: c.current_device(),
        lambda c: c.set_device(0),
        lambda c: c.device(0).__enter__(),
        lambda c: c.get_device_name(),
        lambda c: c.get_device_properties(0),
        lambda c: c.get_device_capability("cuda:0"),
        lambda c: c.synchronize(),
        lambda c: c.Stream(),
        lambda c: c.Event().record(),
        lambda c: c.current_stream(),
        lambda c: c.default_stream(),
        lambda c: c.mem_get_info(),
        lambda c: c.set_per_process_memory_fraction(0.5),
        lambda c: c.get_rng_state(),
        lambda c: c.initial_seed(),
        lambda c: torsh.ones(2, device="cuda"),
        lambda c: torsh.tensor([1.0], device=0),
        lambda c: torsh.arange(3, device="cuda:1"),
        lambda c: torsh.rand(3, device="cuda"),
        lambda c: torsh.eye(3, device="cuda"),
        lambda c: torsh.linspace(0, 1, 3, device="cuda"),
        lambda c: torsh.ones(2).cuda(),
        lambda c: torsh.ones(2).to("cuda"),
        lambda c: torsh.ones(2).to(0),
        lambda c: torsh.ones(2).to("metal"),
        lambda c: torsh.Generator("cuda"),
        lambda c: torsh.nn.Linear(2, 2, device="cuda"),
        lambda c: torsh.nn.Linear(2, 2).cuda(),
        lambda c: torsh.memory_stats("cuda"),
        lambda c: torsh.limits.set_memory_limit(1, "cuda"),
        lambda c: torsh.device("cuda").__enter__() and torsh.ones(2),
    ],
)
def test_what_needs_a_device_says_what_was_looked_for(use):
    try:
        with pytest.raises(torsh.DeviceError, match=r"no (cuda|metal) device is available: .*looked for"):
            use(torsh.cuda)
    finally:
        torsh.set_default_device(None)


@without
def test_an_error_names_the_line_and_moves_nothing():
    with pytest.raises(torsh.DeviceError) as e:
        torsh.ones(2, device="cuda")
    assert e.value.location.startswith(__file__)
    m = torsh.nn.Linear(2, 2)
    before = m.weight.data
    with pytest.raises(torsh.DeviceError):
        m.to("cuda", torsh.float64)
    assert m.weight.dtype == torsh.float32 and torsh.equal(m.weight, before)


def test_bad_arguments():
    c = torsh.cuda
    for bad, error in ((True, TypeError), ("cpu", ValueError), ("gpu", ValueError), (1.5, TypeError), (-7, ValueError)):
        with pytest.raises(error):
            c.get_device_name(bad)
    with pytest.raises(ValueError, match="Allowed range"):
        c.set_per_process_memory_fraction(1.5)
    with pytest.raises(TypeError):
        c.set_per_process_memory_fraction("half")
    with pytest.raises(ValueError, match="processes"):
        c.Event(interprocess=True)
    with pytest.raises(ValueError, match="enable_timing"):
        c.Event().elapsed_time(c.Event(enable_timing=True))
    with pytest.raises(ValueError, match="recorded"):
        c.Event(enable_timing=True).elapsed_time(c.Event(enable_timing=True))
    assert c.Event().query() and c.Event().device is None and "uninitialized" in repr(c.Event())
    c.Event().synchronize()
    c.Event().wait()


# -- with one ----------------------------------------------------------------------------------------------


@cuda
def test_tensors_live_there(rng):
    a = rng.standard_normal((3, 5)).astype(np.float32)
    x = torsh.tensor(a, device="cuda")
    assert (x.device, x.is_cuda, x.is_cpu, x.get_device()) == (torsh.device("cuda:0"), True, False, 0)
    assert x.__dlpack_device__() == (2, 0) and "device='cuda:0'" in repr(x) and x.tolist() == a.tolist()
    y = (x * 2 + 1).sum(1)
    assert y.device == x.device
    np.testing.assert_allclose(host(y), (a * 2 + 1).sum(1), rtol=1e-5)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu"):
        x.numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        np.asarray(x)
    np.testing.assert_array_equal(x.numpy(force=True), a)
    with pytest.raises(BufferError, match="x.cpu"):
        x.__dlpack__()
    assert x[0, 0].item() == a[0, 0] and bool(x[0, 0] == a[0, 0]) and float(x[1, 1]) == a[1, 1]
    assert x.clone().device == x.detach().device == x[1:].T.device == x.double().device == x.device


@cuda
def test_creation():
    d = torsh.device("cuda:0")
    x = torsh.ones(2, 2, device="cuda")
    made = [
        x, torsh.zeros(2, device="cuda"), torsh.full((2,), 3, device="cuda:0"), torsh.empty(2, device=0),
        torsh.arange(3, device=d), torsh.arange(0.0, 1.0, 0.25, device=d), torsh.linspace(0, 1, 3, device=d),
        torsh.logspace(0, 1, 3, device=d), torsh.eye(3, device=d), torsh.rand(3, device=d), torsh.randn(3, device=d),
        torsh.randint(5, (3,), device=d), torsh.randperm(5, device=d), torsh.normal(0.0, 1.0, (3,), device=d),
        torsh.zeros_like(x), torsh.ones_like(x), torsh.rand_like(x), torsh.randn_like(x), x.new_zeros(3),
        x.new_tensor([1.0]), torsh.as_tensor([1], device=d), torsh.tensor(x), torsh.bernoulli(x), torsh.diag(x[0]),
        torsh.tril(x), x.fill_diagonal_(2.0), x.nonzero(), torsh.nn.functional.dropout(x), torsh.argsort(x),
        torsh.normal(x, 1.0), torsh.multinomial(x, 1), torsh.cummax(x, 0)[1], torsh.empty_like(x).random_(5),
    ]  # fmt: skip
    assert [t.device for t in made] == [d] * len(made)
    assert torsh.zeros_like(x, device="cpu").device.type == "cpu"
    with torsh.device("cuda"):
        assert torsh.ones(2).device == torsh.tensor([1.0]).device == torsh.rand(1).device == d
        assert torsh.nn.Linear(2, 2).weight.device == d
    assert torsh.ones(2).device.type == "cpu"


@cuda
def test_devices_do_not_mix():
    x, y = torsh.ones(2, device="cuda"), torsh.ones(2)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu!") as e:
        y + x
    assert isinstance(e.value, torsh.DeviceError) and e.value.op == "add" and e.value.shapes == ((2,), (2,))
    assert e.value.location.startswith(__file__)
    for mix in (
        lambda: torsh.cat([x, y]),
        lambda: torsh.where(x > 0, y, y),
        lambda: torsh.nn.functional.linear(torsh.ones(1, 2), x.reshape(1, 2)),
        lambda: y.add_(x),
        lambda: torsh.mul(x, x, out=y),
        lambda: x.scatter(0, torsh.tensor([0]), 1.0),
        lambda: x[torsh.tensor([0], device="cuda")].copy_(y[:1]).add_(y[:1]),
        lambda: setattr(x, "grad", y),
        lambda: torsh.rand(2, device="cuda", generator=torsh.Generator()),
    ):
        with pytest.raises(RuntimeError):
            mix()
    assert (x + torsh.tensor(2.0)).tolist() == (torsh.tensor(2.0) * x + 1).tolist() == [3, 3]
    assert y.copy_(x * 5).tolist() == [5, 5] and y.device.type == "cpu"
    assert x[torsh.tensor([1])].device == x.device


@cuda
def test_random_numbers_are_those_of_the_cpu():
    def draw(device):
        torsh.manual_seed(7)
        x = torsh.ones(33, device=device)
        return [
            torsh.rand(5, device=device), torsh.randn(9, device=device), torsh.randint(100, (4,), device=device),
            torsh.randperm(12, device=device), torsh.nn.functional.dropout(x, 0.3), torsh.bernoulli(x * 0.5),
        ]  # fmt: skip

    for a, b in zip(draw("cpu"), draw("cuda"), strict=True):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-6)
    state = torsh.cuda.get_rng_state()
    a = torsh.rand(3, device="cuda")
    torsh.cuda.set_rng_state(state)
    assert state.device.type == "cpu" and torsh.equal(a, torsh.rand(3, device="cuda"))
    g = torsh.Generator("cuda").manual_seed(1)
    assert (
        host(torsh.rand(2, device="cuda", generator=g)).tolist()
        == host(torsh.rand(2, generator=torsh.Generator().manual_seed(1))).tolist()
    )


def _train(device, compiled, steps=4):
    torsh.manual_seed(3)
    model = torsh.nn.Sequential(torsh.nn.Linear(4, 8), torsh.nn.GELU(), torsh.nn.Dropout(0.2), torsh.nn.Linear(8, 1))
    model.to(device)
    optimizer = torsh.optim.AdamW(model.parameters(), lr=0.05)
    torsh.manual_seed(4)

    def step(x, y):
        loss = torsh.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torsh.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    run = torsh.compile(step, fullgraph=True) if compiled else step
    data = np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)
    x, y = torsh.tensor(data[:, :4], device=device), torsh.tensor(data[:, 4:], device=device)
    losses = [float(run(x, y)) for _ in range(steps)]
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    losses.append(float(run(x, y)))
    return losses, model, optimizer, run


@cuda
@pytest.mark.parametrize("compiled", [False, True])
def test_training_is_that_of_the_cpu(compiled):
    want, cpu_model, *_ = _train("cpu", compiled)
    got, model, optimizer, run = _train("cuda", compiled)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert {p.device for p in model.parameters()} == {torsh.device("cuda:0")}
    assert {v.device for s in optimizer.state.values() for v in s.values()} == {torsh.device("cuda:0")}
    if compiled:
        assert run.cache_info()["misses"] <= 3
    for a, b in zip(cpu_model.parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(host(a), host(b), rtol=1e-3, atol=1e-5)


@cuda
def test_modules_and_optimizers_move():
    m = torsh.nn.Sequential(torsh.nn.Linear(2, 2), torsh.nn.BatchNorm1d(2))
    optimizer = torsh.optim.Adam(m.parameters(), lr=0.1)
    m(torsh.ones(3, 2)).sum().backward()
    m.cuda()
    there = {torsh.device("cuda:0")}
    assert {t.device for t in (*m.parameters(), *m.buffers(), *(p.grad for p in m.parameters()))} == there
    optimizer.step()
    assert {v.device for s in optimizer.state.values() for v in s.values()} == there
    saved = {k: v.cpu() for k, v in m.state_dict().items()}
    m.load_state_dict(saved)
    optimizer.load_state_dict(optimizer.state_dict())
    assert {p.device for p in m.parameters()} == there
    m.cpu()
    assert {t.device.type for t in (*m.parameters(), *m.buffers())} == {"cpu"}


@cuda
def test_save_and_load():
    f = io.BytesIO()
    torsh.save({"a": torsh.ones(2, device="cuda")}, f)
    f.seek(0)
    assert torsh.load(f)["a"].device.type == "cpu"
    f.seek(0)
    assert torsh.load(f, map_location="cuda")["a"].device == torsh.device("cuda:0")


@cuda
def test_compiled_functions_of_devices():
    w = torsh.tensor([2.0, 3.0], device="cuda")
    f = torsh.compile(lambda x, s: (x.cuda() * w) * (s * s + 1), fullgraph=True)
    assert f(torsh.ones(2), 2.0).tolist() == [10, 15]
    assert f(torsh.ones(2), 3.0).tolist() == [20, 30] and f.cache_info()["misses"] == 1
    assert f(torsh.ones(2, device="cuda"), 1.0).tolist() == [4, 6] and f.cache_info()["misses"] == 2
    g = torsh.compile(lambda x: (x * 2).cpu() + 1)
    with pytest.warns(UserWarning, match="goes from cuda:0 to cpu.*a program runs on one device"):
        assert g(w).tolist() == [5, 7]
    assert g(w).device.type == "cpu"
    with pytest.raises(torsh.TraceError, match="one device"):
        torsh.compile(lambda x: (x * 2).cpu() + 1, fullgraph=True)(w)
    h = torsh.compile(lambda: torsh.ones(2) * 3)
    assert h().device.type == "cpu"
    with torsh.device("cuda"):
        assert h().is_cuda
    assert not h().is_cuda


@cuda
def test_current_device_streams_and_memory():
    c = torsh.cuda
    assert c.current_device() == 0 and c.device_count() >= 1 and c.get_device_name()
    with pytest.raises(torsh.DeviceError):
        c.set_device(c.device_count())
    if c.device_count() > 1:
        with c.device(1):
            assert torsh.ones(1, device="cuda").device.index == 1
    x = torsh.eval(torsh.ones(1000, device="cuda") * 2)
    assert c.is_initialized() and c.memory_allocated() >= 4000 and c.max_memory_allocated() >= c.memory_allocated()
    assert torsh.memory_stats("cuda")["live"] == c.memory_stats()["allocated_bytes.all.current"]
    c.synchronize()
    try:
        s = c.Stream()
    except torsh.DeviceError as e:
        pytest.skip(str(e))
    start, end = c.Event(enable_timing=True), c.Event(enable_timing=True)
    before = c.current_stream()
    with c.stream(s):
        assert c.current_stream() == s
        start.record()
        y = x * 3
        end.record()
    assert c.current_stream() == before
    c.current_stream().wait_event(end)
    end.synchronize()
    assert end.query() and start.elapsed_time(end) >= 0
    assert y.tolist() == [6] * 1000
    free, total = c.mem_get_info()
    assert 0 < free <= total
