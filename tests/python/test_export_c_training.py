"""Training with libraries in C: steps, random numbers from a seed, and gradients beside results."""

import ctypes

import numpy as np
import pytest
from c_library import (
    ERRORS,
    Library,
    array,
    mlp,
    rand,
    same_bits,
    sh,
    steps,
)

import torsh
import torsh.nn.functional as F
from torsh import nn

pytestmark = [
    pytest.mark.compiled_only,
    pytest.mark.host_only("libraries in C run on the host"),
    pytest.mark.usefixtures("compiler"),
]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_training_step(tmp_path, optimizer):
    def make():
        model = mlp()
        opt = getattr(torsh.optim, optimizer)(model.parameters(), lr=0.05)

        def step(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        return step, model

    x, y = rand(8, 20), torsh.tensor(np.arange(8) % 5)
    lib = steps(tmp_path, make, (x, y), count=4)
    # State is written by name, too: a step with a learning rate of 0 changes no parameter.
    weight = lib.state("model.0.weight", np.empty((48, 20), np.float32))
    assert lib.write("opt.lr", np.zeros(())) == 0
    assert lib.run([array(x), array(y)], [np.empty((), np.float32)]) == 0
    same_bits([lib.state("model.0.weight", weight)], [weight])


# -- random numbers ----------------------------------------------------------------------------------------------------


def test_random_numbers_go_on_from_the_export(tmp_path):
    torsh.manual_seed(3)
    torsh.rand(7)
    torsh.export(lambda x: x + torsh.rand(100), (rand(100),), tmp_path / "noise", format="c")
    expected = [array(rand(100) + torsh.rand(100)) for _ in range(3)]
    lib = Library(tmp_path, "noise")
    for e in expected:
        out = np.empty_like(e)
        assert lib.run([array(rand(100))], [out]) == 0
        same_bits([out], [e])


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5, 2**64 - 1])
def test_a_seed_gives_the_numbers_of_manual_seed(tmp_path, seed):
    def f(x):
        coins = torsh.bernoulli(torsh.full((9,), 0.5))
        return F.dropout(x, 0.4), torsh.randn(5, 3), torsh.randint(0, 1000, (50,)), coins

    x = rand(20, 30)
    torsh.export(f, (x,), tmp_path / "noise", format="c")
    lib = Library(tmp_path, "noise")
    compiled = torsh.compile(f)
    for _ in range(2):
        torsh.manual_seed(seed)
        assert lib.seed(seed) == 0
        for _ in range(3):
            expected = [array(t) for t in compiled(x)]
            got = [np.full_like(e, 77) for e in expected]
            assert lib.run([array(x)], got) == 0
            same_bits(got, expected)
    assert (got[0] == 0).any()


def test_seeds_of_contexts_are_their_own(tmp_path):
    torsh.export(lambda: torsh.rand(8), (), tmp_path / "noise", format="c")
    one, two = Library(tmp_path, "noise"), Library(tmp_path, "noise")
    assert one.seed(1) == two.seed(2) == 0
    drawn = [np.empty(8, np.float32) for _ in range(2)]
    assert one.run([], drawn[:1]) == two.run([], drawn[1:]) == 0
    for seed, got in zip((1, 2), drawn, strict=True):
        torsh.manual_seed(seed)
        same_bits([got], [array(torsh.rand(8))])
    one.free()
    assert one.seed(1) == ERRORS["context"]
    assert two.call("seed", None, ctypes.c_uint64(1)) == ERRORS["null"]


def test_a_program_without_random_numbers_says_so(tmp_path):
    torsh.export(lambda x: x + 1, (rand(3),), tmp_path / "model", format="c")
    assert Library(tmp_path).seed(1) == ERRORS["state"]
    header = " ".join((tmp_path / "model.h").read_text().replace("*", "").split())
    assert "This program draws none from the default generator: the result is MODEL_ERROR_STATE" in header


def test_generators_of_the_program_are_state(tmp_path):
    g = torsh.Generator().manual_seed(3)
    torsh.export(lambda x: x + torsh.rand(20, generator=g), (rand(20),), tmp_path / "own", format="c")
    header = " ".join((tmp_path / "own.h").read_text().replace("*", "").split())
    assert "draws none from the default generator" in header
    lib, x, out = Library(tmp_path, "own"), rand(20), np.empty(20, np.float32)
    assert lib.seed(3) == ERRORS["state"]
    # A new context goes on from where the generator was; a seed and 0 begin its numbers.
    for seed in (3, 2**63 + 5):
        if seed != 3:
            assert lib.write("g.state", np.array([seed, 0], np.uint64)) == 0
        mine = torsh.Generator().manual_seed(seed)
        for _ in range(2):
            assert lib.run([array(x)], [out]) == 0
            same_bits([out], [array(x + torsh.rand(20, generator=mine))])


@pytest.mark.parametrize("case", ["dropout", "attention"])
def test_training_with_dropout_from_a_seed(tmp_path, case):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(16, 48), nn.Linear(16, 5)

        def forward(self, x):
            x = self.up(x)
            if case == "dropout":
                return self.down(F.dropout(F.gelu(x), 0.3)[..., :16])
            q, k, v = x.unsqueeze(0).chunk(3, -1)
            return self.down(F.scaled_dot_product_attention(q, k, v, dropout_p=0.2)[0])

    def make():
        torsh.manual_seed(0)
        model = Net()
        opt = torsh.optim.AdamW(model.parameters(), lr=0.01)
        torsh.manual_seed(11)

        def step(x, y):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return step, model

    steps(tmp_path, make, (rand(70, 16), torsh.tensor(np.arange(70) % 5)))


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_gradients_beside_results(tmp_path):
    torsh.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x, ct = rand(4, 6), rand(4, 3, seed=1)
    x.requires_grad_(True)
    torsh.export(model, (x,), tmp_path / "model", format="c", include_grad=True)
    lib = Library(tmp_path)
    parameters = dict(model.named_parameters())
    assert {f"{n}.grad" for n in parameters} < set(lib.states())
    # Before the first call they are zeros.
    assert not lib.state("0.weight.grad", array(parameters["0.weight"])).any()

    @torsh.compile
    def both(x, ct):
        out = model(x)
        return out, *torsh.autograd.grad(out, [x, *parameters.values()], ct)

    for scale in (1.0, -2.0):
        out, dx, *grads = (array(t) for t in both(x, ct * scale))
        got = [np.empty_like(out), np.empty_like(dx)]
        assert lib.run([array(x), array(ct * scale)], got, "run_grad") == 0
        same_bits(got, [out, dx])
        same_bits([lib.state(f"{n}.grad", g) for n, g in zip(parameters, grads, strict=True)], grads)
    # The function alone is there, too.
    assert lib.run([array(x)], got[:1]) == 0
    same_bits(got[:1], [out])


def test_arguments_have_gradients_where_their_example_requires_them(tmp_path):
    torsh.manual_seed(0)
    layer = nn.Linear(6, 3)
    args = (rand(4, 6), rand(4, 3))
    f = lambda x, y: F.mse_loss(layer(x), y)  # noqa: E731
    torsh.export(f, args, tmp_path / "model", format="c", include_grad=True)
    header = (tmp_path / "model.h").read_text()
    assert "MODEL_INPUT_GRAD_OUTPUT_COUNT 1" in header
    assert "OUTPUT_GRAD_X" not in header
    lib, loss = Library(tmp_path), np.empty((), np.float32)
    x, y = array(rand(4, 6)), array(rand(4, 3))
    expected = torsh.func.grad(lambda w: F.mse_loss(F.linear(rand(4, 6), w, layer.bias), rand(4, 3)))(layer.weight)
    # A null cotangent of a number is 1; one that is given scales.
    for ct, factor in ((None, 1.0), (np.full((), 0.5, np.float32), 0.5)):
        assert lib.run([x, y, ct], [loss], "run_grad") == 0
        got = lib.state("layer.weight.grad", array(layer.weight))
        np.testing.assert_allclose(got, array(expected) * factor, rtol=2e-6)
    assert lib.run([x, None, None], [loss], "run_grad") == ERRORS["null"]


def test_gradients_of_other_dtypes(tmp_path):
    weight = nn.Parameter(rand(3, 4).double())
    half = rand(4).half().requires_grad_(True)
    torsh.export(
        lambda x: ((weight @ x.double()).sum(), x.sum()), (half,), tmp_path / "model", format="c", include_grad=True
    )
    lib = Library(tmp_path)
    out = [np.empty((), np.float64), np.empty((), np.float16), np.empty(4, np.float16)]
    assert lib.run([array(half), None, None], out, "run_grad") == 0
    # Each of the two gradients is a float16 before they are added.
    np.testing.assert_array_equal(out[2], array(weight).sum(0).astype(np.float16) + np.float16(1))
    got = lib.state("weight.grad", array(weight))
    np.testing.assert_array_equal(got, np.tile(array(half).astype(np.float64), (3, 1)))


def test_state_of_the_function_is_updated_once(tmp_path):
    def make():
        torsh.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    x = rand(5, 6)
    torsh.manual_seed(4)
    torsh.export(make(), (x,), tmp_path / "model", format="c", include_grad=True)
    lib, model = Library(tmp_path), make()
    ct = np.ones((5, 2), np.float32)
    torsh.manual_seed(4)
    assert lib.seed(4) == 0
    step = torsh.compile(model)
    for i in range(4):
        expected = array(step(x))
        got = np.empty_like(expected)
        # One function goes on where the other was.
        assert lib.run([array(x), ct], [got], "run_grad") == 0 if i % 2 else lib.run([array(x)], [got]) == 0
        same_bits([got], [expected])
    for name, value in model.state_dict().items():
        same_bits([lib.state(name, array(value))], [array(value)])


def test_gradients_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(torsh.ExportError, match="requires grad"):
        torsh.export(lambda x: x * 2, (rand(3),), tmp_path / "model", format="c", include_grad=True)
    layer = nn.Linear(3, 2)

    def step(x):
        loss = layer(x).sum()
        loss.backward()
        return loss

    with pytest.raises(torsh.ExportError, match="training step.*without include_grad"):
        torsh.export(step, (rand(3),), tmp_path / "model", format="c", include_grad=True)
    assert list(tmp_path.iterdir()) == []


def refused(folder, f, match, args=None):
    with pytest.raises(torsh.ExportError, match=match):
        torsh.export(f, args or (rand(3),), folder / "model", format="c", include_grad=True)
    assert list(folder.iterdir()) == []


def test_gradients_that_leave_the_function_are_refused(tmp_path):
    """A tensor that was computed before has no gradient in C, nor is that of what it was made of computed there."""
    torsh.manual_seed(0)
    weight, other, scale = nn.Parameter(rand(3, 3)), nn.Parameter(rand(3, seed=1)), rand(3, seed=2)
    twice, loaded = weight * 2, {"bias": torsh.tanh(other)}
    written = scale * 1
    with torsh.enable_grad():
        written.mul_(other)
    layer = nn.Linear(3, 2)
    outside = "computed outside of it: "
    # With and without gradients that have a place.
    refused(tmp_path, lambda x: twice @ x, outside + r"twice\. .*in the function.*x\.detach\(\)\.clone\(\)")
    refused(tmp_path, lambda x: layer(twice @ x), outside + r"twice\. ")
    refused(tmp_path, lambda x: layer(twice @ x + loaded["bias"]), outside + r"loaded\.bias, twice\. ")
    refused(tmp_path, lambda x: layer(x * written), outside + r"written\. ")
    with pytest.raises(torsh.ExportError, match=outside + "twice"):
        torsh.export(lambda x: twice @ x, (rand(3),), tmp_path / "m.torsh", include_grad=True)

    # What the error says to do.
    def states(name, f):
        torsh.export(f, (rand(3),), tmp_path / name, format="c", include_grad=True)
        return set(Library(tmp_path, name).states())

    assert states("inside", lambda x: (weight * 2) @ x) == {"weight", "weight.grad"}
    fixed, trained = twice.detach().clone(), twice.detach().clone().requires_grad_()
    assert states("copies", lambda x: fixed @ (trained @ x)) == {"fixed", "trained", "trained.grad"}
    # No gradient flows there.
    found = states("mask", lambda x: layer(x * (twice > 0)[0]))
    assert "twice" in found and "twice.grad" not in found and "layer.weight.grad" in found


def test_gradients_of_views_are_those_of_their_tensors(tmp_path):
    weight = rand(4, 4).requires_grad_()
    for i, view in enumerate((weight[:3], weight.T)):
        x = rand(4)
        torsh.export(lambda x: (view @ x).sum(), (x,), tmp_path / f"view{i}", format="c", include_grad=True)
        lib, out = Library(tmp_path, f"view{i}"), np.empty((), np.float32)
        (name,) = (n for n in lib.states() if not n.endswith(".grad"))
        assert lib.run([array(x), None], [out], "run_grad") == 0
        np.testing.assert_allclose(out, array((view @ x).sum()), rtol=1e-6)
        weight.grad = None
        (view @ x).sum().backward()
        same_bits([lib.state(f"{name}.grad", array(weight))], [array(weight.grad)])
        # Under its own name, where that is known.
        f = lambda x: (view @ x).sum() + weight.sum()  # noqa: E731
        torsh.export(f, (x,), tmp_path / f"both{i}", format="c", include_grad=True)
        assert set(Library(tmp_path, f"both{i}").states()) == {"weight", "weight.grad"}


def test_parameters_that_share_memory_have_one_gradient_or_none(tmp_path):
    memory = rand(6)
    part, whole = nn.Parameter(memory[:3]), nn.Parameter(memory.reshape(6))
    refused(tmp_path, lambda x: (x * part).sum(), r"no place .* shares its memory .*: part\. Clone it")
    refused(tmp_path, lambda x: (x * whole[3:] * memory[:3]).sum(), r"no place .* shares its memory .*: whole\. ")
    # Beside numbers that are state too.
    other = nn.Parameter(rand(3))
    opt = torsh.optim.AdamW([other], lr=0.1)

    def steps(x):
        with torsh.no_grad():
            other.grad = x * 1.0
            opt.step()
            other.grad = None
        return (x * part).sum()

    refused(tmp_path, steps, r"no place .* shares its memory .*: part\. Clone it")
    view = nn.Parameter(rand(4, 3))[1:]
    refused(tmp_path, lambda x: (view @ x).sum(), "reads views alone must be within its reach")
    torsh.export(lambda x: (x * whole[3:]).sum(), (rand(3),), tmp_path / "model", format="c", include_grad=True)
    assert set(Library(tmp_path).states()) == {"whole", "whole.grad"}


def test_functions_that_write_parameters_have_no_gradients(tmp_path):
    p, q = nn.Parameter(rand(3)), nn.Parameter(rand(3, seed=1))

    def decays(x):
        y = (x * p * q).sum()
        with torsh.no_grad():
            p.mul_(0.9)
        return y

    refused(tmp_path, decays, r"writes parameters: p\. .*outside of the function")
    layer = nn.Linear(3, 2)
    opt = torsh.optim.SGD(layer.parameters(), lr=0.1)

    def predictions_of_a_step(x):
        opt.zero_grad()
        y = layer(x)
        y.sum().backward()
        opt.step()
        return y

    refused(tmp_path, predictions_of_a_step, r"writes parameters: layer\.bias, layer\.weight\. .*without include_grad")


def test_functions_that_have_gradients_of_their_own_are_refused(tmp_path):
    layer = nn.Linear(3, 2)

    def leaves(x):
        layer(x).sum().backward()
        return layer(x).sum()

    refused(tmp_path, leaves, "leaves gradients itself")
    layer(rand(3)).sum().backward()
    refused(tmp_path, leaves, r"state called 'layer\.\w+\.grad' already|leaves gradients itself")
    refused(tmp_path, lambda x: layer(x).sum() * layer.weight.grad.sum(), r"state called 'layer\.weight\.grad' already")
    # Gradients that the function does not look at are in nobody's way.
    torsh.export(lambda x: layer(x).sum(), (rand(3),), tmp_path / "model", format="c", include_grad=True)
    assert "layer.weight.grad" in Library(tmp_path).states()


def test_arguments_without_a_gradient_are_named(tmp_path):
    w = nn.Parameter(rand(3))
    args = (rand(3), rand(2).requires_grad_(True), rand(2).requires_grad_(True))
    refused(tmp_path, lambda x, y, z: (x * w).sum() + z.sum(), r"require grad: y\. .*detach", args)


def test_gradients_change_no_name_of_run(tmp_path):
    w = nn.Parameter(rand(3))
    f = lambda x: {"output": x * w, "grad_output": x + w, "grad_x": x * 2}  # noqa: E731
    runs = []
    for grads in (False, True):
        x = rand(3).requires_grad_(grads)
        torsh.export(f, (x,), tmp_path / "model", format="c", include_grad=grads)
        header = (tmp_path / "model.h").read_text()
        runs.append(header[header.index("int model_run(") :].split(";")[0])
    assert runs[0] == runs[1]
    assert "float *output,\n    float *grad_output,\n    float *grad_x)" in runs[0]
    assert "const float *grad_output_2" in header
    assert "float *grad_x_1" in header


TUNE = r"""
#include "model.h"
#include <math.h>
#include <stdio.h>

int main(void) {
    static float x[MODEL_INPUT_X_COUNT], y[MODEL_INPUT_Y_COUNT];
    model_context context;
    float loss, first = 0.0f;
    int step, state, error = model_init(&context, NULL, 0);
    size_t i;
    for (i = 0; i < MODEL_INPUT_X_COUNT; i++) x[i] = sinf((float)i);
    for (i = 0; i < MODEL_INPUT_Y_COUNT; i++) y[i] = cosf((float)(3 * i));
    for (step = 0; !error && step < 200; step++) {
        error = model_run_grad(&context, x, y, NULL, &loss);
        if (step == 0) first = loss;
        for (state = 0; state < MODEL_STATES; state++) {
            char name[80];
            float *weight, *grad;
            sprintf(name, "%.60s.grad", model_state_name(state));
            weight = model_state_data(&context, state);
            grad = model_state_data(&context, model_state_find(name));
            if (!weight || !grad) continue;
            for (i = 0; i < model_state_bytes(state) / sizeof *weight; i++) weight[i] -= 0.2f * grad[i];
        }
    }
    if (!error) error = model_run(&context, x, y, &loss);
    model_free(&context);
    printf("%g %g\n", first, loss);
    return error;
}
"""


def test_fine_tuning_in_c(tmp_path, compiler):
    torsh.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    f = lambda x, y: F.mse_loss(model(x), y)  # noqa: E731
    torsh.export(f, (rand(10, 6), rand(10, 3)), tmp_path / "model", format="c", include_grad=True)
    (tmp_path / "tune.c").write_text(TUNE)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    sh(compiler, *flags, "tune.c", "libmodel.a", "-lm", "-o", "tune", cwd=tmp_path)
    first, last = (float(x) for x in sh("./tune", cwd=tmp_path).split())
    # The same in Python.
    x = torsh.tensor(np.sin(np.arange(60, dtype=np.float32)).reshape(10, 6))
    y = torsh.tensor(np.cos(3 * np.arange(30, dtype=np.float32)).reshape(10, 3))
    opt = torsh.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(200):
        loss = f(x, y)
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    assert first == pytest.approx(losses[0], rel=1e-4)
    assert last == pytest.approx(f(x, y).item(), rel=1e-2)
    assert last < 0.9 * first
