"""torsh.export with dims: one package for many sizes, the same bits as torsh.compile at each, and clear refusals."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import torsh
from torsh import _C, Dim, nn
from torsh._sizes import HALVES
from torsh.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]


def bits(x):
    """The bytes of a tensor, or of each of several."""
    if isinstance(x, torsh.Tensor):
        x = x.detach()
        return [x.dtype.name, tuple(x.shape), x.numpy().tobytes()]
    return [bits(v) for v in (x.values() if isinstance(x, dict) else x)]


def load(path):
    """A package on the device under test."""
    return torsh.load(path).to(torsh.get_default_device())


def check(fn, args_at, sizes, path, dynamic, **options):
    """The package made at the first of the sizes gives what the compiled function gives at each of them."""
    torsh.export(fn, args_at(sizes[0]), path, dynamic=dynamic, **options)
    program, compiled = load(path), torsh.compile(fn)
    # Each is compiled by itself, on a device by NVRTC.
    for size in sizes if torsh.get_default_device().type == "cpu" else sizes[:2]:
        args = args_at(size)
        assert bits(program(*args)) == bits(compiled(*args)), size
    return program


def rand(*shape):
    """Of the device under test."""
    return torsh.tensor(np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32))


SIZES = [5, 1, 2, 3, 8, 31, 64, 100, 2]


def test_a_network_over_its_batch(tmp_path):
    torsh.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2), nn.Softmax(-1))
    batch = Dim("batch", max=512)
    program = check(model, lambda n: (rand(n, 3),), SIZES, tmp_path / "m.torsh", {"input": {0: batch}})
    assert program.inputs[0].shape == (batch, 3)
    assert program.outputs[0].shape == (batch, 2)
    assert "input: float32[batch, 3]" in repr(program)
    assert program.manifest["version"] == 2
    assert program.manifest["dims"] == [{"name": "batch", "min": 1, "max": 512}]
    assert "f32[<batch>, 8]" in program.graph


def test_calls_outside_the_range_and_that_disagree(tmp_path):
    n = Dim("n", min=2, max=9)
    torsh.export(lambda x, y: x + y, (rand(3, 4), rand(3, 4)), tmp_path / "a.torsh", dynamic=({0: n}, {0: n}))
    program = load(tmp_path / "a.torsh")
    for shape in [(1, 4), (10, 4), (0, 4)]:
        with pytest.raises(torsh.ShapeError, match=rf'"x" has size {shape[0]} in dim 0; n must be from 2 to 9'):
            program(torsh.ones(shape), torsh.ones(shape))
    with pytest.raises(torsh.ShapeError, match='"y" has size 4 in dim 0, but n is 3 in input "x"'):
        program(torsh.ones(3, 4), torsh.ones(4, 4))
    with pytest.raises(torsh.ShapeError, match=r"'y' must have shape \[n, 4\], got \[3, 5\]"):
        program(torsh.ones(3, 4), torsh.ones(3, 5))
    with pytest.raises(torsh.ShapeError, match=r"must have shape \[n, 4\], got \[3\]"):
        program(torsh.ones(3), torsh.ones(3))
    with pytest.raises(torsh.ShapeError, match="n must be from"):
        program.call_flat([torsh.ones(1, 4), torsh.ones(1, 4)])
    assert program(torsh.ones(3, 4), torsh.ones(3, 4)).tolist() == [[2.0] * 4] * 3


def test_two_dims(tmp_path):
    b, t = Dim("b", max=64), Dim("t", min=2, max=128)
    layer = nn.Linear(6, 12)

    def f(x):
        q, k = layer(x).chunk(2, -1)
        w = F.softmax(q @ k.transpose(-2, -1) / 6**0.5, -1)
        y = (w @ x).reshape(-1, 6)
        return y, y.reshape(x.shape[0], -1), torsh.cat([x, x[:, 1:]], 1), x.sum((0, 2))

    sizes = [(3, 5), (1, 2), (2, 2), (4, 4), (6, 6), (1, 40), (33, 7), (12, 12)]
    program = check(f, lambda s: (rand(*s, 6),), sizes, tmp_path / "a.torsh", ({0: b, 1: t},))
    shapes = [p.shape for p in program.outputs]
    assert shapes == [("b*t", 6), (b, "6*t"), (b, "2*t-1", 6), (t,)]


@pytest.mark.host_only("an export tries hundreds of these sizes, and a device compiles each by NVRTC")
def test_sizes_that_are_rounded(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2)
    )
    h, w = Dim("h", min=24, max=200), Dim("w", min=24, max=200)
    sizes = [(32, 32), (24, 24), (25, 26), (27, 31), (28, 40), (63, 29)]
    program = check(
        lambda x: net(x).flatten(1), lambda s: (rand(2, 1, *s),), sizes, tmp_path / "a.torsh", ({2: h, 3: w},)
    )
    assert "/" in program.outputs[0].shape[1]


def test_numbers_that_are_sizes(tmp_path):
    """Python may compute with sizes as long as the result is an integer, of whatever dtype."""
    n = Dim("n", max=1000)

    def f(x):
        k = x.shape[0]
        return x.sum(0) / k, x * (2 * k + 1), torsh.arange(k), torsh.full((k,), k), F.pad(x, (0, 0, k, 1))

    check(f, lambda k: (rand(k, 3),), SIZES, tmp_path / "a.torsh", ({0: n},))


def training(reduction="mean"):
    torsh.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.25), nn.Linear(16, 3))
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return model, step


def test_a_training_step_over_its_batch(tmp_path):
    model, step = training()
    batch = Dim("batch", max=256)

    def args(n):
        return rand(n, 6), torsh.arange(n) % 3

    before = bits(model.state_dict())
    torsh.export(step, args(8), tmp_path / "s.torsh", dynamic=({0: batch}, {0: batch}))
    assert bits(model.state_dict()) == before, "an export changes nothing"
    program, compiled = load(tmp_path / "s.torsh"), torsh.compile(step)
    for n in (8, 1, 3, 8, 64, 17):
        assert bits(program(*args(n))) == bits(compiled(*args(n))), n
    state = program.state_dict()
    assert all(bits(state[f"model.{name}"]) == bits(value) for name, value in model.state_dict().items())


def test_mean_squares_and_batch_norm(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    opt = torsh.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(x, y):
        loss = F.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    n = Dim("n", min=2)
    check(step, lambda n: (rand(n, 4), rand(n, 1)), [6, 2, 9, 30, 6], tmp_path / "a.torsh", ({0: n}, {0: n}))


def test_gradients_at_each_size(tmp_path):
    layer, n = nn.Linear(4, 3), Dim("n", max=300)
    path = tmp_path / "g.torsh"
    torsh.export(lambda x: (layer(x) ** 2).mean(), (rand(5, 4),), path, dynamic=({0: n},), include_grad=True)
    program = load(path)
    for k in (5, 1, 2, 9, 77):
        x = rand(k, 4).requires_grad_()
        want = torsh.autograd.grad((layer(x) ** 2).mean(), [x, layer.weight, layer.bias])
        y = program(x)
        got = torsh.autograd.grad(y, [x, *program.parameters()])
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=1e-7)


def test_structures_names_and_strings(tmp_path):
    """dynamic may name arguments, follow their structure, and name dims by words; ints and None leave sizes alone."""

    def f(pair, *, mask):
        return {"out": pair[0] * mask, "sum": pair[1]["y"].sum(-1)}

    def args(n, m):
        return {"pair": (rand(n, 2), {"y": rand(m, n)}), "mask": rand(n, 2)}

    path = tmp_path / "a.torsh"
    dynamic = {"pair": ({0: "n"}, {"y": ("m", "n")}), "mask": {-2: "n"}}
    torsh.export(lambda pair, mask: f(pair, mask=mask), args(3, 5), path, dynamic=dynamic)
    program = load(path)
    assert [p.shape for p in program.inputs] == [(Dim("n"), 2), (Dim("m"), Dim("n")), (Dim("n"), 2)]
    for n, m in [(3, 5), (1, 1), (2, 9), (7, 7)]:
        assert bits(program(**args(n, m))) == bits(f(**args(n, m)))


def test_every_size_of_a_short_range(tmp_path):
    """A range of few sizes: at each of them; a range of one size as well."""
    for low, high in [(1, 3), (2, 2), (4, 6)]:
        n = Dim("n", min=low, max=high)
        check(
            lambda x: (x.reshape(-1) * 2, x.mean(0)), lambda k: (rand(k, 3),), list(range(low, high + 1)),
            tmp_path / "a.torsh", ({0: n},),
        )  # fmt: skip


def test_many_sizes_are_bounded(tmp_path):
    """More sizes than a program keeps, in turn."""
    n = Dim("n")
    torsh.export(lambda x: x.cumsum(0), (torsh.ones(3),), tmp_path / "a.torsh", dynamic=({0: n},))
    program = load(tmp_path / "a.torsh")
    for _ in range(2):
        for k in range(1, 60 if torsh.get_default_device().type == "cpu" else 9):
            assert program(torsh.ones(k))[-1].item() == k


def test_inside_compile_and_exported_again(tmp_path):
    n = Dim("n", max=50)
    torsh.export(lambda x: x.softmax(0), (rand(3),), tmp_path / "a.torsh", dynamic=({0: n},))
    program = load(tmp_path / "a.torsh")
    outer = torsh.compile(lambda x: program(x) * 2, fullgraph=True)
    for k in (3, 4, 1):
        assert bits(outer(rand(k))) == bits(program(rand(k)) * 2)
    torsh.export(lambda x: program(x) * 2, (rand(3),), tmp_path / "b.torsh", dynamic=({0: n},))
    assert bits(load(tmp_path / "b.torsh")(rand(7))) == bits(outer(rand(7)))


def test_the_same_function_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        torsh.export(F.relu, (rand(3, 4),), tmp_path / name, dynamic=({0: "n", 1: "m"},), name="f")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sizes_need_no_memory(tmp_path):
    """A range far beyond what memory holds is traced to its end all the same."""
    n = Dim("n", max=2**31)
    torsh.export(lambda x: x[:, :2] + 1, (rand(2, 1000),), tmp_path / "a.torsh", dynamic=({0: n},))
    assert load(tmp_path / "a.torsh").inputs[0].shape[0].max == 2**31


# -- examples ----------------------------------------------------------------------------------------------


def example(name: str):
    """An example as a module."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step_of(model, opt, loss_of=F.cross_entropy):
    def step(x, y):
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


@pytest.mark.compiled_only
def test_digits_cnn(tmp_path):
    model = example("digits_cnn").network()
    opt = torsh.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    batches = {n: (torsh.rand(n, 1, 8, 8), torsh.randint(10, (n,))) for n in (16, 1, 2, 9)}
    batch = {0: Dim("batch", max=128)}
    check(step_of(model, opt), batches.get, list(batches), tmp_path / "step.torsh", (batch, batch))
    check(model.eval(), lambda n: batches[n][:1], list(batches), tmp_path / "forward.torsh", (batch,))


@pytest.mark.compiled_only
def test_demo(tmp_path):
    demo = example("demo")
    model = demo.CharModel(40, demo.Size().char_hidden)
    opt = torsh.optim.AdamW(model.parameters(), lr=3e-3)
    batches = {n: (torsh.randint(40, (n, demo.CONTEXT)), torsh.randint(40, (n,))) for n in (16, 1, 5, 64)}
    batch = {0: Dim("batch", max=64)}
    check(demo.make_step(model, opt), batches.get, list(batches), tmp_path / "step.torsh", (batch, batch))
    check(model.eval(), lambda n: batches[n][:1], list(batches), tmp_path / "forward.torsh", (batch,))


@pytest.mark.compiled_only
def test_nanogpt(tmp_path):
    model = example("nanogpt").GPT(50, example("nanogpt").Size())
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    batches = {s: (torsh.randint(50, s), torsh.randint(50, s)) for s in [(2, 64), (1, 64), (3, 64)]}
    step = step_of(model, opt, lambda z, y: F.cross_entropy(z.reshape(-1, 50), y.reshape(-1)))
    batch = {0: Dim("batch", max=32)}
    check(step, batches.get, list(batches), tmp_path / "step.torsh", (batch, batch))
    tokens = {s: (torsh.randint(50, s),) for s in [(2, 64), (1, 1), (2, 2), (3, 17), (5, 5)]}
    dims = ({0: Dim("batch", max=32), 1: Dim("length", max=64)},)
    check(model, tokens.get, list(tokens), tmp_path / "forward.torsh", dims)


# -- refusals ----------------------------------------------------------------------------------------------


def _branch(x):
    return x * 2 if x.shape[0] < 12 else x.exp()


def _large(x):
    return x.sin() if x.shape[0] > 400 else x.cos()


def _clip(x):
    return x[:20] * 1


def _baked(x):
    return x * (1.0 / x.shape[0])


def _seven(x):
    return x.reshape(-1) if x.shape[0] != 1 else x.exp().reshape(-1)


def _broadcast(x):
    return x * torsh.ones(2, 4)


def _table(x):
    return x + torsh.tensor(np.ones(x.shape[0], dtype=np.float32))[:, None]


def _noise(x):
    return x + torsh.tensor(np.full(4, x.shape[0], dtype=np.float32))


REFUSALS = {
    "branch": (
        _branch,
        Dim("n", max=500),
        r"at n=\d+ is another than at n=\d+, at \w+ \(.*test_dynamic_export.py:\d+\).*exp",
    ),
    "branch at the far end": (_large, Dim("n", max=500), r"at n=500 is another than at n=\d+.*sin \(.*\.py:\d+\)"),
    "piecewise sizes": (_clip, Dim("n", max=500), r"slice \(.*\.py:\d+\).*Restrict the range"),
    "baked float": (_baked, Dim("n", max=500), r"full \(.*\.py:\d+\) has a number that follows.*value=.*n=.*Divide"),
    "special case of 1": (_seven, Dim("n", max=500), r"at n=1 is another.*exp.*min=2"),
    "broadcast": (_broadcast, Dim("n", max=500), r"cannot be traced at n=\d.*Restrict the range"),
    "state of another size": (_table, Dim("n", max=500), r"the state 'constant.*' is float32 \[\d+\] at n="),
    "state of other values": (_noise, Dim("n", max=500), r"the state 'constant.*' has other values"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_functions_that_do_something_else_at_other_sizes(case, tmp_path):
    fn, dim, reason = REFUSALS[case]
    path = tmp_path / "a.torsh"
    with pytest.raises(torsh.ExportError, match=reason):
        torsh.export(fn, (rand(2, 4),), path, dynamic=({0: dim},))
    assert not path.exists()


def test_a_restricted_range_helps(tmp_path):
    check(_branch, lambda n: (rand(n, 4),), [2, 1, 5, 11], tmp_path / "a.torsh", ({0: Dim("n", max=11)},))
    check(_clip, lambda n: (rand(n, 4),), [30, 20, 99], tmp_path / "b.torsh", ({0: Dim("n", min=20, max=500)},))
    check(_seven, lambda n: (rand(n, 4),), [3, 2], tmp_path / "c.torsh", ({0: Dim("n", min=2)},))


@pytest.mark.parametrize(("add", "divisor", "low"), [(15, 16, 16), (10, 20, 33), (31, 32, 40)])
def test_quotients_of_sizes_are_right_at_every_size(tmp_path, add, divisor, low):
    def fn(x):
        return torsh.zeros((x.shape[0] + add) // divisor) + x.sum()

    sizes = range(low, low + 3 * divisor)
    dim = Dim("n", min=low, max=sizes[-1])
    check(fn, lambda n: (rand(n),), [low + 4, *sizes], tmp_path / "a.torsh", ({0: dim},))


@pytest.mark.parametrize(("factor", "add", "divisor"), [(3, 5, 16), (7, 0, 24), (5, 40, 48)])
def test_a_quotient_that_is_not_found_is_refused(tmp_path, factor, add, divisor):
    def fn(x):
        return torsh.zeros((factor * x.shape[0] + add) // divisor + 1) + x.sum()

    path = tmp_path / "a.torsh"
    try:
        torsh.export(fn, (rand(20),), path, dynamic=({0: Dim("n", min=8, max=64)},))
    except torsh.ExportError:
        return
    program = load(path)
    assert all(program(rand(n)).shape == fn(rand(n)).shape for n in range(8, 65))


@pytest.mark.parametrize(
    "count",
    [
        lambda n, m: n * m // 2,
        lambda n, m: (n * m + 3) // 7,
        lambda n, m: (n + m) // 2,
        lambda n, m: -(-(n + m) // 3),
        lambda n, m: n % 4,
        lambda n, m: -m % 8,
    ],
)
def test_quotients_of_two_sizes(tmp_path, count):
    dims = {0: Dim("n", min=3, max=90), 1: Dim("m", min=2, max=60)}
    torsh.export(lambda x: x.sum() + count(*x.shape), (rand(12, 10),), tmp_path / "a.torsh", dynamic=(dims,))
    program = load(tmp_path / "a.torsh")
    for n, m in ((3, 2), (90, 60), (13, 11), (41, 7), (14, 32)):
        assert program(torsh.zeros(n, m)).item() == count(n, m)


def test_a_whole_number_that_is_not_found_is_called_that(tmp_path):
    with pytest.raises(torsh.ExportError, match=r"4.0 at n=400, where 0.0 was expected .* by up to 64"):
        torsh.export(
            lambda x: x * (x.shape[0] // 100), (rand(12, 5),), tmp_path / "a.torsh", dynamic=({0: Dim("n", max=400)},)
        )


@pytest.mark.parametrize("low", [1, 700, 5000])
@pytest.mark.parametrize("dtype", [torsh.float16, torsh.bfloat16])
def test_constants_of_16_bits_are_rounded(tmp_path, dtype, low):
    def f(x):
        n = x.shape[0]
        return (
            x.to(dtype) + n,
            torsh.full((2,), n, dtype=dtype),
            torsh.full((1,), 2 * n, dtype=dtype) - x[:1, 0].to(dtype),
        )

    dim = Dim("n", min=low, max=70000)
    torsh.export(f, (rand(low, 2),), tmp_path / "a.torsh", dynamic=({0: dim},))
    program = torsh.load(tmp_path / "a.torsh")
    for n in (low, low + 1, low + 257, low + 2049, 30000, 70000):
        x = torsh.ones(n, 2)
        assert [y.tolist() for y in program(x)] == [y.tolist() for y in torsh.compile(f)(x)]


def test_sizes_that_are_tried_are_not_compiled(tmp_path):
    seen = set()

    def f(x):
        seen.add(x.shape[0])
        return x.sum(0) * 2 + x[1:].amax(0)

    before = _C.cache_info()["misses"]
    torsh.export(f, (rand(12, 2),), tmp_path / "a.torsh", dynamic=({0: Dim("n", min=2, max=40000)},))
    assert len(seen) > 8
    assert _C.cache_info()["misses"] - before < 4


def test_rounded_constants_are_tried_at_large_sizes(tmp_path):
    """Where other sizes are rounded to the same than at the small ones."""
    seen = set()

    def f(x):
        seen.add(x.shape[0])
        return torsh.full((2,), x.shape[0], dtype=torsh.float16)

    torsh.export(f, (rand(5000, 2),), tmp_path / "a.torsh", dynamic=({0: Dim("n", min=5000, max=40000)},))
    assert any(40000 - 4096 <= n < 40000 for n in seen), sorted(seen)


def test_sizes_are_not_rounded_as_constants_of_16_bits_are(tmp_path):
    def f(x):
        return torsh.full((HALVES["f16"](x.shape[0]), 2), 1.0, dtype=torsh.float16)

    with pytest.raises(torsh.ExportError, match="no way that a package can hold"):
        torsh.export(f, (rand(5000, 2),), tmp_path / "a.torsh", dynamic=({0: Dim("n", min=5000, max=6000)},))


@pytest.mark.host_only("an export tries hundreds of these sizes, and a device compiles each by NVRTC")
def test_layers_with_strides_over_their_length(tmp_path):
    torsh.manual_seed(0)
    model = nn.Sequential(*(nn.Conv1d(2, 2, 3, stride=2, padding=1) for _ in range(4)))
    dim = Dim("n", min=32, max=100)
    check(model, lambda n: (rand(1, 2, n),), [40, 32, 33, 34, 49, 100], tmp_path / "a.torsh", ({2: dim},))


class _Keeper(nn.Module):
    def forward(self, x):
        self.last = x
        return x * 2


def test_arguments_that_are_kept_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match="another tensor in the place of 'last'"):
        torsh.export(_Keeper(), (rand(4, 3),), tmp_path / "a.torsh", dynamic=({0: Dim("n", max=50)},))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dynamic", [None, {"x": {0: "n"}}])
def test_an_export_leaves_attributes_variables_and_containers_as_they_are(tmp_path, dynamic):
    last = None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torsh.ones(3))
            self.old, self.log, self.by_name = torsh.ones(2), ["start"], {}

        def forward(self, x):
            nonlocal last
            last = self.last = x
            self.log.append(x * 2)
            self.by_name["y"] = [x]
            self.old = x + 1
            self._buffers["more"] = x.sum()
            return x * self.state

    net = Net()
    old, places = net.old, set(vars(net))
    with contextlib.suppress(torsh.ExportError):
        torsh.export(net, (rand(4, 3),), tmp_path / "a.torsh", dynamic=dynamic)
    assert last is None and set(vars(net)) == places
    assert net.old is old and net.log == ["start"] and net.by_name == {} and list(net._buffers) == ["state"]
    assert net(torsh.ones(2, 3)).tolist() == [[1.0] * 3] * 2 and net.last.shape == (2, 3)


def test_arguments_and_dims_of_one_name(tmp_path):
    def export(f, args, dynamic):
        torsh.export(f, args, tmp_path / "a.torsh", dynamic=dynamic)

    n, m = Dim("n"), Dim("m")
    with pytest.raises(
        torsh.ExportError, match="dynamic of x has one dim twice, as -1 and as 1; the tensor has 2 dims"
    ):
        export(lambda x: x, (torsh.ones(3, 4),), {"x": {-1: n, 1: m}})
    with pytest.raises(torsh.ExportError, match="dynamic of x has one dim twice, as 0 and as -2"):
        export(lambda x: x, (torsh.ones(3, 4),), {"x": {0: n, -2: None}})
    # The second argument would be called arg1 too.
    export(lambda arg1, *more: arg1.sum() + more[0], (torsh.ones(3), torsh.ones(5)), {"arg1_": {0: n}, "arg1": {0: m}})
    assert load(tmp_path / "a.torsh")(torsh.ones(4), torsh.ones(2)).tolist() == [5.0, 5.0]


def test_dims_that_make_no_sense(tmp_path):
    def export(dynamic):
        torsh.export(lambda x, k: x * k, (torsh.ones(3, 4), 2), tmp_path / "a.torsh", dynamic=dynamic)

    n = Dim("n")
    for dynamic, error, reason in [
        ({"z": {0: n}}, torsh.ExportError, "no arguments"),
        ({"x": {2: n}}, torsh.ExportError, "has the dim 2"),
        ({"x": {"0": n}}, torsh.ExportError, "has the dim '0'"),
        ({"x": (n,)}, torsh.ExportError, "1 entries for 2 dims"),
        ({"x": n}, TypeError, "must be a dict from dims"),
        ({"x": {0: 5}}, TypeError, "torsh.Dim, a name or None"),
        ({"x": {0: 1.5}}, TypeError, "torsh.Dim, a name or None"),
        ({"k": {0: n}}, TypeError, "int has no sizes"),
        ({"x": {0: n, 1: n}}, torsh.ExportError, "n is 3 in dim 0 of x of the example and 4"),
        ({"x": {0: Dim("n", min=4)}}, torsh.ExportError, "is 3 in the example, which"),
        ({"x": {0: n, 1: Dim("n", max=5)}}, torsh.ExportError, "elsewhere"),
        ({"x": None}, torsh.ExportError, "names no dim"),
        ({}, torsh.ExportError, "names no dim"),
        (True, TypeError, "must be a dict"),
        (({0: n},), TypeError, "must be a dict"),
    ]:
        with pytest.raises(error, match=reason):
            export(dynamic)
    for name, bounds, error in [
        ("", {}, ValueError), ("1n", {}, ValueError), ("a b", {}, ValueError), ("n" * 65, {}, ValueError),
        ("n", {"min": 0}, ValueError), ("n", {"min": 5, "max": 4}, ValueError), ("n", {"max": 2**31 + 1}, ValueError),
        ("n", {"max": 2.0}, TypeError), ("n", {"min": True}, TypeError), (3, {}, ValueError),
    ]:  # fmt: skip
        with pytest.raises(error, match=r"Dim\("):
            Dim(name, **bounds)


# -- the command, the schema, without Python -----------------------------------------------------------------------


def test_the_command_and_the_schema(tmp_path):
    import sys

    script = tmp_path / "s.py"
    script.write_text(
        "import torsh\ndef f(x):\n    return x.flatten(1) * 2\nexample_args = (torsh.ones(2, 3, 4),)\n"
        "sizes = {'x': {0: torsh.Dim('batch', max=99), 2: 'm'}}\n"
    )
    path = tmp_path / "f.torsh"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORSH_")}

    def command(*words):
        made = subprocess.run(
            [sys.executable, "-m", "torsh", *map(str, words)], capture_output=True, text=True, env=environment
        )
        assert made.returncode == 0, made.stderr
        return made.stdout

    command("export", f"{script}:f", "-o", path, "--dynamic", "sizes")
    told = command("inspect", path, "--kernels", "--graph")
    assert "dim batch: from 1 to 99" in told and "dim m: from 1 to 2147483648" in told
    assert "input x: float32 [batch, 3, m]" in told and "output output: float32 [batch, 3*m]" in told
    assert "peak at the smallest sizes" in told and "f32[<batch>, 3, <m>]" in told
    assert "good" in command("verify", path)
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "package.schema.json").read_text())
    manifest = load(path).manifest
    jsonschema.validate(manifest, schema)
    for edit in ({"version": 1}, {"dims": []}, {"dims": [{"name": "a b", "min": 1, "max": 2}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**manifest, **edit}, schema)


@pytest.mark.compiled_only
@pytest.mark.host_only("torsh-run runs on the host")
def test_torsh_run(tmp_path):
    """The Rust program gives the bits that Python gives, at each size, if it has been built."""
    binary = Path(os.environ.get("TORSH_RUN_BINARY", ROOT / "target" / "release" / "torsh-run"))
    if not binary.exists():
        pytest.skip("torsh-run has not been built (cargo build --release -p torsh-run)")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORSH_")}

    def run(*words, status: int = 0):
        done = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    model, step = training()
    path, batch = tmp_path / "s.torsh", Dim("batch", max=64)
    torsh.export(step, (rand(8, 6), torsh.arange(8) % 3), path, dynamic=({0: batch}, {0: batch}))
    told = run(path, "--info")
    assert "dim batch: from 1 to 64" in told and "input x: float32 [batch, 6]" in told
    for n in (8, 1, 33):
        x, y = rand(n, 6), torsh.arange(n) % 3
        np.save(tmp_path / "x.npy", x.numpy())
        np.save(tmp_path / "y.npy", y.numpy())
        given = ("--input", f"x={tmp_path / 'x.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
        run(path, *given, "--output", tmp_path / "loss.npy", "--repeat", 2)
        program = load(path)
        program(x, y)
        assert np.load(tmp_path / "loss.npy").tobytes() == program(x, y).numpy().tobytes()
    np.save(tmp_path / "y.npy", np.arange(5) % 3)
    assert 'input "y" has size 5 in dim 0, but batch is 33 in input "x"' in run(path, *given, status=1)
