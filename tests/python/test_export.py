"""torsh.export and torsh.load: the same bits as torsh.compile, state, structure, gradients, signatures, errors."""

from __future__ import annotations

import collections
import concurrent.futures
import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

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


def load(path, **how):
    """`torsh.load`, to the device under test."""
    device = torsh.get_default_device()
    return torsh.load(path, None if device.type == "cpu" else device, **how)


def bits(x) -> list:
    """The bytes of a tensor, or of each of several."""
    if isinstance(x, torsh.Tensor):
        x = x.detach()
        return [x.dtype.name, tuple(x.shape), x.numpy().tobytes()]
    return [bits(v) for v in x]


def training_step(model, opt, loss_of=F.cross_entropy):
    def step(x, y):
        loss = loss_of(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


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


# -- what cannot be exported -------------------------------------------------------------------------------


def test_refusals(tmp_path):
    path, x = tmp_path / "f.torsh", torsh.ones(2)
    kept = []
    cases = [
        (lambda: torsh.export(lambda x: x.add_(1), (x,), path), torsh.ExportError, "argument 0 in place"),
        (lambda: torsh.export(lambda x: kept.append(x + 1) or x * 2, (x,), path), torsh.ExportError, "keeps it beyond"),
        (lambda: torsh.export(lambda x: x if x.sum() > 0 else -x, (x,), path), torsh.TraceError, "needs a value"),
        (lambda: torsh.export(lambda x: x, (object(),), path), torsh.ExportError, "is a object"),
        (lambda: torsh.export(lambda x: {x}, (x,), path), torsh.ExportError, "result  is a set"),
        (lambda: torsh.export(lambda x: x, x, path), TypeError, "tuple or a dict"),
        (lambda: torsh.export(3, (x,), path), TypeError, "function or a module"),
        (lambda: torsh.export(lambda x: x, (x,), path, targets=("avx1024",)), torsh.ExportError, "may have machine"),
        (lambda: torsh.export(lambda x: x, (x,), path, dynamic=True), TypeError, "dynamic must be a dict"),
        (lambda: torsh.export(lambda x: x, (x,), path, metadata={"a": 1}), TypeError, "metadata"),
        (lambda: torsh.export(lambda x: x, (x,), path, sign=b"short"), ValueError, "32 bytes"),
        (lambda: torsh.export(lambda x: x, (x,), tmp_path / "no" / "f.torsh"), torsh.ExportError, "cannot create"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
        kept.clear()
        assert not path.exists()
    assert not [n for n in os.listdir(tmp_path) if n.endswith(".part")]
    assert (x + 1).tolist() == [2.0, 2.0], "torsh works on after refusals"


# -- the file ----------------------------------------------------------------------------------------------


def test_the_same_function_gives_the_same_bytes(tmp_path):
    script = (
        "import sys, torsh\nfrom torsh import nn\ntorsh.manual_seed(1)\n"
        "m = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))\nopt = torsh.optim.Adam(m.parameters())\n"
        "def step(x, y):\n    l = nn.functional.cross_entropy(m(x), y)\n    l.backward()\n    opt.step()\n"
        "    opt.zero_grad()\n    return l\n"
        "torsh.export(step, (torsh.ones(3, 4), torsh.tensor([0, 1, 1])), sys.argv[1], metadata={'b': '1', 'a': '2'})\n"
    )
    files = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.torsh"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, env=env)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_the_file_is_a_plain_archive(tmp_path):
    model = nn.Linear(8, 8)
    path = tmp_path / "m.torsh"
    size = torsh.export(model, (torsh.ones(1, 8),), path, metadata={"who": "me"}, license="MIT", name="layer")
    assert size == path.stat().st_size
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        assert z.namelist() == ["manifest.json", "graph.txt", "weights.safetensors"]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        manifest = json.loads(z.read("manifest.json"))
        (tmp_path / "w.safetensors").write_bytes(z.read("weights.safetensors"))
    assert bits(load(tmp_path / "w.safetensors")["weight"]) == bits(model.weight)
    program = load(path)
    assert (program.name, program.license, program.metadata) == ("layer", "MIT", {"who": "me"})
    assert str(ROOT) not in json.dumps(manifest) and str(tmp_path) not in program.graph
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_manifest_fits_its_schema(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "package.schema.json").read_text())
    model = nn.Linear(3, 2)
    torsh.export(model, (torsh.ones(1, 3),), tmp_path / "m.torsh", include_grad=True, metadata={"a": "b"})
    jsonschema.validate(load(tmp_path / "m.torsh").manifest, schema)


def test_a_killed_export_leaves_the_old_file_or_the_new(tmp_path):
    """A writer that puts two packages into one place in turn is killed at many moments; one of them stands, whole."""
    path = tmp_path / "m.torsh"
    script = (
        "import sys, torsh\nx = torsh.ones(1 << 18)\nws = [torsh.full((1 << 18,), v) for v in (2.0, 3.0)]\n"
        "torsh.eval(x, *ws)\nfs = [lambda x, w=w: x * w for w in ws]\n"
        "for i, f in enumerate(fs):\n    torsh.export(f, (x,), f'{sys.argv[1]}.{i}', name='f')\n"
        "torsh.export(fs[0], (x,), sys.argv[1], name='f')\nprint('go', flush=True)\n"
        "while True:\n    for f in fs[::-1]:\n        torsh.export(f, (x,), sys.argv[1], name='f')\n"
    )
    for i in range(10):
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"go\n"
        time.sleep(0.003 * i)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        whole = [path.with_name(f"m.torsh.{k}").read_bytes() for k in (0, 1)]
        assert path.read_bytes() in whole
        assert load(path)(torsh.ones(1 << 18))[0].item() in (2.0, 3.0)
    # What the last of them left goes with the next export.
    (tmp_path / ".torsh-left.part").write_bytes(b"half")
    torsh.export(lambda x: x, (torsh.ones(1),), tmp_path / "other.torsh")
    assert not list(tmp_path.glob(".torsh-*"))


# -- keys --------------------------------------------------------------------------------------------------


def test_signatures(tmp_path):
    from torsh import _C

    key, other = bytes(range(32)), bytes(range(1, 33))
    public = _C.public_key(key)
    signed, plain = tmp_path / "signed.torsh", tmp_path / "plain.torsh"
    torsh.export(lambda x: x + 1, (torsh.ones(1),), signed, sign=key)
    torsh.export(lambda x: x + 1, (torsh.ones(1),), plain)
    assert load(signed, trusted_keys=[_C.public_key(other), public])(torsh.ones(1)).item() == 2.0
    assert load(signed).signer == public and load(plain).signer is None
    assert load(signed, trusted_keys=[public.hex()]).signer == public
    with pytest.raises(torsh.PackageError, match="none of the trusted keys"):
        load(signed, trusted_keys=[_C.public_key(other)])
    with pytest.raises(torsh.PackageError, match="not signed"):
        load(plain, trusted_keys=[public])
    with pytest.raises(torsh.PackageError):
        load(signed, trusted_keys=[])
    with pytest.raises(TypeError, match="list of keys"):
        load(signed, trusted_keys=public)
    # Another manifest under the same signature, and the signature of another file.
    data = signed.read_bytes()
    for old, new in ((b'"license":null', b'"license":"MI"'), (b"producer", b"produceR")):
        assert old in data
        forged = tmp_path / "forged.torsh"
        forged.write_bytes(_with_crc(data, old, new))
        with pytest.raises(torsh.PackageError, match="does not verify"):
            load(forged)


def _with_crc(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with a change in its manifest, whose checksum is corrected."""
    import zlib

    with zipfile.ZipFile(__import__("io").BytesIO(data)) as z:
        manifest = z.read("manifest.json")
    changed = manifest.replace(old, new)
    crc = [zlib.crc32(x).to_bytes(4, "little") for x in (manifest, changed)]
    return data.replace(manifest, changed).replace(*crc)


# -- golden packages ---------------------------------------------------------------------------------------

GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("version", sorted(p.name for p in (GOLDEN / "packages").iterdir()))
def test_packages_of_every_release_load(version):
    spec = importlib.util.spec_from_file_location("make_packages", GOLDEN / "make_packages.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    expected = json.loads((GOLDEN / "packages" / version / "expected.json").read_text())
    for name, results in expected.items():
        program = load(GOLDEN / "packages" / version / f"{name}.torsh")
        _, args, _ = golden.MAKERS[name]()
        for want in results:
            got = golden.plain(program(*args))
            got, want = (list(x.values()) if isinstance(x, dict) else [x] for x in (got, want))
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert load(GOLDEN / "packages" / version / "gradients.torsh").signer is not None


# -- the command -------------------------------------------------------------------------------------------


def command(*words, status: int = 0):
    """Runs `python -m torsh`."""
    done = subprocess.run(
        [sys.executable, "-m", "torsh", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.host_only("the command is given a model of the host")
def test_the_command(tmp_path):
    (tmp_path / "model.py").write_text(
        "import torsh\ntorsh.manual_seed(0)\nclass Holder:\n    model = torsh.nn.Linear(3, 2)\n"
        "example_args = (torsh.ones(2, 3),)\ndef more():\n    return (torsh.ones(4, 3),)\n"
    )
    key, a, b = tmp_path / "key", tmp_path / "a.torsh", tmp_path / "b.torsh"
    command("keygen", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    said = command("keygen", key, status=1)
    assert f"{key} exists" in said and "another name" in said and key.read_bytes() == before
    (tmp_path / "half.pub").write_text("")
    assert "half.pub exists" in command("keygen", tmp_path / "half", status=1)
    assert not (tmp_path / "half").exists()
    assert command("--version") == f"torsh {torsh.__version__}\n"
    source = f"{tmp_path / 'model.py'}:Holder.model"
    out = command("export", source, "-o", a, "--sign", key, "--license", "MIT", "--metadata", "who=me")
    assert f"{a.stat().st_size} bytes" in out
    command("export", source, "-o", b, "--args", "more")
    command("export", source, "-o", b, "--args", "nothing", status=1)
    command("export", f"{source}.nothing", "-o", b, status=1)
    assert "good, signed by" in command("verify", a, b)
    assert "good" in command("verify", a, "--trusted-key", f"{key}.pub")
    assert "not signed" in command("verify", a, b, "--trusted-key", f"{key}.pub", status=1)
    (tmp_path / "bad.torsh").write_bytes(a.read_bytes()[:-1])
    assert "refused" in command("verify", tmp_path / "bad.torsh", status=1)
    shown = command("inspect", a, "--graph", "--kernels")
    for text in (
        "MIT",
        "who: me",
        "input input: float32 [2, 3]",
        "weight: float32 [2, 3] (parameter)",
        "graph {",
        "kernels",
    ):
        assert text in shown, (text, shown)
    assert json.loads(command("inspect", a, "--manifest"))["name"] == "Linear"
    command("diff", a, a)
    assert "[2, 3]" not in command("diff", a, b, status=1).splitlines()[0]
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, np.arange(6, dtype=np.float32).reshape(2, 3))
    command("run", a, "--input", f"input={x}", "--output", f"output={y}")
    want = load(a)(torsh.from_numpy(np.load(x)))
    assert np.load(y).tobytes() == want.detach().numpy().tobytes()
    given = ("--input", f"input={x}")
    assert "missing inputs: input" in command("run", a, status=1)
    # A file alone is that of the only output, under its own name.
    command("run", a, *given, "--output", tmp_path / "zz")
    assert np.load(tmp_path / "zz").tobytes() == np.load(y).tobytes()
    assert "there is no 'zz'; the names are output" in command("run", a, *given, "--output", "zz=y.npy", status=1)
    assert "needs NAME=FILE.npy, got 'x.npy'; the names are input" in command("run", a, "--input", "x.npy", status=1)
    assert "'input' was given before" in command("run", a, *given, *given, status=1)
    # The other byte order is converted.
    np.save(x, np.arange(6, dtype=">f4").reshape(2, 3))
    command("run", a, *given, "--output", f"output={tmp_path / 'z.npy'}")
    assert np.load(tmp_path / "z.npy").tobytes() == np.load(y).tobytes()
    np.savez(tmp_path / "x.npz", np.zeros(2))
    assert "several arrays" in command("run", a, "--input", f"input={tmp_path / 'x.npz'}", status=1)
    assert "Unknown device" in command("run", a, *given, "--device", "tpu", status=1)
    np.save(x, np.arange(6, dtype=np.float64).reshape(2, 3))
    assert "must be float32" in command("run", a, "--input", f"input={x}", status=1)
    command("run", status=2)


def test_errors_of_an_exported_script_are_told_without_torsh(tmp_path):
    script = tmp_path / "model.py"
    cases = {
        "def f(:\n": ("SyntaxError", "def f(:"),
        "import torsh\n1 / 0\n": ("ZeroDivisionError", "line 2, in <module>"),
        "raise SystemExit('no')\n": ("SystemExit: no", "line 1"),
        "def f(x):\n    return x.nothing\nimport torsh\nexample_args = (torsh.ones(1),)\n": (
            "AttributeError",
            "line 2, in f",
        ),
        "def f(x):\n    return x\ndef example_args():\n    return {}['a']\n": ("KeyError: 'a'", "line 4"),
    }
    for text, (error, where) in cases.items():
        script.write_text(text)
        said = command("export", f"{script}:f", "-o", tmp_path / "never.torsh", status=1)
        assert error in said and where in said and str(script) in said, said
        assert "_cli.py" not in said and "importlib" not in said and "_export.py" not in said, said
    assert not (tmp_path / "never.torsh").exists()


@pytest.mark.compiled_only
@pytest.mark.host_only("torsh-run runs on the host")
def test_torsh_run(tmp_path):
    """The Rust program gives the bits that Python gives, if it has been built."""
    binary = Path(os.environ.get("TORSH_RUN_BINARY", ROOT / "target" / "release" / "torsh-run"))
    if not binary.exists():
        pytest.skip("torsh-run has not been built (cargo build --release -p torsh-run)")

    def run(*words, status: int = 0):
        done = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 4))
    opt = torsh.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = torsh.randn(8, 16), torsh.randint(4, (8,))
    path = tmp_path / "step.torsh"
    torsh.export(training_step(model, opt), (x, y), path)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    given = ("--input", f"x={tmp_path / 'x.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
    run(path, *given, "--output", tmp_path / "loss.npy", "--repeat", 3, "--save-state", tmp_path / "state")
    program = load(path)
    for _ in range(3):
        loss = program(x, y)
    assert np.load(tmp_path / "loss.npy").tobytes() == loss.numpy().tobytes()
    for name, value in program.state_dict().items():
        assert np.load(tmp_path / "state" / f"{name}.npy").tobytes() == value.detach().numpy().tobytes(), name
    assert "input x: float32 [8, 16]" in run(path, "--info")
    assert "median" in run(path, *given, "--bench")
    assert "is missing" in run(path, status=1)
    swapped = ("--input", f"x={tmp_path / 'y.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
    assert 'input "x" must be float32, got int64' in run(path, *swapped, status=1)
    np.save(tmp_path / "x.npy", x.numpy().astype(">f4"))
    run(path, *given, "--output", tmp_path / "big.npy")
    np.save(tmp_path / "x.npy", x.numpy())
    run(path, *given, "--output", tmp_path / "little.npy")
    assert np.load(tmp_path / "big.npy").tobytes() == np.load(tmp_path / "little.npy").tobytes()
    assert "was given before" in run(path, *given, *given, status=2)
    np.save(tmp_path / "x.npy", x.numpy()[:2])
    assert "must have shape [8, 16], got [2, 16]" in run(path, *given, status=1)
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    run(path, *given, status=1)
    run(path, "--nothing", status=2)
    assert "not signed" in run(path, *given, "--trusted-key", "0" * 64, status=1)


class _Exchange(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torsh.zeros(3))
        self.register_buffer("b", torsh.ones(3))

    def forward(self, x):
        y = x + self.a
        self.a, self.b = self.b, self.a
        return y


def test_tensors_put_in_the_place_of_others_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match=r"another tensor in the place of '[ab]'.*copy_"):
        torsh.export(_Exchange(), (torsh.ones(3),), tmp_path / "a.torsh")
    assert not list(tmp_path.iterdir())


class _Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_numbers_that_a_function_changes_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match="changes 'calls' from 0 to 1.*register_buffer"):
        torsh.export(_Counter(), (torsh.ones(3),), tmp_path / "a.torsh")
    assert not list(tmp_path.iterdir())


def test_texts_of_a_package_stay_on_their_line(tmp_path, capsys):
    path = tmp_path / "a.torsh"
    with pytest.raises(torsh.ExportError, match="cannot be printed"):
        torsh.export(lambda x: x, (torsh.ones(3),), path, name="a\nlicense: MIT")
    torsh.export(lambda x: x, (torsh.ones(3),), path, metadata={"k": "\x1b[8m\nsigned"})
    from torsh._cli import main

    assert main(["inspect", str(path)]) == 0
    assert "metadata k: \\x1b[8m\\nsigned\n" in capsys.readouterr().out
