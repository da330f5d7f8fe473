"""`torsh.export(format="c")`: headers that C compilers take, libraries that compute what compiled functions compute."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import torsh
import torsh.nn.functional as F
from torsh import nn

# Libraries hold compiled kernels and are compared with these.
pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
ERRORS = {
    name: i
    for i, name in enumerate(
        ["ok", "null", "alignment", "context", "arena", "memory", "index", "state", "size", "constant", "weights"]
    )
}


class Library:
    """A shared library with one context."""

    def __init__(self, folder, name, weights=None, arena=None):
        self.lib, self.name = ctypes.CDLL(os.fspath(folder / f"lib{name}.so")), name
        self.context = (ctypes.c_void_p * 4)()
        self.arena_bytes = self.call("arena_bytes", result=ctypes.c_size_t)
        given = [] if weights is None else [weights.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(weights.nbytes)]
        memory = None if arena is None else arena.ctypes.data_as(ctypes.c_void_p)
        self.status = self.call(
            "init", self.context, memory, ctypes.c_size_t(0 if arena is None else arena.nbytes), *given
        )

    def call(self, what, *args, result=ctypes.c_int):
        f = getattr(self.lib, f"{self.name}_{what}")
        f.restype = result
        return f(*args)

    def run(self, inputs, outputs):
        arrays = [*inputs, *outputs]
        assert all(a.flags.c_contiguous for a in arrays)
        return self.call("run", self.context, *[a.ctypes.data_as(ctypes.c_void_p) for a in arrays])

    def state(self, name, like):
        out = np.empty_like(like)
        at = self.call("state_find", name.encode())
        assert at >= 0, name
        status = self.call(
            "state_read", self.context, at, out.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(out.nbytes)
        )
        assert status == 0
        return out

    def free(self):
        self.call("free", self.context)


def leaves(x):
    return [a for y in x for a in leaves(y)] if isinstance(x, (tuple, list)) else [x]


def array(x):
    if isinstance(x, float):
        return np.array(x)
    # numpy has no bfloat16: its bits.
    x = x.detach()
    return x.view(torsh.int16).numpy() if x.dtype == torsh.bfloat16 else np.ascontiguousarray(x.numpy())


def compare(folder, fn, args, name="model", tolerance=None, **options):
    """Exports `fn` and compares its library with the compiled function: bit for bit, or within a tolerance."""
    expected = [array(t) for t in leaves(torsh.compile(fn)(*args))]
    assert torsh.export(fn, args, folder / name, format="c", **options) > 0
    lib = Library(folder, name)
    assert lib.status == 0
    got = [np.full_like(e, 77) for e in expected]
    assert lib.run([array(a) for a in leaves(args)], got) == 0
    lib.free()
    for g, e in zip(got, expected, strict=True):
        if tolerance is None:
            np.testing.assert_array_equal(g.view(np.uint8) if g.ndim else g, e.view(np.uint8) if e.ndim else e)
        else:
            np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance)
    return got


def rand(*shape, seed=0):
    return torsh.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def mlp():
    torsh.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 48), nn.GELU(), nn.Linear(48, 5), nn.Softmax(-1))


# -- values ----------------------------------------------------------------------------------------------------------


@needs_cc
def test_elementwise(tmp_path):
    def f(x, y):
        return torsh.where(x > y, x * 2 + y, torsh.exp(-x * x)), (x * 3).abs().sqrt()

    compare(tmp_path, f, (rand(7, 33), rand(7, 33, seed=1)))


@needs_cc
@pytest.mark.parametrize(
    "name",
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid rsqrt "
    "reciprocal floor ceil round trunc sign neg abs".split(),
)
def test_functions_have_the_same_bits(tmp_path, name):
    op = getattr(torsh, name, None) or getattr(torsh.special, name)
    x = np.concatenate([np.linspace(-20, 20, 700), np.geomspace(1e-30, 1e30, 300), [0.0, -0.0, np.inf, -np.inf]])
    got = compare(tmp_path, lambda x: torsh.nan_to_num(op(x), 0.5), (torsh.tensor(x.astype(np.float32)),))
    assert np.isfinite(got[0]).all()


@needs_cc
@pytest.mark.parametrize("name", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float64"])
def test_dtypes(tmp_path, name):
    dtype = getattr(torsh, name)
    x, y = (rand(6, 50, seed=s) * 10 for s in (2, 3))

    def f(a, b):
        if name == "bool":
            return a & b, (a | b).any(1), a ^ b, a.float()
        out = [a + b, a * b, torsh.maximum(a, b), a.sum(1), a.amax(0), a.argmax(1), a.float(), (a > b), a.prod(1)]
        return (*out, a // torsh.where(b == 0, torsh.ones_like(b), b))

    compare(tmp_path, f, (x.to(dtype), y.to(dtype)))


@needs_cc
def test_floor_division_of_floats(tmp_path):
    x = torsh.tensor([1.0, 6.0, float("inf"), -5.0, -1.0, 0.0, 7.5, -0.0, 1.0])
    y = torsh.tensor([0.1, 0.2, 2.0, float("inf"), 3.0, -2.0, -2.5, 4.0, 0.0])
    both = lambda a, b: (torsh.nan_to_num(a // b, 0.5), torsh.nan_to_num(a % b, 0.5))  # noqa: E731
    compare(tmp_path, lambda x, y: (*both(x, y), *both(x.double(), y.double())), (x, y))


@needs_cc
def test_casts_saturate(tmp_path):
    x = torsh.tensor([1e20, -1e20, float("nan"), 3.7, -3.7, 254.5, float("inf")])
    kinds = [torsh.int8, torsh.int32, torsh.int64, torsh.uint8, torsh.bool, torsh.float16, torsh.float64]
    compare(tmp_path, lambda x: [x.to(k) for k in kinds], (x,))


@needs_cc
@pytest.mark.parametrize("shape", [(4, 16), (3, 700), (1, 5000)])
def test_rows(tmp_path, shape):
    def f(x, w):
        return (
            F.layer_norm(x, (shape[1],), w),
            torsh.softmax(x, -1),
            x.sum(),
            x.var(1),
            torsh.logsumexp(x, 1),
            x.mean(1),
        )

    compare(tmp_path, f, (rand(*shape), rand(shape[1], seed=1)))


@needs_cc
@pytest.mark.parametrize(
    ("m", "k", "n"), [(1, 300, 70), (5, 7, 3), (64, 600, 33), (70, 1, 530), (9, 513, 1), (3, 0, 4)]
)
def test_products_have_the_same_bits(tmp_path, m, k, n):
    def f(a, b, c):
        return a @ b, a @ c.T, torsh.relu(b.T @ a.T)

    compare(tmp_path, f, (rand(m, k), rand(k, n, seed=1), rand(n, k, seed=2)))


@needs_cc
@pytest.mark.parametrize("dtype", [torsh.float64, torsh.float16, torsh.bfloat16, torsh.int32])
def test_products_of_other_dtypes(tmp_path, dtype):
    compare(tmp_path, lambda a, b: a @ b, ((rand(2, 9, 300) * 4).to(dtype), (rand(300, 40, seed=1) * 4).to(dtype)))


@needs_cc
def test_calls_by_index(tmp_path):
    index = torsh.tensor([3, 0, 2, 2, -1])
    where = torsh.tensor(np.random.default_rng(0).integers(0, 6, (6, 8)))

    def f(x, y, i, at):
        return (
            x[i], torsh.gather(x, 0, at), torsh.scatter_add(x, 0, at, y), x.index_add(0, i, y[:5]), torsh.cumsum(x, 1),
            torsh.cumsum(x.half(), 0), torsh.argsort(x, 1), torsh.argsort(x, 0, descending=True), torsh.topk(x, 3)[0],
            torsh.cumprod(x, 1),
        )  # fmt: skip

    compare(tmp_path, f, (rand(6, 8), rand(6, 8, seed=1), index, where))


@needs_cc
def test_random_numbers(tmp_path):
    torsh.manual_seed(3)
    torsh.export(lambda x: x + torsh.rand(100), (rand(100),), tmp_path / "noise", format="c")
    expected = [array(rand(100) + torsh.rand(100)) for _ in range(3)]
    lib = Library(tmp_path, "noise")
    for e in expected:
        out = np.empty_like(e)
        assert lib.run([array(rand(100))], [out]) == 0
        np.testing.assert_array_equal(out, e)


@needs_cc
def test_mlp(tmp_path):
    compare(tmp_path, mlp(), (rand(8, 20),))


@needs_cc
def test_convolutions(tmp_path):
    torsh.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 10),
    )  # fmt: skip
    net.eval()
    compare(tmp_path, net, (rand(2, 3, 16, 16),))


@needs_cc
@pytest.mark.parametrize("causal", [True, False])
def test_attention_within_the_tolerance_of_the_op(tmp_path, causal):
    q, k, v = (rand(2, 3, 80, 16, seed=s) for s in range(3))
    f = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # noqa: E731
    compare(tmp_path, f, (q, k, v), tolerance=2e-6)


@needs_cc
def test_attention_over_large_values_is_finite(tmp_path):
    q, k, v = rand(1, 2, 70, 16), rand(1, 2, 80, 16, seed=1), rand(1, 2, 80, 8, seed=2).sign() * 3e38
    got = compare(tmp_path, F.scaled_dot_product_attention, (q, k, v), tolerance=1e-3)
    assert np.isfinite(got[0]).all()


@needs_cc
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_training_step(tmp_path, optimizer):
    def make():
        model = mlp()
        return model, getattr(torsh.optim, optimizer)(model.parameters(), lr=0.05)

    def step_of(model, opt):
        def step(x, y):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        return step

    x, y = rand(8, 20), torsh.tensor(np.arange(8) % 5)
    torsh.export(step_of(*make()), (x, y), tmp_path / "train", format="c")
    lib = Library(tmp_path, "train")
    model, opt = make()
    step = torsh.compile(step_of(model, opt))
    for _ in range(4):
        loss = np.empty((), np.float32)
        assert lib.run([array(x), array(y)], [loss]) == 0
        assert loss == step(x, y).item()
    weight = array(model[0].weight)
    np.testing.assert_array_equal(lib.state("model.0.weight", weight), weight)
    # State is written by name, too: a step with a learning rate of 0 changes no parameter.
    zero = np.zeros(())
    at = lib.call("state_find", b"opt.lr")
    assert lib.call("state_write", lib.context, at, zero.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(8)) == 0
    assert lib.run([array(x), array(y)], [loss]) == 0
    np.testing.assert_array_equal(lib.state("model.0.weight", weight), weight)


# -- the library -----------------------------------------------------------------------------------------------------

PROGRAM = r"""
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    model_context context;
    static float x[MODEL_INPUT_INPUT_COUNT], y[MODEL_OUTPUT_OUTPUT_COUNT];
    size_t i;
    void *arena = malloc(model_arena_bytes());
    for (i = 0; i < MODEL_INPUT_INPUT_COUNT; i++) x[i] = (float)(i % 17) * 0.25f - 2.0f;
    if (model_init(&context, arena, model_arena_bytes())) return 2;
    count = 0;
    for (i = 0; i < 3; i++) if (model_run(&context, x, y)) return 3;
    if (count) return 4;
    fwrite(y, sizeof y[0], MODEL_OUTPUT_OUTPUT_COUNT, stdout);
    model_free(&context);
    free(arena);
    return 0;
}
"""
COUNTING = r"""
static int count;
extern void *__real_malloc(unsigned long);
void *__wrap_malloc(unsigned long n) { count++; return __real_malloc(n); }
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("c")
    torsh.export(mlp(), (rand(8, 20),), folder / "model", format="c")
    (folder / "main.c").write_text(COUNTING.lstrip().replace('"C"', "") + PROGRAM)
    return folder


def expected_of_program():
    x = (np.arange(160) % 17).astype(np.float32) * 0.25 - 2.0
    return array(torsh.compile(mlp())(torsh.tensor(x.reshape(8, 20).astype(np.float32))))


def sh(*command, **options):
    return subprocess.run([os.fspath(c) for c in command], check=True, capture_output=True, **options).stdout


def output(*command, **options):
    return np.frombuffer(sh(*command, **options), np.float32).reshape(8, 5)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_header_is_strict_c99(model_folder, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    (model_folder / "only.c").write_text('#include "model.h"\nint main(void) { return MODEL_OK; }\n')
    sh(
        compiler,
        "-std=c99",
        "-pedantic",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-c",
        "only.c",
        "-o",
        "only.o",
        cwd=model_folder,
    )


def test_program_with_the_archive_allocates_nothing_after_init(model_folder):
    sh("cc", "-std=c99", "-Wl,--wrap=malloc", "main.c", "libmodel.a", "-lm", "-o", "main", cwd=model_folder)
    np.testing.assert_array_equal(output("./main", cwd=model_folder), expected_of_program())


def test_archive_exports_only_its_prefix(model_folder):
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    lines = sh("nm", "-g", "--defined-only", "libmodel.a", cwd=model_folder).decode().splitlines()
    names = [line.split()[-1] for line in lines if len(line.split()) == 3]
    assert names
    assert all(name.startswith("model_") for name in names), names
    exported = sh("nm", "-D", "--defined-only", "libmodel.so", cwd=model_folder).decode().split()[2::3]
    assert "model_run" in exported
    assert not [name for name in exported if name.startswith("model__")]


def test_valgrind_is_silent(model_folder):
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not installed")
    source = PROGRAM.replace("count = 0;", "").replace("if (count) return 4;", "")
    (model_folder / "plain.c").write_text(source)
    sh("cc", "-std=c99", "-g", "plain.c", "libmodel.a", "-lm", "-o", "plain", cwd=model_folder)
    sh("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./plain", cwd=model_folder)


def mixed(x, w, i):
    rows = F.layer_norm(x, (x.shape[1],)), torsh.softmax(x, -1), torsh.erf(x), x.half().sum(1), torsh.argsort(x, 1)
    return (
        *rows,
        x @ w,
        (x.double() @ w.double()).sum(),
        F.conv2d(x.reshape(1, 2, 10, 30), w.reshape(8, 2, 5, 15)),
        x[i],
    )


@pytest.mark.parametrize("case", ["mlp", "mixed"])
def test_cross_compiled_for_arm_under_an_emulator(tmp_path, case):
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    fn, args = (
        (mlp(), (rand(8, 20),)) if case == "mlp" else (mixed, (rand(20, 30), rand(30, 40, seed=1), torsh.arange(5)))
    )
    torsh.export(fn, args, tmp_path / "model", format="c", targets=("aarch64",))
    expected = [array(t) for t in leaves(torsh.compile(fn)(*args))]
    # Inputs from one pipe, outputs to the other.
    sizes = [[array(t).nbytes for t in leaves(args)], [e.nbytes for e in expected]]
    ins, outs = (
        [f"static double {k}{i}[{n // 8 + 1}];" for i, n in enumerate(of)] for k, of in zip("io", sizes, strict=True)
    )
    reads = [f"if (fread(i{i}, 1, {n}, stdin) != {n}) return 3;" for i, n in enumerate(sizes[0])]
    writes = [f"fwrite(o{i}, 1, {n}, stdout);" for i, n in enumerate(sizes[1])]
    names = [f"(void *)i{i}" for i in range(len(ins))] + [f"(void *)o{i}" for i in range(len(outs))]
    run = f"model_context c; if (model_init(&c, 0, 0)) return 2; if (model_run(&c, {', '.join(names)})) return 4;"
    lines = ['#include "model.h"', "#include <stdio.h>", *ins, *outs, "int main(void) {", *reads, run, *writes]
    (tmp_path / "main.c").write_text("\n".join([*lines, "return 0; }"]))
    sh("aarch64-linux-gnu-gcc", "-std=gnu99", "-static", "main.c", "libmodel.a", "-lm", "-o", "main", cwd=tmp_path)
    given = b"".join(array(t).tobytes() for t in leaves(args))
    assert sh("qemu-aarch64", "./main", cwd=tmp_path, input=given) == b"".join(e.tobytes() for e in expected)


def test_contexts_run_in_threads(model_folder):
    expected = expected_of_program()
    x = ((np.arange(160) % 17).astype(np.float32) * 0.25 - 2.0).astype(np.float32)
    results = {}

    def work(i):
        lib = Library(model_folder, "model")
        for _ in range(200):
            y = np.empty((8, 5), np.float32)
            if lib.run([x], [y]) or not np.array_equal(y, expected):
                return
        lib.free()
        results[i] = True

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results == {0: True, 1: True}


def test_wrong_arguments_are_error_codes(model_folder):
    lib = Library(model_folder, "model")
    x, y = np.zeros(160, np.float32), np.zeros(40, np.float32)
    run = lambda *a: lib.call("run", *a)  # noqa: E731
    p = lambda a, by=0: ctypes.c_void_p(a.ctypes.data + by)  # noqa: E731
    assert run(lib.context, p(x), None) == ERRORS["null"]
    assert run(None, p(x), p(y)) == ERRORS["null"]
    assert run(lib.context, p(x, 1), p(y)) == ERRORS["alignment"]
    assert run((ctypes.c_void_p * 4)(), p(x), p(y)) == ERRORS["context"]
    small = np.zeros(8, np.uint8)
    assert Library(model_folder, "model", arena=small).status == ERRORS["arena"]
    word = np.zeros(1, np.float32)
    read = lambda at, n: lib.call("state_read", lib.context, at, p(word), ctypes.c_size_t(n))  # noqa: E731
    assert read(99, 4) == ERRORS["state"]
    assert read(0, 4) == ERRORS["size"]
    at = lib.call("state_find", b"0.weight")
    weight = np.zeros((48, 20), np.float32)
    write = lib.call("state_write", lib.context, at, p(weight), ctypes.c_size_t(weight.nbytes))
    assert write == ERRORS["constant"]
    for name, code in ERRORS.items():
        assert len(lib.call("error_text", code, result=ctypes.c_char_p)) > 5, name
    lib.free()
    assert run(lib.context, p(x), p(y)) == ERRORS["context"]


@needs_cc
def test_bad_index_is_an_error_and_state_stays(tmp_path):
    counter = torsh.zeros(3)

    def f(x, i):
        counter.add_(1)
        return x[i] + counter.sum()

    torsh.export(f, (rand(4), torsh.tensor([0, 1])), tmp_path / "pick", format="c")
    lib = Library(tmp_path, "pick")
    x, out = array(rand(4)), np.zeros(2, np.float32)
    assert lib.run([x, np.array([0, 4])], [out]) == ERRORS["index"]
    assert lib.run([x, np.array([0, -4])], [out]) == 0
    np.testing.assert_array_equal(out, x[[0, 0]] + 3)


@needs_cc
def test_weights_in_a_file(tmp_path):
    torsh.export(mlp(), (rand(8, 20),), tmp_path / "model", format="c", weights="file")
    weights = np.fromfile(tmp_path / "model.weights", np.uint8)
    lib = Library(tmp_path, "model", weights=weights)
    assert lib.status == 0
    out = np.empty((8, 5), np.float32)
    assert lib.run([array(rand(8, 20))], [out]) == 0
    np.testing.assert_array_equal(out, array(torsh.compile(mlp())(rand(8, 20))))
    other = weights.copy()
    other[30] ^= 1
    assert Library(tmp_path, "model", weights=other).status == ERRORS["weights"]
    assert Library(tmp_path, "model", weights=weights[:-8]).status == ERRORS["weights"]


@needs_cc
def test_names_of_arguments_do_not_meet_those_of_the_source(tmp_path):
    def f(a, m, w, t_m, context, memcpy, x_bytes, s0):
        return (a @ m) + w, t_m * context + memcpy - x_bytes, s0[s0.long()]

    small = [rand(3, 3, seed=s) for s in range(7)]
    compare(tmp_path, f, (*small, torsh.tensor([1.0, 0.0])))


def check_header(folder, name):
    """Compiles the header alone, as C and, where there is a compiler, as C++."""
    for compiler, languages in (
        ("cc", ["c -std=c99", "c -std=gnu17"]),
        ("g++", ["c++ -std=c++11", "c++ -std=gnu++20"]),
    ):
        for language in languages if shutil.which(compiler) else []:
            command = [compiler, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", *language.split(), "-"]
            source = f'#include <limits.h>\n#include <math.h>\n#include <stdio.h>\n#include "{name}.h"\n'
            done = subprocess.run(command, cwd=folder, input=source, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


NAMES = (
    "SIZE_MAX INT8_MAX NAN INFINITY NULL EOF I t T_CHECK co_await and_eq thread_local wchar_t decltype stdin linux W"
)


@needs_cc
def test_names_of_arguments_are_neither_macros_nor_keywords(tmp_path):
    names = NAMES.split()
    scope = {}
    exec(f"def f({', '.join(names)}):\n    return {' + '.join(names)}", scope)
    compare(tmp_path, scope["f"], tuple(rand(3, seed=s) for s in range(len(names))))
    check_header(tmp_path, "model")


@needs_cc
@pytest.mark.parametrize("name", ["SIZE_MAX", "NULL", "M_PI", "torsh", "x_", "T2"])
def test_names_of_libraries(tmp_path, name):
    # A module has state, whose constants begin with the library's name, too.
    compare(tmp_path, mlp(), (rand(2, 20),), name=name)
    check_header(tmp_path, name)


@pytest.mark.parametrize("name", ["t", "T", "t_m", "t_s1", "T_STATES"])
def test_names_of_libraries_are_not_those_within_the_source(tmp_path, name):
    with pytest.raises(torsh.ExportError, match="begin with no t_"):
        torsh.export(lambda x: x + 1, (rand(3),), tmp_path / name, format="c")
    assert list(tmp_path.iterdir()) == []


@needs_cc
def test_from_the_command_line(tmp_path, capsys):
    from torsh import _cli

    (tmp_path / "script.py").write_text(
        "import torsh\nmodel = torsh.nn.Linear(2, 2)\nexample_args = (torsh.ones(1, 2),)\n"
    )
    output = tmp_path / "line"
    assert (
        _cli.main(["export", f"{tmp_path}/script.py:model", "-o", str(output), "--format", "c", "--weights", "file"])
        == 0
    )
    assert {"line.h", "libline.a", "libline.so", "line.weights"} < set(os.listdir(tmp_path))
    assert "bytes" in capsys.readouterr().out


@needs_cc
def test_gpt(tmp_path):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../examples"))
    try:
        import nanogpt
    finally:
        sys.path.pop(0)
    torsh.manual_seed(0)
    model = nanogpt.GPT(65, nanogpt.Size())
    model.eval()
    text = torsh.tensor(np.random.default_rng(0).integers(0, 65, (2, nanogpt.Size().context)))
    compare(tmp_path, model, (text,), tolerance=2e-5)
    # What is not weights is code.
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert (tmp_path / "libmodel.a").stat().st_size < weights + 100_000


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2x", "a-b", "int", "_x", "ä"])
def test_names_must_be_identifiers(tmp_path, name):
    with pytest.raises(torsh.ExportError, match="identifier"):
        torsh.export(lambda x: x + 1, (rand(3),), f"{tmp_path}/{name}", format="c")


def test_refusals_name_the_reason(tmp_path, monkeypatch):
    def export(fn=lambda x: x + 1, args=None, **options):
        return torsh.export(fn, args or (rand(3),), tmp_path / "model", format="c", **options)

    with pytest.raises(torsh.ExportError, match="one target"):
        export(targets=("x86_64", "aarch64"))
    with pytest.raises(torsh.ExportError, match="gradients"):
        export(include_grad=True)
    with pytest.raises(ValueError, match="weights"):
        export(weights="cloud")
    with pytest.raises(ValueError, match="format"):
        torsh.export(lambda x: x, (rand(3),), tmp_path / "model", format="rust")
    q = rand(1, 1, 80, 16)
    with pytest.raises(torsh.ExportError, match="dropout"):
        export(lambda q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5), (q,))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(torsh.ExportError, match="no C compiler.*no-such-compiler"):
        export()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(torsh.ExportError, match="status 1"):
        export()
    assert list(tmp_path.iterdir()) == []
