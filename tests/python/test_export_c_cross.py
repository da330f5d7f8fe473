"""Libraries for 64-bit ARM made on x86-64, run under an emulator: the bits of compiled functions here."""

import numpy as np
import pytest
from c_library import array, leaves, mlp, need, rand, same_bits, sh

import torsh
import torsh.nn.functional as F
from torsh import nn

pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]
CROSS = ["aarch64-linux-gnu-gcc", "clang --target=aarch64-linux-gnu"]


@pytest.fixture(params=CROSS, ids=["gcc", "clang"])
def cross(request, monkeypatch):
    """A cross compiler; its libraries are linked with those of GCC's."""
    need(request.param.split()[0], "aarch64-linux-gnu-gcc", "qemu-aarch64")
    if request.param != CROSS[0]:
        monkeypatch.setenv("CC", request.param)
    return request.param.split()


def emulated(folder, compiler, args, like, calls=("run",), seed=None):
    """Results of the last of some calls of `folder/libmodel.a`. Inputs come from one pipe, outputs go to the other."""
    given, expected = [array(t) for t in leaves(args)], like
    buffers = [(f"i{i}", a.nbytes) for i, a in enumerate(given)], [(f"o{i}", a.nbytes) for i, a in enumerate(expected)]
    lines = ['#include "model.h"', "#include <stdio.h>"]
    lines += [f"static double {name}[{n // 8 + 1}];" for side in buffers for name, n in side]
    lines += ["int main(void) {", "model_context c; if (model_init(&c, 0, 0)) return 2;"]
    lines += [f"if (fread({name}, 1, {n}, stdin) != {n}) return 3;" for name, n in buffers[0]]
    if seed is not None:
        lines.append(f"if (model_seed(&c, {seed})) return 5;")
    names = ", ".join(f"(void *){name}" for side in buffers for name, _ in side)
    lines += [f"if (model_{call}(&c, {names})) return 4;" for call in calls]
    lines += [f"fwrite({name}, 1, {n}, stdout);" for name, n in buffers[1]]
    (folder / "main.c").write_text("\n".join([*lines, "return 0; }"]))
    sh(*compiler, "-std=gnu99", "-static", "main.c", "libmodel.a", "-lm", "-o", "main", cwd=folder)
    out = sh("qemu-aarch64", "./main", cwd=folder, input=b"".join(a.tobytes() for a in given))
    got = []
    for e in expected:
        got.append(np.frombuffer(out[: e.nbytes], e.dtype).reshape(e.shape))
        out = out[e.nbytes :]
    assert out == b""
    return got


def mixed(x, w, i):
    rows = F.layer_norm(x, (x.shape[1],)), torsh.softmax(x, -1), torsh.erf(x), x.half().sum(1), torsh.argsort(x, 1)
    return (
        *rows,
        x @ w,
        (x.double() @ w.double()).sum(),
        F.conv2d(x.reshape(1, 2, 10, 30), w.reshape(8, 2, 5, 15)),
        x[i],
    )


def attention(q, k, v):
    weighted = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum()  # noqa: E731
    return torsh.func.grad(weighted, argnums=(0, 1, 2))(q, k, v)


CASES = {
    "mlp": lambda: (mlp(), (rand(8, 20),)),
    "mixed": lambda: (mixed, (rand(20, 30), rand(30, 40, seed=1), torsh.arange(5))),
    "attention": lambda: (attention, tuple(rand(1, 2, 70, 20, seed=s) for s in range(3))),
}


@pytest.mark.parametrize("case", list(CASES))
def test_functions(tmp_path, cross, case):
    fn, args = CASES[case]()
    torsh.export(fn, args, tmp_path / "model", format="c", targets=("aarch64",))
    expected = [array(t) for t in leaves(torsh.compile(fn)(*args))]
    same_bits(emulated(tmp_path, cross, args, expected), expected)


def test_random_numbers_from_a_seed(tmp_path, cross):
    f = lambda x: (F.dropout(x, 0.3), torsh.randn(7))  # noqa: E731
    x = rand(20, 9)
    torsh.export(f, (x,), tmp_path / "model", format="c", targets=("aarch64",))
    torsh.manual_seed(12)
    for _ in range(2):
        expected = [array(t) for t in torsh.compile(f)(x)]
    same_bits(emulated(tmp_path, cross, (x,), expected, ("run", "run"), seed=12), expected)


def test_gradients(tmp_path, cross):
    torsh.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x, ct = rand(4, 6).requires_grad_(True), rand(4, 3, seed=1)
    torsh.export(model, (x,), tmp_path / "model", format="c", include_grad=True, targets=("aarch64",))

    @torsh.compile
    def both(x, ct):
        out = model(x)
        return out, *torsh.autograd.grad(out, [x], ct)

    expected = [array(t) for t in both(x, ct)]
    same_bits(emulated(tmp_path, cross, (x, ct), expected, ("run_grad",)), expected)


def test_a_training_step(tmp_path, cross):
    def make():
        model = mlp()
        opt = torsh.optim.AdamW(model.parameters(), lr=0.01)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return step

    args = (rand(8, 20), torsh.tensor(np.arange(8) % 5))
    torsh.export(make(), args, tmp_path / "model", format="c", targets=("aarch64",))
    step = torsh.compile(make())
    for _ in range(3):
        expected = [array(step(*args))]
    same_bits(emulated(tmp_path, cross, args, expected, ("run",) * 3), expected)
