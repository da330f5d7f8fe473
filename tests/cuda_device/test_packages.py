"""Packages on a CUDA device, or on the simulator: programs run where their state is, whatever the default device."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import torsh
from torsh import nn
from torsh.nn import functional as F


def missing() -> str | None:
    """Why nothing can be tested here; None where it can."""
    try:
        torsh.zeros(1, device="cuda").tolist()
    except torsh.DeviceError as e:
        return str(e)
    return None


WHY = missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=f"no CUDA device: {WHY}")


@pytest.fixture(params=["cpu", "cuda"])
def default(request):
    """Every program works the same under either default device."""
    torsh.set_default_device(request.param)
    yield request.param
    torsh.set_default_device(None)


def values(x) -> np.ndarray:
    return x.detach().cpu().numpy()


def network():
    torsh.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8, device="cpu"), nn.Tanh(), nn.Linear(8, 2, device="cpu"))


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def test_a_program_without_state_runs_where_its_inputs_are(tmp_path, default):
    def f(x, s):
        return x * s + torsh.ones(3, device=x.device), torsh.arange(3, device=x.device)

    torsh.export(f, (torsh.ones(3, device="cpu"), 2.0), tmp_path / "f.torsh")
    program = torsh.load(tmp_path / "f.torsh")
    for run in (program, torsh.compile(lambda *a: program(*a), fullgraph=True)):
        for device in ("cpu", "cuda", "cpu"):
            y, n = run(torsh.tensor([1.0, 2.0, 3.0], device=device), 4.0)
            assert y.device.type == n.device.type == device
            assert y.cpu().tolist() == [5.0, 9.0, 13.0] and n.cpu().tolist() == [0, 1, 2]


def test_a_program_without_inputs_runs_where_it_was_moved(tmp_path, default):
    torsh.export(lambda: torsh.full((2,), 3.0, device="cpu"), (), tmp_path / "f.torsh")
    program = torsh.load(tmp_path / "f.torsh")
    assert program.device.type == "cpu" and program().device.type == "cpu"
    assert program.cuda() is program
    assert program.device == torsh.device("cuda:0") and program().device == torsh.device("cuda:0")
    assert torsh.load(tmp_path / "f.torsh", map_location="cuda")().device.type == "cuda"


def test_a_program_goes_where_it_is_moved(tmp_path, default):
    model = network()
    torsh.export(model, (torsh.ones(3, 4, device="cpu"),), tmp_path / "m.torsh")
    want = values(model(torsh.tensor(X, device="cpu")))
    program = torsh.load(tmp_path / "m.torsh")
    assert program.device.type == "cpu"
    for device in ("cpu", "cuda:0", "cpu", "cuda:0"):
        program.to(device)
        got = program(torsh.tensor(X, device=device))
        assert got.device == program.device == torsh.device(device)
        assert all(t.device == torsh.device(device) for t in program.state_dict().values())
        np.testing.assert_allclose(values(got), want, rtol=1e-5, atol=1e-6)
    other = torsh.load(tmp_path / "m.torsh", map_location="cuda")
    outer = torsh.compile(lambda x: other(x) * 2.0, fullgraph=True)
    got = outer(torsh.tensor(X, device="cuda"))
    assert got.is_cuda
    np.testing.assert_allclose(values(got), 2.0 * want, rtol=1e-5, atol=1e-6)


def test_inputs_elsewhere_are_refused_by_name(tmp_path, default):
    torsh.export(network(), (torsh.ones(3, 4, device="cpu"),), tmp_path / "m.torsh")
    program = torsh.load(tmp_path / "m.torsh")
    with pytest.raises(torsh.DeviceError, match=r"input 'input' is on cuda:0, but .* runs on cpu.*program\.to"):
        program(torsh.tensor(X, device="cuda"))
    program.cuda()
    with pytest.raises(torsh.DeviceError, match="input 'input' is on cpu, but .* runs on cuda:0"):
        program(torsh.tensor(X, device="cpu"))
    with pytest.raises(torsh.DeviceError, match="cuda:7"):
        program.to("cuda:7")
    assert program.device == torsh.device("cuda:0")
    with pytest.raises(torsh.DeviceError, match="cuda:7"):
        torsh.load(tmp_path / "m.torsh", map_location="cuda:7")
    # A number of the CPU may stand beside tensors of any device.
    torsh.export(lambda x, s: x * s.exp(), (torsh.ones(3), torsh.tensor(1.0)), tmp_path / "n.torsh")
    number = torsh.load(tmp_path / "n.torsh")
    got = number(torsh.ones(3, device="cuda"), torsh.tensor(0.0, device="cpu"))
    assert got.is_cuda and got.tolist() == [1.0, 1.0, 1.0]


def training(device: str):
    model = network().to(device)
    opt = torsh.optim.AdamW(model.parameters(), lr=0.05)

    def step(x, y):
        loss = F.mse_loss(model(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


@pytest.mark.parametrize("made", ["cpu", "cuda"])
def test_a_training_step_trains_on_either_device_wherever_it_was_made(made, tmp_path, default):
    x, y = X, np.ones((3, 2), np.float32)
    on = lambda device: (torsh.tensor(x, device=device), torsh.tensor(y, device=device))  # noqa: E731
    step = torsh.compile(training("cpu"))
    want = [float(step(*on("cpu"))) for _ in range(4)]
    torsh.export(training(made), on(made), tmp_path / "step.torsh")
    for device in ("cpu", "cuda"):
        program = torsh.load(tmp_path / "step.torsh", map_location=device)
        got = [program(*on(device)) for _ in range(2)]
        # In the middle of training, with its state.
        other = "cuda" if device == "cpu" else "cpu"
        program.to(other)
        got += [program(*on(other)) for _ in range(2)]
        assert [g.device.type for g in got] == [device] * 2 + [other] * 2
        np.testing.assert_allclose([float(g) for g in got], want, rtol=1e-4)


def test_random_numbers_of_either_device_continue_in_a_program(tmp_path, default):
    for made in ("cpu", "cuda"):
        torsh.manual_seed(5)
        x = torsh.ones(64, device=made)
        torsh.export(lambda x: F.dropout(x, 0.5), (x,), tmp_path / "d.torsh")
        want = [values(F.dropout(x, 0.5)) for _ in range(3)]
        for device in ("cpu", "cuda"):
            program = torsh.load(tmp_path / "d.torsh", map_location=device)
            assert list(program.state_dict()) == ["random.state"]
            got = [values(program(torsh.ones(64, device=device))) for _ in range(3)]
            assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_state_dicts_cross_devices(tmp_path, default):
    model = network()
    torsh.export(model, (torsh.ones(3, 4, device="cpu"),), tmp_path / "m.torsh")
    for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
        program = torsh.load(tmp_path / "m.torsh", map_location=device)
        new = {name: torsh.full(t.shape, 0.5, device=other) for name, t in program.state_dict().items()}
        program.load_state_dict(new)
        assert all(t.device.type == device and bool((t == 0.5).all()) for t in program.state_dict().values())
    step = training("cpu")
    torsh.export(step, (torsh.tensor(X, device="cpu"), torsh.ones(3, 2, device="cpu")), tmp_path / "s.torsh")
    program = torsh.load(tmp_path / "s.torsh", map_location="cuda")
    program.load_state_dict({"opt.lr": 0.25}, strict=False)
    assert program.state_dict()["opt.lr"].item() == 0.25 and program.state_dict()["opt.lr"].is_cuda


def test_gradients_of_a_program_on_a_device(tmp_path, default):
    model = network()
    x = torsh.tensor(X, device="cpu")
    torsh.export(model, (x,), tmp_path / "m.torsh", include_grad=True)
    model(x).sum().backward()
    want = {name: values(p.grad) for name, p in model.named_parameters()}
    program = torsh.load(tmp_path / "m.torsh", map_location="cuda")
    program(torsh.tensor(X, device="cuda")).sum().backward()
    for name, p in program.named_parameters():
        assert p.grad.is_cuda
        np.testing.assert_allclose(values(p.grad), want[name], rtol=1e-4, atol=1e-5)
    program.cpu()
    for name, p in program.named_parameters():
        assert p.grad.device.type == "cpu" and p.requires_grad
        np.testing.assert_allclose(values(p.grad), want[name], rtol=1e-4, atol=1e-5)
    # Exported from the device.
    torsh.export(network().cuda(), (torsh.tensor(X, device="cuda"),), tmp_path / "c.torsh", include_grad=True)
    assert (tmp_path / "c.torsh").read_bytes() == (tmp_path / "m.torsh").read_bytes()


def test_sizes_vary_on_either_device_wherever_it_was_made(tmp_path, default):
    def f(model, x):
        # Integers of the function's own are constants of every trace.
        ends = torsh.tensor([0, 2], device=x.device)
        return model(x)[ends] * x.shape[0]

    model = network()
    of = lambda rows, device: torsh.tensor(np.resize(X, (rows, 4)), device=device)  # noqa: E731
    dims = {"x": {0: torsh.Dim("rows", min=3, max=40)}}

    def export(made: str) -> bytes:
        there = network().to(made)

        def own(x):
            return f(there, x)

        torsh.export(own, (of(3, made),), tmp_path / "m.torsh", dynamic=dims, include_grad=True)
        return (tmp_path / "m.torsh").read_bytes()

    assert export("cpu") == export("cuda")
    program = torsh.load(tmp_path / "m.torsh")
    for device in ("cuda", "cpu", "cuda"):
        program.to(device)
        for rows in (3, 7, 40):
            x = of(rows, "cpu").requires_grad_(True)
            y = of(rows, device).requires_grad_(True)
            want, got = f(model, x), program(y)
            assert got.device.type == device
            np.testing.assert_allclose(values(got), values(want), rtol=1e-4, atol=1e-5)
            want.sum().backward()
            got.sum().backward()
            np.testing.assert_allclose(values(y.grad), values(x.grad), rtol=1e-4, atol=1e-5)
        with pytest.raises(torsh.ShapeError, match="rows must be from 3 to 40"):
            program(of(41, device))
    outer = torsh.compile(lambda x: program(x) + 1.0, fullgraph=True)
    np.testing.assert_allclose(values(outer(of(5, "cuda"))), values(f(model, of(5, "cpu")) + 1.0), rtol=1e-4, atol=1e-5)


def test_a_function_that_moves_tensors_is_not_exported(tmp_path, default):
    cpu, cuda = torsh.ones(3, device="cpu"), torsh.ones(3, device="cuda")
    cases = {
        "from cpu to cuda:0": (lambda x: x.cuda() * 2, (cpu,)),
        "from cuda:0 to cpu": (lambda x: x.cpu(), (cuda,)),
        "a tensor computed in the function goes from cuda:0 to cpu": (lambda x: (x * 2).to("cpu"), (cuda,)),
        "works on tensors of two devices": (lambda x, y: (x * 2, y * 2), (cpu, cuda)),
    }
    for why, (f, args) in cases.items():
        with pytest.raises(torsh.ExportError, match=why):
            torsh.export(f, args, tmp_path / "never.torsh")
    assert not (tmp_path / "never.torsh").exists()
    # A move to where it is moves nothing.
    torsh.export(lambda x: x.to(x.device) * 2, (cuda,), tmp_path / "f.torsh")
    assert torsh.load(tmp_path / "f.torsh")(cpu).tolist() == [2.0, 2.0, 2.0]


def test_the_command_runs_on_a_device(tmp_path):
    torsh.export(network(), (torsh.ones(3, 4, device="cpu"),), tmp_path / "m.torsh", name="net")
    np.save(tmp_path / "x.npy", X)
    words = [sys.executable, "-m", "torsh", "run", tmp_path / "m.torsh", "--input", f"input={tmp_path / 'x.npy'}"]
    made = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.npy"
        done = subprocess.run([*words, "--device", device, "--output", f"output={out}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made[device] = np.load(out)
    np.testing.assert_allclose(made["cuda"], made["cpu"], rtol=1e-5, atol=1e-6)
    done = subprocess.run([*words, "--device", "cuda:7"], capture_output=True, text=True)
    assert done.returncode == 1 and "cuda:7" in done.stderr
