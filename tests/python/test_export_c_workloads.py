"""Round trips in C of every benchmark workload and every example, forward and whole training steps: the bits of the
compiled ones."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from c_library import Library, array, compare, need, same_bits, steps

import torsh
import torsh.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.workloads import WORKLOADS  # noqa: E402
from benchmarks.workloads.base import Unsupported  # noqa: E402

pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]
# Clang before 17 makes one version of each loop, for any processor, in which functions of large arrays take long.
SMALL = [n for n, w in WORKLOADS.items() if w.array <= 2**20 and w.flops < 1e9]


def check(folder, name):
    workload = WORKLOADS[name]
    arrays = workload.inputs(np, np.random.default_rng(0))
    make = lambda: workload.torch(torsh, [torsh.tensor(a) for a in arrays], "torsh")  # noqa: E731
    try:
        fn, args = make()
    except Unsupported as why:
        pytest.skip(str(why))
    if workload.kind != "step":
        compare(folder, fn, tuple(args))
        return
    torsh.export(fn, tuple(args), folder / "step", format="c")
    fn, args = make()
    compiled, lib = torsh.compile(fn), Library(folder, "step")
    for _ in range(3):
        expected = array(compiled(*args))
        loss = np.full_like(expected, 77)
        assert lib.run([array(a) for a in args], [loss]) == 0
        same_bits([loss], [expected])
    model = inspect.getclosurevars(fn).nonlocals["model"]
    for key, value in model.state_dict().items():
        same_bits([lib.state(f"model.{key}", array(value))], [array(value)])
    lib.free()


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workloads(tmp_path, name):
    need("cc")
    check(tmp_path, name)


@pytest.mark.parametrize("name", SMALL)
def test_small_workloads_by_clang(tmp_path, monkeypatch, name):
    need("clang")
    monkeypatch.setenv("CC", "clang")
    check(tmp_path, name)


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rng():
    return np.random.default_rng(3)


def whole(low, *shape):
    return torsh.tensor(rng().integers(0, low, shape))


def digits():
    demo = example("demo")
    x = torsh.tensor(rng().random((128, 64), dtype=np.float32))
    return lambda: demo.classifier(256), demo.make_step, (x, whole(10, 128))


def characters():
    demo = example("demo")
    return lambda: demo.CharModel(90, 192), demo.make_step, (whole(90, 256, demo.CONTEXT), whole(90, 256))


def convolutions():
    # Batch norm's statistics and dropout's random numbers are state of the library, too.
    cnn = example("digits_cnn")
    x = torsh.tensor(rng().random((32, 1, 8, 8), dtype=np.float32))
    return cnn.network, cnn.make_step, (x, whole(10, 32))


def gpt():
    nanogpt = example("nanogpt")
    size = nanogpt.Size(batch=2)

    def make_step(model, opt):
        def step(x, y):
            loss = F.cross_entropy(model(x).reshape(-1, 65), y.reshape(-1))
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return step

    texts = [whole(65, size.batch, size.context), whole(65, size.batch, size.context)]
    return lambda: nanogpt.GPT(65, size), make_step, tuple(texts)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", [digits, characters, convolutions, gpt])
def test_examples(tmp_path, which, training):
    for module in ("sklearn", "tqdm"):
        pytest.importorskip(module)
    need("cc")
    model_of, step_of, args = which()

    def make():
        torsh.manual_seed(0)
        model = model_of()
        return step_of(model, torsh.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)), model

    if training:
        steps(tmp_path, make, args).free()
    else:
        model = make()[1]
        model.eval()
        compare(tmp_path, model, args[:1])
