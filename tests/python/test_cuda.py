"""CUDA devices: what is said where there is none, and, on the simulator or a GPU, memory, streams, errors and training.

`make test-cuda` sets TORSH_CUDA_SIM; without that and without a GPU the second part is skipped and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest

import torsh

pytestmark = pytest.mark.names_devices


def python(code: str, **env: str) -> str:
    """What a new process with these variables prints; its standard error where it fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TORSH_")}
    with tempfile.TemporaryDirectory() as folder:
        env = {**clean, "TORSH_CACHE_DIR": os.path.join(folder, "cache"), **env}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], env=env, cwd=folder, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


REFUSED = """
    import torsh
    try:
        torsh.zeros(2, device="cuda").tolist()
        print("no error")
    except torsh.DeviceError as e:
        print(e)
    print(torsh.cuda.is_available(), torsh.cuda.device_count(), torsh.ones(2).sum().item())
"""


def test_importing_opens_no_library():
    text = python("""
        import torsh
        torsh.ones(3).sum().item()
        maps = open("/proc/self/maps").read()
        print([name for name in ("libcuda", "nvrtc", "cublas", "torsh_cuda_sim") if name in maps])
    """)
    assert text.strip() == "[]"


def test_an_absent_driver_is_an_error_that_names_it():
    text = python(REFUSED, TORSH_CUDA_SIM="/nowhere/libcuda.so.1")
    assert "no CUDA driver was found" in text and "/nowhere/libcuda.so.1" in text
    assert "False 0 2.0" in text


def test_a_broken_driver_is_an_error_that_says_what_it_lacks():
    text = python(REFUSED, TORSH_CUDA_SIM="libc.so.6")
    assert "too old or broken" in text and "cuInit" in text and "False 0 2.0" in text


def test_a_simulator_that_is_not_built_is_an_error_that_says_how():
    text = python(REFUSED, TORSH_CUDA_SIM="1")
    assert "make cuda-sim" in text and "False 0 2.0" in text


def test_a_folder_can_name_the_simulator(tmp_path):
    text = python(REFUSED, TORSH_CUDA_SIM=str(tmp_path))
    assert "a folder without libcuda.so.1" in text and "make cuda-sim" in text and str(tmp_path) in text
    assert "False 0 2.0" in text
    library = os.environ.get("TORSH_CUDA_SIM", "")
    if os.path.isfile(library):
        count = "import torsh; print(torsh.cuda.device_count())"
        assert int(python(count, TORSH_CUDA_SIM=os.path.dirname(library))) >= 1


def test_out_of_memory_errors_are_limit_errors_and_runtime_errors():
    for base in (torsh.LimitError, MemoryError, RuntimeError, torsh.TorshError):
        assert issubclass(torsh.cuda.OutOfMemoryError, base)
    assert torsh.OutOfMemoryError is torsh.cuda.OutOfMemoryError
    assert torsh.cuda.OutOfMemoryError.requested is None and torsh.cuda.OutOfMemoryError.largest == ()


WRONG = [
    (lambda: torsh.cuda.Stream(priority="high"), "priority.*int.*str"),
    (lambda: torsh.cuda.Stream(priority=True), "priority.*int.*bool"),
    (lambda: torsh.cuda.Stream([0]), "int, a str.*list"),
    (lambda: torsh.cuda.Stream(1.0), "int, a str.*float"),
    (lambda: torsh.cuda.device([]), "int, a str.*list"),
    (lambda: torsh.cuda.device(True), "int, a str.*bool"),
    (lambda: torsh.cuda.device_of(3), "obj.*Tensor.*int"),
    (lambda: torsh.cuda.set_device(None), "None"),
    (lambda: torsh.cuda.set_device(2.0), "int, a str.*float"),
    (lambda: torsh.cuda.Event().record("stream"), "stream.*torsh.cuda.Stream.*str"),
    (lambda: torsh.cuda.Event().wait(3), "stream.*torsh.cuda.Stream.*int"),
    (lambda: torsh.cuda.Event().elapsed_time(0), "end_event.*torsh.cuda.Event.*int"),
    (lambda: torsh.cuda.set_stream(0), "stream.*torsh.cuda.Stream.*int"),
    (lambda: torsh.cuda.stream("s").__enter__(), "stream.*torsh.cuda.Stream.*str"),
    (lambda: torsh.cuda.memory_stats({}), "int, a str.*dict"),
    (lambda: torsh.cuda.synchronize(1.5), "int, a str.*float"),
    (lambda: torsh.cuda.set_per_process_memory_fraction("all"), "fraction.*float.*str"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_arguments_of_a_wrong_type_are_type_errors_that_say_what_is_expected(number: int):
    call, text = WRONG[number]
    with pytest.raises(TypeError, match=text):
        call()


def test_precisions_of_products_are_words():
    assert torsh.get_float32_matmul_precision() == "highest"
    torsh.set_float32_matmul_precision("high")
    assert torsh.get_float32_matmul_precision() == "high"
    torsh.set_float32_matmul_precision("highest")
    with pytest.raises(ValueError, match="highest, high or medium"):
        torsh.set_float32_matmul_precision("low")


def missing() -> str | None:
    try:
        torsh.zeros(1, device="cuda").tolist()
    except torsh.DeviceError as e:
        return str(e)
    return None


WHY = missing()
needs_device = pytest.mark.skipif(WHY is not None, reason=f"no CUDA device: {WHY}")
SIM = {k: v for k, v in os.environ.items() if k.startswith(("TORSH_CUDA_SIM", "TORSH_NVRTC"))}


@needs_device
def test_values_go_there_and_come_back():
    for dtype in ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]:
        x = torsh.arange(5).to(getattr(torsh, dtype))
        y = x.cuda()
        assert y.is_cuda and y.device.index == 0 and y.cpu().tolist() == x.tolist()
    x = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    t = torsh.tensor(x, device="cuda")
    assert np.array_equal((t * 2.0 + t).cpu().numpy(), x * 2.0 + x)
    assert np.array_equal(t[2:5].cpu().numpy(), x[2:5])
    with pytest.raises((TypeError, torsh.TorshError)):
        t + torsh.tensor(x)
    with pytest.raises(torsh.DeviceError, match="cuda:9"):
        torsh.zeros(1, device="cuda:9").tolist()


@needs_device
def test_memory_is_counted_and_capped():
    torsh.cuda.empty_cache()
    before = torsh.cuda.memory_allocated()
    x = torsh.zeros(1000, 1000, device="cuda")
    torsh.eval(x)
    assert torsh.cuda.memory_allocated() - before >= 4_000_000
    assert torsh.cuda.max_memory_allocated() >= torsh.cuda.memory_allocated()
    free, total = torsh.cuda.mem_get_info()
    assert 0 < free < total
    try:
        torsh.cuda.set_per_process_memory_fraction(8_000_000 / total)
        with pytest.raises(torsh.LimitError, match="1000, 1000"):
            torsh.eval(torsh.ones(2000, 1000, device="cuda"))
    finally:
        torsh.cuda.set_per_process_memory_fraction(0.9)
    del x
    torsh.cuda.empty_cache()
    assert torsh.cuda.memory_allocated() == before


@needs_device
def test_memory_that_does_not_suffice_says_everything():
    x = torsh.zeros(1000, 1000, device="cuda")
    torsh.eval(x)
    total = torsh.cuda.mem_get_info()[1]
    try:
        torsh.cuda.set_per_process_memory_fraction((torsh.cuda.memory_allocated() + 1_000_000) / total)
        limit = torsh.cuda.memory_stats()["limit_bytes"]
        with pytest.raises(torsh.cuda.OutOfMemoryError) as info:
            torsh.eval(torsh.ones(2001, 1000, device="cuda"))  # the line
    finally:
        torsh.cuda.set_per_process_memory_fraction(0.9)
    e, text = info.value, str(info.value)
    assert (str(e.device), e.requested, e.limit) == ("cuda:0", 8_004_000, limit)
    assert e.in_use >= 4_000_000 and any("1000, 1000" in name and size >= 4_000_000 for name, size in e.largest)
    for part in ("CUDA out of memory on cuda:0", "8004000", str(limit), str(e.in_use), "1000, 1000", "raise it with"):
        assert part in text, text
    here = open(__file__).read().split("\n")
    file, line = e.location.rsplit(":", 1)
    assert os.path.basename(file) == "test_cuda.py" and "# the line" in here[int(line) - 1]
    # Nothing is lost: tensors are as they were, and there is room again.
    assert x.cpu().sum().item() == 0.0
    assert torsh.ones(2001, 1000, device="cuda").sum().item() == 2_001_000


@needs_device
def test_figures_of_an_absent_device_are_refused():
    for call in (
        torsh.cuda.memory_stats,
        torsh.cuda.memory_summary,
        torsh.cuda.memory_allocated,
        torsh.cuda.max_memory_allocated,
        torsh.cuda.memory_reserved,
        torsh.cuda.reset_peak_memory_stats,
        torsh.cuda.mem_get_info,
        torsh.cuda.get_device_properties,
    ):
        with pytest.raises(RuntimeError, match="cuda:40"):
            call(40)
        call(0)
    assert "cuda:0" in torsh.cuda.memory_summary()


@needs_device
def test_parts_of_memory_and_a_summary_that_can_be_read():
    total = torsh.cuda.get_device_properties().total_memory
    x = torsh.zeros(3000, device="cuda")
    torsh.eval(x)
    try:
        torsh.cuda.set_per_process_memory_fraction(0.5)
        assert torsh.cuda.get_per_process_memory_fraction() == int(0.5 * total) / total
    finally:
        torsh.cuda.set_per_process_memory_fraction(0.9)
    torsh.cuda.reset_peak_memory_stats()
    live = torsh.cuda.memory_allocated()
    assert live >= 12_000 and torsh.cuda.max_memory_allocated() == live
    lines = dict(line.split(maxsplit=1) for line in torsh.cuda.memory_summary().split("\n")[1:])
    figure, unit = lines["allocated_bytes.all.current"].split()
    assert abs(float(figure) * {"B": 1, "KiB": 2**10, "MiB": 2**20}[unit] - live) <= 0.001 * live
    with pytest.raises(torsh.DeviceError, match="cuda:40"):
        torsh.cuda.get_per_process_memory_fraction(40)


@needs_device
def test_generators_of_all_devices():
    def draw():
        return [torsh.rand(4, device=f"cuda:{i}").cpu().tolist() for i in range(torsh.cuda.device_count())]

    torsh.cuda.seed_all()
    states = torsh.cuda.get_rng_state_all()
    assert len(states) == torsh.cuda.device_count()
    first, second = draw(), draw()
    assert first != second and all(row == first[0] for row in first)
    torsh.cuda.set_rng_state_all(states)
    assert draw() == first
    torsh.cuda.seed()
    assert torsh.cuda.initial_seed() != states[0].tolist()[0] and draw()[0] != first[0]
    with pytest.raises(ValueError, match="40 states"):
        torsh.cuda.set_rng_state_all([states[0]] * 40)


@needs_device
def test_record_stream_takes_streams_of_tensors_there():
    x, stream = torsh.ones(2, device="cuda"), torsh.cuda.Stream()
    assert x.record_stream(stream) is None
    with pytest.raises(TypeError, match="stream.*torsh.cuda.Stream.*int"):
        x.record_stream(0)
    with pytest.raises(RuntimeError, match="cpu"):
        torsh.ones(2).record_stream(stream)


@needs_device
def test_blocks_that_have_not_begun_do_not_end():
    with pytest.raises(RuntimeError, match="without having begun"):
        torsh.cuda.device(0).__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="without having begun"):
        torsh.cuda.Stream().__exit__(None, None, None)


@needs_device
@pytest.mark.skipif(WHY is None and torsh.cuda.device_count() < 2, reason="one CUDA device")
def test_tensors_go_between_two_devices():
    x = torsh.arange(1000, device="cuda:0").float()
    y = (x * 2.0).to("cuda:1")
    assert y.device.index == 1 and (y + 1.0).cpu().tolist() == [2.0 * i + 1.0 for i in range(1000)]
    with pytest.raises((RuntimeError, torsh.TorshError), match="cuda:"):
        torsh.eval(x + y)
    # In a gradient, and with the source updated in place after the copy was asked for.
    w = torsh.ones(3, device="cuda:0", requires_grad=True)
    (w.to("cuda:1") * torsh.tensor([1.0, 2.0, 3.0], device="cuda:1")).sum().backward()
    assert w.grad.device.index == 0 and w.grad.cpu().tolist() == [1.0, 2.0, 3.0]
    z = x.to("cuda:1")
    x += 1.0
    assert z.cpu().tolist() == list(range(1000)) and x[0].item() == 1.0
    with torsh.cuda.device(1):
        assert torsh.zeros(1, device="cuda").device.index == 1
        assert torsh.cuda.current_stream().device.index == 1


@needs_device
def test_streams_and_events():
    x = torsh.ones(100, device="cuda")
    stream, start, end = torsh.cuda.Stream(), *(torsh.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    with torsh.cuda.stream(stream):
        assert torsh.cuda.current_stream() == stream
        y = x + 1.0
        torsh.eval(y)
    torsh.eval(y * 2.0)
    end.record()
    torsh.cuda.synchronize()
    assert end.query() and start.elapsed_time(end) >= 0.0
    assert y.cpu().tolist() == [2.0] * 100


@needs_device
def test_compiled_steps_repeat_with_the_same_values_as_on_the_cpu():
    def train(device: str) -> list[float]:
        w = torsh.tensor(np.linspace(-1.0, 1.0, 33, dtype=np.float32), device=device, requires_grad=True)
        x = torsh.tensor(np.linspace(0.0, 2.0, 33, dtype=np.float32), device=device)

        @torsh.compile
        def step(w, x):
            loss = ((w * x - 1.0) ** 2).sum()
            (g,) = torsh.autograd.grad(loss, [w])
            return w - 0.01 * g, loss

        losses = []
        for _ in range(6):
            w, loss = step(w, x)
            losses.append(loss.item())
        return losses

    assert np.allclose(train("cuda"), train("cpu"), rtol=1e-6)


PRODUCT = """
    import numpy as np, torsh
    g = np.random.default_rng(0)
    a, b = (g.standard_normal(s).astype(np.float32) for s in ((33, 65), (65, 17)))
    p = torsh.tensor(a, device="cuda")
    q = torsh.tensor(b, device="cuda")
    exact = a.astype(np.float64) @ b
    far = lambda: float(np.abs((p @ q).cpu().numpy() - exact).max())
    print(far())
    print(float(np.abs((q.t() @ p.t()).t().cpu().numpy() - exact).max()))
    torsh.set_float32_matmul_precision("high")
    print(far())
    torsh.set_float32_matmul_precision("highest")
    print(far())
    print("cublaslt" in open("/proc/self/maps").read().lower())
"""


@needs_device
@pytest.mark.parametrize("library", ["1", "0"])
def test_products_are_exact_unless_tf32_is_asked_for(library: str):
    env = {**SIM, "TORSH_CUBLASLT": "0"} if library == "0" else SIM
    *figures, loaded = python(PRODUCT, **env).split()
    strict, transposed, tf32, again = map(float, figures)
    assert max(strict, transposed, again) < 2e-5 and strict == again
    assert 1e-4 < tf32 < 5e-2
    assert library == "1" or loaded == "False"


@needs_device
@pytest.mark.skipif(not SIM, reason="it breaks the simulator")
def test_a_driver_that_does_not_start_is_an_error_that_says_why():
    text = python(REFUSED, **{**SIM, "TORSH_CUDA_SIM_RACES": "maybe"})
    assert "does not start: cuInit failed with CUDA_ERROR" in text and "False 0 2.0" in text


@needs_device
def test_a_missing_compiler_is_an_error_that_says_how_to_get_one():
    text = python(REFUSED, **{**SIM, "TORSH_NVRTC": "/nowhere/libnvrtc.so.12"})
    assert "/nowhere/libnvrtc.so.12" in text and "torsh-compiler[cuda]" in text


@needs_device
def test_a_second_process_needs_no_compiler(tmp_path):
    code = """
        import torsh
        print((torsh.tensor([1.0, 2.0], device="cuda") * 3.0).cpu().tolist())
        print("nvrtc" in open("/proc/self/maps").read())
    """
    cache = str(tmp_path / "cache")
    assert python(code, **{**SIM, "TORSH_CACHE_DIR": cache}).split() == ["[3.0,", "6.0]", "True"]
    assert python(code, **{**SIM, "TORSH_CACHE_DIR": cache}).split() == ["[3.0,", "6.0]", "False"]
    gone = {**SIM, "TORSH_CACHE_DIR": cache, "TORSH_NVRTC": "/nowhere/libnvrtc.so.12"}
    assert python(code, **gone).split() == ["[3.0,", "6.0]", "False"]


@needs_device
def test_a_forked_process_is_told_to_spawn():
    text = python(
        """
        import os, torsh
        x = torsh.ones(2, device="cuda")
        torsh.eval(x)
        if os.fork() == 0:
            try:
                torsh.eval(torsh.ones(3, device="cuda"))
            except torsh.DeviceError as e:
                print(e, flush=True)
            os._exit(0)
        os.wait()
        """,
        **SIM,
    )
    assert "forked" in text and "spawn" in text


@needs_device
@pytest.mark.parametrize("default", ["torsh.set_default_device('cuda')", "torsh.device('cuda').__enter__()"])
def test_a_default_device_that_nothing_has_opened_yet(default):
    made = python(
        f"""
        import torsh
        {default}
        x = torsh.arange(3)
        y = x + 1
        x += 1
        print(x.device, y.device, torsh.linspace(0, 1, 2).mul_(2).device, y.tolist())
        """,
        **SIM,
    )
    assert made == "cuda:0 cuda:0 cuda:0 [1, 2, 3]\n"


def test_of_several_nvrtcs_all_tests_take_one(tmp_path):
    for name in ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.alt.so.13"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nvidia" / name).touch()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    script = os.path.join(root, "tests", "cuda", "nvrtc.py")
    found = subprocess.run(
        [sys.executable, script, "-"], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(tmp_path / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    with open(os.path.join(root, "Makefile")) as makefile:
        assert [line.strip() for line in makefile if line.startswith("NVRTC =")] == [
            "NVRTC = $(shell $(BIN)/python tests/cuda/nvrtc.py -)"
        ]
