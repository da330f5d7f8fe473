"""Wrong use of a library in C is an error code with a text, and nothing happens to anybody's memory."""

import ctypes
import threading

import numpy as np
import pytest
from c_library import CODES, ERRORS, Library, array, mlp, need, pointer, rand, same_bits

import torsh
import torsh.nn.functional as F
from torsh import nn

pytestmark = [pytest.mark.compiled_only, pytest.mark.host_only("libraries in C run on the host")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`model`, and `tune` with gradients and random numbers."""
    need("cc")
    folder = tmp_path_factory.mktemp("c")
    torsh.export(mlp(), (rand(8, 20),), folder / "model", format="c")
    torsh.manual_seed(0)
    up, down = nn.Linear(6, 18), nn.Linear(6, 5)

    def loss(x, y):
        q, k, v = up(x).chunk(3, -1)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.2)
        return F.cross_entropy(down(z).reshape(-1, 5), y)

    args = (rand(1, 70, 6), torsh.tensor(np.arange(70) % 5))
    torsh.export(loss, args, folder / "tune", format="c", include_grad=True)
    return folder


def test_pointers(folder):
    lib = Library(folder)
    x, y = np.zeros(160, np.float32), np.zeros(40, np.float32)
    run = lambda *a: lib.call("run", *a)  # noqa: E731
    assert run(lib.context, None, pointer(y)) == run(lib.context, pointer(x), None) == ERRORS["null"]
    assert run(None, pointer(x), pointer(y)) == ERRORS["null"]
    assert run(lib.context, pointer(x, 1), pointer(y)) == ERRORS["alignment"]
    assert run(lib.context, pointer(x), pointer(y, 2)) == ERRORS["alignment"]
    assert run((ctypes.c_void_p * 4)(), pointer(x), pointer(y)) == ERRORS["context"]
    copied = (ctypes.c_void_p * 4)(*lib.context)
    assert run(copied, pointer(x), pointer(y)) == 0
    lib.free()
    assert run(lib.context, pointer(x), pointer(y)) == ERRORS["context"]
    lib.free()


def test_contexts_are_of_one_library(folder):
    """A context of another library has other memory: it is refused before anything is read or written there."""
    model, tune = Library(folder), Library(folder, "tune")
    x, y, loss = np.ones((1, 70, 6), np.float32), np.zeros(70, np.int64), np.zeros((), np.float32)
    out, word = np.zeros((8, 5), np.float32), np.zeros(2, np.int64)
    for context in (model.context, (ctypes.c_void_p * 4)(*model.context)):
        given = [context, pointer(x), pointer(y)]
        assert tune.call("run", *given, pointer(loss)) == ERRORS["context"]
        assert tune.call("run_grad", *given, None, pointer(loss)) == ERRORS["context"]
        assert tune.call("seed", context, ctypes.c_uint64(1)) == ERRORS["context"]
        at = tune.call("state_find", b"random.state")
        for what in ("state_read", "state_write"):
            assert tune.call(what, context, at, pointer(word), ctypes.c_size_t(16)) == ERRORS["context"]
        assert tune.call("state_data", context, at, result=ctypes.c_void_p) is None
    assert model.call("run", tune.context, pointer(array(rand(8, 20))), pointer(out)) == ERRORS["context"]
    assert loss == 0
    assert not out.any()
    assert tune.run([x, y], [loss]) == 0
    model.free()
    tune.free()


def deep(act):
    """Steps enough for a table, the same but for their kernels."""

    def f(x):
        for _ in range(24):
            x = act(x.flip(0)).cumsum(0)
        return x

    return f


@pytest.mark.parametrize(
    "pair", [(lambda x: x + 1, lambda x: (x * 2).sum() + x), (deep(torsh.tanh), deep(torsh.sin))], ids=["short", "long"]
)
def test_contexts_of_libraries_with_one_name_and_size(tmp_path, pair):
    need("cc")
    libs = []
    for i, f in enumerate(pair):
        (tmp_path / str(i)).mkdir()
        torsh.export(f, (rand(3),), tmp_path / str(i) / "model", format="c")
        libs.append(Library(tmp_path / str(i)))
    x, out = array(rand(3)), np.zeros(3, np.float32)
    assert libs[0].call("run", libs[1].context, pointer(x), pointer(out)) == ERRORS["context"]
    assert libs[1].call("run", libs[0].context, pointer(x), pointer(out)) == ERRORS["context"]
    assert [lib.run([x], [out]) for lib in libs] == [0, 0]


def test_pointers_of_gradients(folder):
    lib = Library(folder, "tune")
    x, y, loss = array(rand(1, 70, 6)), np.zeros(70, np.int64), np.empty((), np.float32)
    assert lib.run([x, y, None], [loss], "run_grad") == 0
    for at in (0, 1, 3):
        given = [x, y, None, loss]
        given[at] = None
        assert lib.run(given, [], "run_grad") == ERRORS["null"]
    one = np.ones(2, np.float32)
    call = lambda ct: lib.call("run_grad", lib.context, pointer(x), pointer(y), ct, pointer(loss))  # noqa: E731
    assert call(pointer(one)) == 0
    assert call(pointer(one, 2)) == ERRORS["alignment"]
    # After a label that is no class the state is as before, but for gradients: what is in them then is not to be used.
    before = (
        lib.state("up.weight.grad", np.empty((18, 6), np.float32)),
        lib.state("random.state", np.empty(2, np.int64)),
    )
    y[69] = 5
    assert lib.run([x, y, None], [loss], "run_grad") == ERRORS["index"]
    same_bits([lib.state("random.state", before[1])], [before[1]])
    # The next run has all of them again.
    y[69] = 4
    assert lib.run([x, y, None], [loss], "run_grad") == 0
    other, again = Library(folder, "tune"), np.empty_like(loss)
    assert other.write("random.state", before[1]) == 0
    assert other.run([x, y, None], [again], "run_grad") == 0
    grad = lib.state("up.weight.grad", before[0])
    same_bits([loss, grad], [again, other.state("up.weight.grad", before[0])])
    assert before[0].any()
    assert (grad != before[0]).any()
    text = lib.call("error_text", ERRORS["index"], result=ctypes.c_char_p)
    assert b"state but for gradients is as before" in text


def test_arenas(folder):
    need_bytes = Library(folder).arena_bytes
    x = array(rand(8, 20))
    expected = np.empty((8, 5), np.float32)
    assert Library(folder).run([x], [expected]) == 0
    for missing in (1, 64, need_bytes - 1):
        small = np.zeros(need_bytes - missing, np.uint8)
        assert Library(folder, arena=small).status == ERRORS["arena"]
    # Memory of any alignment will do, and nothing beside it is written.
    for by in (0, 1, 3, 8, 33, 63):
        room = np.full(need_bytes + by + 64, 0xA5, np.uint8)
        lib = Library(folder, arena=room[by : by + need_bytes])
        assert lib.status == 0
        got = np.empty_like(expected)
        assert lib.run([x], [got]) == 0
        same_bits([got], [expected])
        lib.free()
        assert (room[:by] == 0xA5).all()
        assert (room[by + need_bytes :] == 0xA5).all()
    # An error leaves a context that is none.
    lib = Library(folder, arena=np.zeros(8, np.uint8))
    assert lib.run([x], [np.empty_like(expected)]) == ERRORS["context"]
    assert lib.call("init", None, None, ctypes.c_size_t(0)) == ERRORS["null"]


def test_state(folder):
    lib = Library(folder)
    word = np.zeros(1, np.float32)
    read = lambda at, n: lib.call("state_read", lib.context, at, pointer(word), ctypes.c_size_t(n))  # noqa: E731
    assert read(99, 4) == read(-1, 4) == ERRORS["state"]
    assert read(0, 4) == ERRORS["size"]
    weight = np.zeros((48, 20), np.float32)
    assert lib.write("0.weight", weight) == ERRORS["constant"]
    data = lambda lib, at: lib.call("state_data", lib.context, at, result=ctypes.c_void_p)  # noqa: E731
    assert [data(lib, at) for at in (-1, 0, 99)] == [None] * 3
    assert [lib.call("state_bytes", at, result=ctypes.c_size_t) for at in (-1, 0, 99)] == [0, 48 * 20 * 4, 0]
    assert lib.call("state_find", None) == lib.call("state_find", b"no.such") == -1
    assert lib.call("state_name", 99, result=ctypes.c_char_p) is None
    lib.free()
    # Parameters of a library with gradients are the caller's to change.
    lib = Library(folder, "tune")
    at = lib.call("state_find", b"up.weight")
    assert lib.write("up.weight", np.full((18, 6), 2.0, np.float32)) == 0
    assert (np.ctypeslib.as_array(ctypes.cast(data(lib, at), ctypes.POINTER(ctypes.c_float)), (18, 6)) == 2.0).all()
    lib.free()
    assert data(lib, at) is None


def test_texts_of_errors(folder):
    lib = Library(folder)
    text = lambda code: lib.call("error_text", code, result=ctypes.c_char_p)  # noqa: E731
    assert len({text(i) for i in range(len(CODES))}) == len(CODES)
    assert text(-1) == text(len(CODES)) == text(2**31 - 1) == b"unknown error code"


@pytest.mark.parametrize("name", ["model", "tune"])
def test_contexts_run_in_threads(folder, name):
    """Two threads with a context each, from one library: results are those of one thread."""
    args = {
        "model": ([array(rand(8, 20))], [np.empty((8, 5), np.float32)], "run"),
        "tune": ([array(rand(1, 70, 6)), np.arange(70) % 5, None], [np.empty((), np.float32)], "run_grad"),
    }

    def results(seed):
        inputs, outputs, what = args[name]
        lib, got = Library(folder, name), [np.empty_like(o) for o in outputs]
        out = []
        if name == "tune":
            assert lib.seed(seed) == 0
        for _ in range(100):
            assert lib.run(inputs, got, what) == 0
            out.append(got[0].copy())
        if name == "tune":
            out.append(lib.state("up.weight.grad", np.empty((18, 6), np.float32)))
        lib.free()
        return out

    expected = [results(seed) for seed in (1, 2)]
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: results(i + 1)})) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for i in range(2):
        same_bits(found[i], expected[i])
