"""torsh.export and torsh.load: the same bits as torsh.compile, state, structure, gradients, signatures, errors."""

from __future__ import annotations

import collections
import concurrent.futures
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from export_cases import bits, load, training_step

import torsh
from torsh import nn
from torsh.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# The interpreter adds in another order than machine code: in either mode, both sides run the same way.
Point = collections.namedtuple("Point", ("a", "b"))


def example(name: str):
    """An example as a module."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_step(step, batches, path, model):
    """An exported training step takes the same steps as the compiled one, bit for bit; the original is not touched."""
    before = bits(list(model.state_dict().values()))
    torsh.export(step, batches[0], path)
    assert bits(list(model.state_dict().values())) == before, "an export changes nothing"
    program, compiled = load(path), torsh.compile(step)
    for batch in batches:
        assert bits(program(*batch)) == bits(compiled(*batch))
    state = program.state_dict()
    prefix = next(n for n in state if n.endswith(next(iter(model.state_dict()))))
    prefix = prefix.removesuffix(next(iter(model.state_dict())))
    for name, value in model.state_dict().items():
        if prefix + name in state:
            assert bits(state[prefix + name]) == bits(value), name
    return program


def test_a_training_step_with_dropout_and_adamw(tmp_path):
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 4))
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [(torsh.randn(8, 16), torsh.randint(4, (8,))) for _ in range(4)]
    program = check_step(training_step(model, opt), batches, tmp_path / "step.torsh", model)
    names = list(program.state_dict())
    assert "model.0.weight" in names and "opt.model.0.weight.exp_avg" in names
    assert "opt.lr" in names and "random.state" in names
    assert [p.name for p in program.inputs] == ["x", "y"]
    assert program.outputs[0].shape == () and program.outputs[0].dtype == torsh.float32


def test_learning_rate_of_a_loaded_step(tmp_path):
    model = nn.Linear(4, 2)
    opt = torsh.optim.SGD(model.parameters(), lr=0.5)
    step = training_step(model, opt)
    x, y = torsh.randn(8, 4), torsh.randint(2, (8,))
    torsh.export(step, (x, y), tmp_path / "s.torsh")
    program = load(tmp_path / "s.torsh")
    program.load_state_dict({"opt.lr": 0.125}, strict=False)
    opt.param_groups[0]["lr"] = 0.125
    compiled = torsh.compile(step)
    for _ in range(3):
        assert bits(program(x, y)) == bits(compiled(x, y))


def test_demo_models(tmp_path):
    demo = example("demo")
    xs, ys, *_ = demo.digits()
    model = demo.classifier(demo.Size().hidden)
    opt = torsh.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    n = demo.Size().batch
    batches = [(torsh.tensor(xs[i : i + n]), torsh.tensor(ys[i : i + n])) for i in (0, n, 2 * n)]
    check_step(demo.make_step(model, opt), batches, tmp_path / "digits.torsh", model)
    letters = demo.CharModel(40, demo.Size().char_hidden)
    opt = torsh.optim.AdamW(letters.parameters(), lr=3e-3)
    batches = [(torsh.randint(40, (64, demo.CONTEXT)), torsh.randint(40, (64,))) for _ in range(3)]
    check_step(demo.make_step(letters, opt), batches, tmp_path / "letters.torsh", letters)
    check_forward(letters.eval(), (batches[0][0],), tmp_path / "forward.torsh")


def test_digits_cnn(tmp_path):
    cnn = example("digits_cnn")
    model = cnn.network()
    opt = torsh.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    batches = [(torsh.rand(16, 1, 8, 8), torsh.randint(10, (16,))) for _ in range(3)]
    check_step(training_step(model, opt), batches, tmp_path / "cnn.torsh", model)
    check_forward(model.eval(), (batches[0][0],), tmp_path / "forward.torsh")


@pytest.mark.compiled_only
def test_nanogpt(tmp_path):
    gpt = example("nanogpt")
    model = gpt.GPT(50, gpt.Size())
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    batches = [(torsh.randint(50, (2, 64)), torsh.randint(50, (2, 64))) for _ in range(3)]
    step = training_step(model, opt, lambda z, y: F.cross_entropy(z.reshape(-1, 50), y.reshape(-1)))
    check_step(step, batches, tmp_path / "gpt.torsh", model)
    check_forward(model, (batches[0][0],), tmp_path / "forward.torsh")


def check_forward(fn, args, path):
    torsh.export(fn, args, path)
    program = load(path)
    compiled = torsh.compile(fn)
    for _ in range(2):
        assert bits(program(*args)) == bits(compiled(*args))
    return program


def _workloads():
    from benchmarks import workloads
    from benchmarks.workloads import elementwise, matmul, mlp

    # Every workload; those of large arrays are the same graphs over fewer elements.
    small = [
        elementwise.Gelu("64M", 1 << 16), elementwise.Chain("16M", 1 << 14), matmul.Matmul(96),
        mlp.Mlp("mlp-1024", (64, 256, 64), 32, "gelu", "mse", mlp.Optimizer("sgd", 1.0)),
    ]  # fmt: skip
    small[2].name = "matmul-2048"
    instead = {w.name: w for w in small}
    return [instead.get(w.name, w) for w in workloads.WORKLOADS.values()]


@pytest.mark.compiled_only
@pytest.mark.host_only("of sizes for the host")
@pytest.mark.parametrize("workload", _workloads(), ids=lambda w: w.name)
def test_workloads(workload, tmp_path):
    rng = np.random.default_rng(0)
    arrays = [torsh.from_numpy(a) for a in workload.inputs(np, rng)]

    def bind():
        torsh.manual_seed(0)
        copies = [a.clone() for a in arrays]
        return workload.torch(torsh, copies, "torsh")

    fn, args = bind()
    path = tmp_path / "w.torsh"
    torsh.export(fn, tuple(args), path)
    program = load(path)
    fn, args = bind()
    compiled = torsh.compile(fn)
    for _ in range(3 if workload.kind == "step" else 1):
        got, want = program(*args), compiled(*args)
        got, want = ([x] if isinstance(x, torsh.Tensor) else list(x) for x in (got, want))
        assert bits(got) == bits(want)


# -- structure ---------------------------------------------------------------------------------------------


def test_structure_of_arguments_and_results(tmp_path):
    def f(pair, options, scale, *, mode):
        x, (y, z) = pair
        assert mode == "sum" and options["deep"][1] is None
        return {"s": x + y, "p": Point(z * scale, [options["w"], (x, 7, None, "text", 2.5)])}

    x, y, z, w = (torsh.randn(3) for _ in range(4))
    args = {"pair": (x, [y, z]), "options": {"w": w, "deep": [1, None]}, "scale": 2.0, "mode": "sum"}
    torsh.export(f, args, tmp_path / "f.torsh")
    program = load(tmp_path / "f.torsh")
    want, got = f(**args), program(**args)
    assert list(got) == ["s", "p"] and type(got["p"]).__name__ == "Point" and got["p"]._fields == ("a", "b")
    assert got["p"].b[1][1:] == (7, None, "text", 2.5) and isinstance(got["p"].b, list)
    assert bits(got["s"]) == bits(want["s"]) and bits(got["p"].a) == bits(want["p"].a)
    assert bits(got["p"].b[0]) == bits(w) and bits(got["p"].b[1][0]) == bits(x)
    assert [p.name for p in program.inputs] == ["pair.0", "pair.1.0", "pair.1.1", "options.w", "scale"]
    # A float is an input of its own, and keywords may come in any order.
    again = program(mode="sum", scale=3.0, options=args["options"], pair=args["pair"])
    assert bits(again["p"].a) == bits(f(**{**args, "scale": 3.0})["p"].a)
    with pytest.raises(ValueError, match="was 'sum'"):
        program(**{**args, "mode": "mean"})
    with pytest.raises(TypeError, match="must be a tuple of 2"):
        program(**{**args, "pair": [x, [y, z]]})
    with pytest.raises(TypeError, match="keys"):
        program(**{**args, "options": {"w": w}})


def test_wrong_arguments_name_the_input(tmp_path):
    torsh.export(lambda x, y: x @ y, (torsh.ones(2, 3), torsh.ones(3, 2)), tmp_path / "f.torsh")
    program = load(tmp_path / "f.torsh")
    x, y = torsh.ones(2, 3), torsh.ones(3, 2)
    with pytest.raises(torsh.ShapeError, match=r"input 'y' must have shape \[3, 2\], got \[2, 3\]"):
        program(x, x)
    with pytest.raises(torsh.DTypeError, match="input 'x' must be float32, got float64"):
        program(x.double(), y)
    with pytest.raises(TypeError, match="input 'x' must be a Tensor, got int"):
        program(1, y)
    with pytest.raises(TypeError, match="missing the argument 'y'"):
        program(x)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
        program(x, y, x)
    with pytest.raises(TypeError, match="keyword arguments must be a dict"):
        program(x, y, z=1)
    assert bits(program(y=y, x=x)) == bits(x @ y)


def test_every_dtype(tmp_path):
    dtypes = (
        torsh.bool, torsh.uint8, torsh.int8, torsh.int16, torsh.int32, torsh.int64, torsh.float16, torsh.bfloat16,
        torsh.float32, torsh.float64,
    )  # fmt: skip
    state = [torsh.tensor([0, 1, 1]).to(d) for d in dtypes]

    def f(*xs):
        return tuple(x + s if x.dtype != torsh.bool else x | s for x, s in zip(xs, state, strict=True))

    xs = tuple(torsh.tensor([1, 0, 1]).to(d) for d in dtypes)
    torsh.export(f, xs, tmp_path / "f.torsh")
    got, want = load(tmp_path / "f.torsh")(*xs), f(*xs)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and a.float().tolist() == b.float().tolist()


def test_odd_shapes_and_no_inputs(tmp_path):
    empty = torsh.ones(0, 3)
    got = check_forward(lambda x: (x * 2, x.sum()), (empty,), tmp_path / "a.torsh")
    assert got.outputs[0].shape == (0, 3)
    torsh.export(lambda: torsh.arange(3) + 1, (), tmp_path / "b.torsh")
    assert load(tmp_path / "b.torsh")().tolist() == [1, 2, 3]
    # An argument that is not used, one that is given back, and one output twice.
    torsh.export(lambda x, y: (x, x, y * 0 + 1), (torsh.ones(2), torsh.ones(2)), tmp_path / "c.torsh")
    a, b, c = load(tmp_path / "c.torsh")(torsh.tensor([5.0, 6.0]), torsh.ones(2))
    assert a.tolist() == b.tolist() == [5.0, 6.0] and c.tolist() == [1.0, 1.0]


def test_floats_whose_value_the_trace_needs_are_fixed(tmp_path):
    def f(x, k, s):
        return x * s if k > 1.0 else x

    torsh.export(f, (torsh.ones(2), 2.0, 3.0), tmp_path / "f.torsh")
    program = load(tmp_path / "f.torsh")
    assert program(torsh.ones(2), 2.0, 5.0).tolist() == [5.0, 5.0]
    with pytest.raises(ValueError, match="was 2.0"):
        program(torsh.ones(2), 0.5, 5.0)


# -- state -------------------------------------------------------------------------------------------------


def test_state_is_the_programs_own(tmp_path):
    model = nn.BatchNorm1d(3)
    x = torsh.randn(8, 3)
    torsh.export(model, (x,), tmp_path / "bn.torsh")
    a, b = load(tmp_path / "bn.torsh"), load(tmp_path / "bn.torsh")
    assert list(a.state_dict()) == list(model.state_dict())
    compiled = torsh.compile(model)
    for _ in range(2):
        assert bits(a(x)) == bits(compiled(x))
    assert bits(a.state_dict()["running_mean"]) == bits(model.running_mean)
    assert b.state_dict()["running_mean"].tolist() == [0.0, 0.0, 0.0], "another instance has state of its own"
    assert load(tmp_path / "bn.torsh").state_dict()["running_var"].tolist() == [1.0] * 3


def test_load_state_dict(tmp_path):
    model = nn.Linear(3, 2)
    x = torsh.randn(4, 3)
    torsh.export(model, (x,), tmp_path / "m.torsh")
    program = load(tmp_path / "m.torsh")
    other = nn.Linear(3, 2)
    program.load_state_dict(other.state_dict())
    assert bits(program(x)) == bits(torsh.compile(other)(x))
    with pytest.raises(KeyError, match="missing names"):
        program.load_state_dict({"weight": other.weight})
    with pytest.raises(KeyError, match="unexpected names"):
        program.load_state_dict({"w": other.weight}, strict=False)
    with pytest.raises(torsh.ShapeError, match="'bias' must have shape"):
        program.load_state_dict({"weight": other.weight * 2, "bias": other.weight})
    with pytest.raises(torsh.DTypeError, match="'bias' must be float32"):
        program.load_state_dict({"bias": other.bias.double()}, strict=False)
    assert bits(program(x)) == bits(torsh.compile(other)(x)), "a refused state changes nothing"
    torsh.save(program.state_dict(), tmp_path / "s.safetensors")
    assert sorted(load(tmp_path / "s.safetensors")) == ["bias", "weight"]


def test_gradients_that_accumulate_are_state(tmp_path):
    model = nn.Linear(3, 1)
    x = torsh.randn(4, 3)

    def accumulate(x):
        model(x).sum().backward()
        return model.weight.grad.sum()

    torsh.export(accumulate, (x,), tmp_path / "a.torsh")
    assert model.weight.grad is None
    program = load(tmp_path / "a.torsh")
    assert "model.weight.grad" in program.state_dict()
    first, second = program(x).item(), program(x).item()
    assert second == pytest.approx(2 * first)

    def clears_first(x):
        model.zero_grad()
        loss = model(x).sum()
        loss.backward()
        return model.weight.grad

    torsh.export(clears_first, (x,), tmp_path / "b.torsh")
    program = load(tmp_path / "b.torsh")
    assert not [n for n in program.state_dict() if n.endswith("grad")]
    assert bits(program(x)) == bits(program(x))


def test_random_numbers_continue_in_the_program(tmp_path):
    torsh.manual_seed(7)
    torsh.export(lambda: torsh.rand(4), (), tmp_path / "r.torsh")
    program = load(tmp_path / "r.torsh")
    assert bits([program(), program()]) == bits([torsh.rand(4), torsh.rand(4)])
    assert bits(load(tmp_path / "r.torsh")()) != bits(program())


def test_programs_run_on_several_threads(tmp_path):
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8))
    x = torsh.randn(16, 32)
    torsh.export(model, (x,), tmp_path / "m.torsh")
    shared = load(tmp_path / "m.torsh")
    want = bits(shared(x))

    def work(_):
        own = torsh.load(tmp_path / "m.torsh", x.device)
        return [p(x) for _ in range(20) for p in (own, shared)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert all(bits(y) == want for y in found)


# -- gradients and compile ---------------------------------------------------------------------------------


def test_gradients_of_a_loaded_program(tmp_path):
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 2))
    x = torsh.randn(3, 5)
    torsh.export(model, (x,), tmp_path / "m.torsh", include_grad=True)
    program = load(tmp_path / "m.torsh")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    program(a).square().sum().backward()
    model(b).square().sum().backward()
    assert torsh.allclose(a.grad, b.grad, rtol=1e-5)
    for name, p in program.named_parameters():
        assert torsh.allclose(p.grad, dict(model.named_parameters())[name].grad, rtol=1e-5), name
    # It can be trained further.
    opt = torsh.optim.SGD(program.parameters(), lr=0.1)
    step = torsh.compile(training_step(program, opt))
    y = torsh.tensor([0, 1, 0])
    losses = [step(x, y).item() for _ in range(20)]
    assert losses[-1] < losses[0] * 0.8
    assert json.loads(program._package.manifest)["vjp"]["outputs"][0] == {"input": 0}
    # Without gradients, results are data.
    torsh.export(model, (x,), tmp_path / "n.torsh")
    assert not load(tmp_path / "n.torsh")(a).requires_grad


def test_gradients_of_a_function_that_updates_state(tmp_path):
    """Dropout and batch norm: the gradients are those of the same random state, and a call updates it."""
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    x = torsh.randn(6, 5)
    torsh.export(model, (x,), tmp_path / "m.torsh", include_grad=True)
    program = load(tmp_path / "m.torsh")
    for _ in range(2):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        program(a).square().sum().backward()
        model(b).square().sum().backward()
        assert torsh.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert torsh.allclose(program.state_dict()["1.running_mean"], model[1].running_mean)
    assert all("state" not in slot or slot["state"] < 9 for slot in program.manifest["vjp"]["outputs"])


def test_inside_compile(tmp_path):
    model = nn.Linear(3, 3)
    x = torsh.randn(2, 3)
    torsh.export(model, (x,), tmp_path / "m.torsh")
    program = load(tmp_path / "m.torsh")
    f = torsh.compile(lambda x: torsh.relu(program(x)) + 1, fullgraph=True)
    assert torsh.allclose(f(x), torsh.relu(model(x)) + 1)
    assert f.cache_info()["entries"] == 1
    # A program can be exported again.
    torsh.export(lambda x: program(x) * 2, (x,), tmp_path / "again.torsh")
    again = load(tmp_path / "again.torsh")
    assert list(again.state_dict()) == ["program.weight", "program.bias"]
    assert torsh.allclose(again(x), model(x) * 2)


def test_a_detached_value_that_becomes_an_index_stops_nothing(tmp_path):
    pool = nn.MaxPool2d(2)
    x = torsh.randn(1, 1, 4, 4)
    torsh.export(lambda x: pool(x) * x.detach().argmax(), (x,), tmp_path / "p.torsh", include_grad=True)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    load(tmp_path / "p.torsh")(a).sum().backward()
    (pool(b) * b.detach().argmax()).sum().backward()
    assert torsh.allclose(a.grad, b.grad)


@pytest.mark.parametrize("view", ["w.T", "w.flip(0)", "w[1:]", "w.reshape(3, 3)", "nn.Parameter(w.T)", "w.T.detach()"])
def test_a_view_is_what_it_is_of_its_tensor(tmp_path, view):
    w = torsh.arange(9).reshape(3, 3) * 0.5
    view = eval(view, {"w": w, "nn": nn})
    x = torsh.arange(view.numel()).reshape(view.shape) * 0.25
    torsh.export(lambda x: x * view, (x,), tmp_path / "view.torsh")
    assert load(tmp_path / "view.torsh")(x).tolist() == (x * view).tolist()


def test_gradients_that_a_package_cannot_hold(tmp_path):
    x = torsh.randn(3)
    for f in (lambda x: x * x.detach(), _partly):
        with pytest.raises(torsh.ExportError, match="a gradient stops"):
            torsh.export(f, (x,), tmp_path / "f.torsh", include_grad=True)
    with pytest.raises(torsh.ExportError, match="no output depends"):
        torsh.export(lambda x: x.argmax(), (x,), tmp_path / "f.torsh", include_grad=True)
    assert not os.listdir(tmp_path)


def _partly(x):
    with torsh.no_grad():
        y = x * 2
    return x * y
