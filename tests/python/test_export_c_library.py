"""Libraries in C as C programs and ctypes meet them: headers, linking, memory, threads, wrong use, names, refusals."""

import ctypes
import os
import shutil
import subprocess

import numpy as np
import pytest
from c_library import (
    COMPILERS,
    ERRORS,
    Library,
    array,
    compare,
    mlp,
    need,
    rand,
    same_bits,
    sh,
)

import torsh
import torsh.nn.functional as F
from torsh import nn

pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]

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


@pytest.fixture(scope="module", params=COMPILERS)
def model(request, tmp_path_factory):
    """A library with its compiler, which compiles the programs that use it, too."""
    need(request.param)
    folder = tmp_path_factory.mktemp("c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", request.param)
        torsh.export(mlp(), (rand(8, 20),), folder / "model", format="c")
    (folder / "main.c").write_text(COUNTING.lstrip() + PROGRAM)
    (folder / "plain.c").write_text(PROGRAM.replace("count = 0;", "").replace("if (count) return 4;", ""))
    return folder, request.param


@pytest.fixture
def model_folder(model):
    return model[0]


def expected_of_program():
    x = (np.arange(160) % 17).astype(np.float32) * 0.25 - 2.0
    return array(torsh.compile(mlp())(torsh.tensor(x.reshape(8, 20).astype(np.float32))))


def output(*command, **options):
    return np.frombuffer(sh(*command, **options), np.float32).reshape(8, 5)


def test_header_is_strict_c99_and_cpp(model):
    folder, cc = model
    only = '#include "model.h"\nint main(void) { return MODEL_OK; }\n'
    for name in ("only.c", "only.cpp"):
        (folder / name).write_text(only)
    sh(cc, *STRICT, "-c", "only.c", "-o", "only.o", cwd=folder)
    cpp = {"gcc": "g++", "clang": "clang++"}[cc]
    need(cpp)
    for standard in ("c++98", "c++11", "gnu++17"):
        # C++98 has no long long, which <stdint.h> uses.
        flags = ["-Wno-long-long", *STRICT[1:]]
        sh(cpp, f"-std={standard}", *flags, "-c", "only.cpp", "-o", "only.o", cwd=folder)


@pytest.mark.parametrize("how", ["archive", "shared", "C++"])
def test_programs_with_the_library(model, how):
    folder, cc = model
    source, own = "plain.c", cc
    library, flags = ["libmodel.a"], STRICT
    if how == "shared":
        library = ["-L.", "-lmodel", "-Wl,-rpath,."]
    if how == "C++":
        own = {"gcc": "g++", "clang": "clang++"}[cc]
        need(own)
        source, flags = "plain.cpp", ["-std=c++11", *STRICT[1:]]
        (folder / source).write_text((folder / "plain.c").read_text())
    sh(own, *flags, source, *library, "-lm", "-o", f"by_{how}", cwd=folder)
    np.testing.assert_array_equal(output(f"./by_{how}", cwd=folder), expected_of_program())


def test_program_with_the_archive_allocates_nothing_after_init(model):
    folder, cc = model
    sh(cc, *STRICT, "-Wl,--wrap=malloc", "main.c", "libmodel.a", "-lm", "-o", "main", cwd=folder)
    np.testing.assert_array_equal(output("./main", cwd=folder), expected_of_program())


def test_valgrind_is_silent(model):
    folder, cc = model
    need("valgrind")
    sh(cc, "-std=c99", "-g", "plain.c", "libmodel.a", "-lm", "-o", "plain", cwd=folder)
    sh("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./plain", cwd=folder)


STEP = r"""
#include "train.h"
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    /* On the heap, of exactly the bytes that are asked for, where valgrind sees what goes beyond. */
    size_t bytes = train_arena_bytes(), i, step;
    unsigned char *arena = malloc(bytes + 1);
    float *x = malloc(TRAIN_INPUT_X_BYTES), *loss = malloc(TRAIN_OUTPUT_OUTPUT_BYTES);
    int64_t *y = malloc(TRAIN_INPUT_Y_BYTES);
    train_context context;
    int error = train_init(&context, arena + 1, bytes);
    for (i = 0; i < TRAIN_INPUT_X_COUNT; i++) x[i] = (float)(i % 17) * 0.25f - 2.0f;
    for (i = 0; i < TRAIN_INPUT_Y_COUNT; i++) y[i] = (int64_t)(i % 5);
    for (step = 0; !error && step < 2; step++) {
        error = train_seed(&context, 5);
        if (!error) error = train_run(&context, x, y, loss);
        if (!error) error = train_run_grad(&context, x, y, NULL, loss);
    }
    if (!error) printf("%a\n", *loss);
    train_free(&context);
    free(arena), free(x), free(loss), free(y);
    return error;
}
"""


def test_valgrind_is_silent_about_attention_dropout_and_gradients(tmp_path, compiler):
    need("valgrind")
    torsh.manual_seed(0)
    up, down = nn.Linear(6, 18), nn.Linear(6, 5)

    def loss(x, y):
        q, k, v = up(x).chunk(3, -1)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.2)
        return F.cross_entropy(F.dropout(down(z), 0.1).reshape(-1, 5), y)

    args = (rand(1, 70, 6), torsh.tensor(np.arange(70) % 5))
    torsh.export(loss, args, tmp_path / "train", format="c", include_grad=True)
    (tmp_path / "step.c").write_text(STEP)
    sh(compiler, *STRICT, "-g", "step.c", "libtrain.a", "-lm", "-o", "step", cwd=tmp_path)
    sh("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "./step", cwd=tmp_path)


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
    c, cpp = ["c -std=c99", "c -std=gnu17"], ["c++ -std=c++11", "c++ -std=gnu++20"]
    for own, languages in (("gcc", c), ("clang", c), ("g++", cpp), ("clang++", cpp)):
        for language in languages if shutil.which(own) else []:
            command = [own, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", *language.split(), "-"]
            # The last one makes a word a macro that headers of C++ use.
            words = "limits math stdio complex iso646 stdbool stdnoreturn".split()
            source = "".join(f"#include <{word}.h>\n" for word in words) + f'#include "{name}.h"\n'
            done = subprocess.run(command, cwd=folder, input=source, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


NAMES = (
    "SIZE_MAX INT8_MAX NAN INFINITY NULL EOF I t T_CHECK co_await and_eq thread_local wchar_t decltype stdin linux W "
    "complex imaginary noreturn bool math_errhandling"
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


@pytest.mark.parametrize("name", ["m", "c", "pthread", "dl", "rt", "gcc", "sem", "pthread_mutex", "mtx"])
def test_names_of_libraries_are_not_those_of_the_system(tmp_path, name):
    with pytest.raises(torsh.ExportError, match="functions of the system"):
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


@pytest.mark.parametrize("name", ["2x", "a-b", "int", "_x", "ä"])
def test_names_must_be_identifiers(tmp_path, name):
    with pytest.raises(torsh.ExportError, match="identifier"):
        torsh.export(lambda x: x + 1, (rand(3),), f"{tmp_path}/{name}", format="c")


def test_refusals_name_the_reason(tmp_path, monkeypatch):
    def export(fn=lambda x: x + 1, args=None, **options):
        return torsh.export(fn, args or (rand(3),), tmp_path / "model", format="c", **options)

    with pytest.raises(torsh.ExportError, match="one target"):
        export(targets=("x86_64", "aarch64"))
    for dynamic in ({"x": {0: torsh.Dim("n")}}, ({0: torsh.Dim("n")},), True):
        with pytest.raises(torsh.ExportError, match="one library for each size.*a package takes sizes that vary"):
            export(dynamic=dynamic)
    with pytest.raises(ValueError, match="weights"):
        export(weights="cloud")
    with pytest.raises(ValueError, match="format"):
        torsh.export(lambda x: x, (rand(3),), tmp_path / "model", format="rust")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(torsh.ExportError, match="no C compiler.*no-such-compiler"):
        export()
    monkeypatch.setenv("CC", "false")
    with pytest.raises(torsh.ExportError, match="status 1"):
        export()
    assert list(tmp_path.iterdir()) == []


def test_packed_tables_hold_names_sizes_and_first_values(tmp_path, compiler):
    """Parameters and gradients in the context, buffers among the weights, for more tensors than stand there plainly."""
    model = nn.Sequential(*(m for _ in range(24) for m in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()))).eval()
    x = rand(4, 6)
    torsh.export(lambda x: model(x).sum(), (x,), tmp_path / "model", format="c", include_grad=True)
    lib = Library(tmp_path)
    names = lib.states()
    held = {f"model.{name}": array(p) for name, p in [*model.named_parameters(), *model.named_buffers()]}
    found = {name: value for name, value in held.items() if name in names}
    assert len(found) == 24 * 6 and len(names) == len(found) + 24 * 4
    for name, value in found.items():
        same_bits([lib.state(name, value)], [value])
        if f"{name}.grad" in names:
            same_bits([lib.state(f"{name}.grad", value)], [np.zeros_like(value)])
    kept = [lib.call("state_data", lib.context, i, result=ctypes.c_void_p) for i in range(len(names))]
    assert {name for name, at in zip(names, kept, strict=True) if at is None} >= {"model.1.running_mean"}
    places = sorted(at for at in kept if at is not None)
    assert len(set(places)) == len(places) and all(at % 64 == 0 for at in places)
    loss = np.empty((), np.float32)
    assert lib.run([array(x), None], [loss], "run_grad") == 0
    assert loss.tobytes() == array(torsh.compile(lambda x: model(x).sum())(x)).tobytes()
    lib.free()


def test_objects_of_a_program_use_a_library_before_main(tmp_path):
    """The constructor of a global object may run a library, linked into the program or beside it."""
    need("g++")
    model = nn.Sequential(*(m for _ in range(24) for m in (nn.Linear(6, 6), nn.Tanh())))
    opt = torsh.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x):
        opt.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        opt.step()
        return loss

    torsh.export(step, (torsh.ones(4, 6),), tmp_path / "model", format="c")
    (tmp_path / "main.cpp").write_text(
        """#include "model.h"
#include <cstdio>
struct Early {
    float loss; int state;
    Early() : loss(-1), state(model_state_find("opt.lr")) {
        model_context c; float x[24];
        for (float &v : x) v = 1;
        if (model_init(&c, 0, 0) || model_run(&c, x, &loss)) loss = -2;
        model_free(&c);
    }
};
static Early early;
int main() {
    Early late;
    return !(early.state >= 0 && early.loss > 0 && early.loss == late.loss && early.state == late.state);
}
"""
    )
    for link in (["libmodel.a", "-lm"], ["-L.", "-lmodel", "-Wl,-rpath,."], ["-static", "libmodel.a", "-lm"]):
        sh("g++", "main.cpp", *link, "-o", "program", cwd=tmp_path)
        sh("./program", cwd=tmp_path)


def test_linkers_that_do_not_know_how_to_make_small_files(tmp_path, monkeypatch):
    need("gcc", "ld.gold")
    monkeypatch.setenv("CC", "gcc -fuse-ld=gold")
    x = rand(3)
    torsh.export(lambda x: x * 2, (x,), tmp_path / "model", format="c")
    lib, out = Library(tmp_path), np.zeros(3, np.float32)
    assert lib.run([array(x)], [out]) == 0 and out.tolist() == (x * 2).tolist()
    lib.free()
