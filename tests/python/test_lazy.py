"""Laziness, promotion, indexing, conversion: what a handle promises."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import torsh

C = torsh._C


def test_promotion_follows_the_categories():
    i8, i64 = torsh.tensor([1], dtype="int8"), torsh.tensor([1])
    f16, f32, f64 = (torsh.tensor([1.0], dtype=d) for d in ("float16", "float32", "float64"))
    zero_f64 = torsh.tensor(1.0, dtype="float64")
    assert (i8 + 1).dtype == torsh.int8
    assert (i8 + 1.5).dtype == torsh.float32
    assert (f16 * 2.5).dtype == torsh.float16
    assert (f32 + zero_f64).dtype == torsh.float32
    assert (i64 + zero_f64).dtype == torsh.float64
    assert (f32 + f64).dtype == torsh.float64
    assert (torsh.tensor([1], dtype="uint8") + i8).dtype == torsh.int16
    assert (torsh.tensor(1) + i8).dtype == torsh.int8
    assert (torsh.tensor([True]) + 1).dtype == torsh.int64
    assert (i64 / 2).dtype == torsh.float32
    assert (f16 + torsh.tensor([1.0], dtype="bfloat16")).dtype == torsh.float32


def test_integer_division_and_remainder():
    a = torsh.tensor([7, -7, 7, -7])
    b = torsh.tensor([2, 2, -2, -2])
    assert (a // b).tolist() == [3, -4, -4, 3]
    assert (a % b).tolist() == [1, 1, -1, -1]
    assert (a / b).tolist() == [3.5, -3.5, -3.5, 3.5]
    assert (7 // torsh.tensor([2.0])).tolist() == [3.0]


def test_inplace_must_not_change_dtype_category_or_shape():
    i = torsh.tensor([1, 2])
    with pytest.raises(RuntimeError, match="can't be cast"):
        i += 1.5
    x = torsh.zeros(2)
    with pytest.raises(ValueError, match="broadcast"):
        x += torsh.zeros(3, 2)
    assert i.tolist() == [1, 2] and x.tolist() == [0.0, 0.0]
    x += torsh.tensor([1], dtype="int64")
    assert x.tolist() == [1.0, 1.0] and x.dtype == torsh.float32


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(None),
        slice(1, None, 2),
        (slice(None), 1),
        (Ellipsis, 0),
        (None, 1),
        (0, None, slice(0, 2)),
        (slice(None), slice(None), -1),
        (slice(5, 2),),
        (slice(-100, 100),),
        [0, 2],
        ([0, 1], [1, 2]),
        (slice(None), [0, 2]),
        ([[0, 1], [2, 0]],),
        (slice(None), [0, 1], [1, 0]),
        ([0, 2], slice(None), [1, 3]),
        (Ellipsis, [3, -4]),
        ([-1, 0], 1),
        (0, slice(None), [1, 2]),
    ],
)
def test_indexing_reads_and_writes_like_numpy(key, rng):
    data = rng.standard_normal((3, 4, 5)).astype(np.float32)
    x = torsh.tensor(data)

    def convert(k):
        return torsh.tensor(k) if isinstance(k, list) else k

    own = tuple(convert(k) for k in key) if isinstance(key, tuple) else convert(key)
    as_numpy = tuple(np.array(k) if isinstance(k, list) else k for k in key) if isinstance(key, tuple) else key
    # PyTorch selects with an integer before it gathers, NumPy gathers with it.
    want = data[0][:, [1, 2]] if key == (0, slice(None), [1, 2]) else data[as_numpy]
    np.testing.assert_array_equal(x[own].numpy(), want)
    value = rng.standard_normal(want.shape).astype(np.float32)
    x[own] = torsh.tensor(value)
    if key == (0, slice(None), [1, 2]):
        data[0][:, [1, 2]] = value
    else:
        data[as_numpy] = value
    np.testing.assert_array_equal(x.numpy(), data)


def test_boolean_masks(rng):
    data = rng.standard_normal((4, 5)).astype(np.float32)
    x = torsh.tensor(data)
    np.testing.assert_array_equal(x[x > 0].numpy(), data[data > 0])
    rows = np.array([True, False, True, False])
    np.testing.assert_array_equal(x[torsh.tensor(rows)].numpy(), data[rows])
    x[x > 0] = 0.0
    data[data > 0] = 0
    np.testing.assert_array_equal(x.numpy(), data)
    x[torsh.tensor(rows)] = torsh.ones(2, 5)
    data[rows] = 1
    np.testing.assert_array_equal(x.numpy(), data)
    with pytest.raises(IndexError, match="mask"):
        x[torsh.tensor([True, False])]


@pytest.mark.parametrize(
    "key, error",
    [
        (3, IndexError),
        ((0, 0, 0, 0), IndexError),
        (slice(None, None, -1), ValueError),
        ("a", IndexError),
        ((Ellipsis, Ellipsis), IndexError),
        (1.5, IndexError),
        (2**70, IndexError),
    ],
)
def test_bad_indices(key, error):
    with pytest.raises(error):
        torsh.zeros(3, 4)[key]


def test_index_tensors_out_of_range():
    x = torsh.zeros(3, 4)
    with pytest.raises(IndexError):
        x[torsh.tensor([3])].tolist()
    with pytest.raises(IndexError):
        x[torsh.tensor([0]), torsh.tensor([-5])].tolist()
    assert x.tolist() == [[0.0] * 4] * 3


def test_one_bad_tensor_does_not_take_the_others_with_it():
    x = torsh.arange(3)
    bad = x[torsh.tensor([7])]
    good = x + 1
    assert good.tolist() == [1, 2, 3]
    with pytest.raises(IndexError):
        bad.tolist()


def test_a_chain_of_a_hundred_thousand_operations():
    x = torsh.zeros(4)
    for _ in range(100_000):
        x = x + 1
    assert x.tolist() == [100_000.0] * 4


def test_a_long_pending_chain_is_dropped_without_recursion():
    x = torsh.zeros(4, requires_grad=True)
    y = x
    for _ in range(50_000):
        y = y * 1.0
    del y
    gc.collect()
    assert x.tolist() == [0.0] * 4


@pytest.mark.compiled_only
def test_an_eager_loop_compiles_each_graph_once():
    x = torsh.ones(8)
    torsh.eval(x)

    def step(x):
        return (x * 2 - x).sum().item()

    step(x)
    before = C.cache_info()["misses"]
    for _ in range(10):
        step(x)
    assert C.cache_info()["misses"] == before


@pytest.mark.compiled_only
def test_batches_of_a_data_set_share_one_program():
    data = torsh.arange(64).float().reshape(16, 4)
    torsh.eval(data)
    (data[0:2] * 2).sum().item()
    before = C.cache_info()["misses"]
    totals = [(data[i : i + 2] * 2).sum().item() for i in range(0, 16, 2)]
    assert C.cache_info()["misses"] == before
    assert sum(totals) == 2 * sum(range(64))


def test_errors_name_the_line_of_the_caller():
    a, b = torsh.zeros(2, 3), torsh.zeros(4)
    try:
        a + b
    except ValueError as e:
        assert e.op == "add"
        assert e.shapes == ((2, 3), (4,))
        assert e.dtypes == (torsh.float32, torsh.float32)
        assert e.location.startswith(__file__) and "test_lazy.py" in str(e)
    else:
        pytest.fail("no error")


def test_huge_and_negative_shapes():
    for shape in [(2**62,), (2**31, 2**31, 8), (2**40,)]:
        with pytest.raises(MemoryError):
            torsh.zeros(*shape)
    with pytest.raises(ValueError):
        torsh.zeros(-1)
    assert torsh.zeros(0, 2**40).tolist() == []


def test_tensor_from_lists():
    assert torsh.tensor([]).shape == (0,)
    assert torsh.tensor([[], []]).shape == (2, 0)
    assert torsh.tensor([1, 2.5]).dtype == torsh.float32
    assert torsh.tensor([True, False]).dtype == torsh.bool
    with pytest.raises(ValueError, match="ragged|length"):
        torsh.tensor([[1, 2], [3]])
    cyclic = []
    cyclic.append(cyclic)
    with pytest.raises(ValueError, match="cyclic"):
        torsh.tensor(cyclic)
    with pytest.raises(TypeError):
        torsh.tensor([object()])


def test_numpy_round_trip_of_every_dtype(rng):
    for name in ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]:
        data = (rng.standard_normal((3, 4)) * 3).astype(name)
        x = torsh.tensor(data)
        assert x.dtype == getattr(torsh, name)
        np.testing.assert_array_equal(x.numpy(), data)
        np.testing.assert_array_equal(torsh.tensor(data[::2, 1:]).numpy(), data[::2, 1:])
    x.numpy()[0, 0] = 99
    assert x[0, 0].item() != 99


def test_scalars():
    assert float(torsh.tensor(2.5)) == 2.5
    assert int(torsh.tensor(3)) == 3
    assert [1, 2, 3][torsh.tensor(1)] == 2
    assert bool(torsh.tensor([0.0])) is False
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(torsh.zeros(2))
    with pytest.raises(RuntimeError):
        torsh.zeros(2).item()
    with pytest.raises(TypeError):
        len(torsh.tensor(1))


def test_several_threads():
    results, device = [], torsh.get_default_device()

    def work(k):
        x = torsh.full((64,), float(k), device=device)
        for _ in range(20):
            x = x * 1.0 + 1.0
        results.append((k, x.sum().item()))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [(k, 64.0 * (k + 20)) for k in range(8)]


def test_a_dump_holds_every_pass_and_the_machine_code(tmp_path):
    code = "import torsh; torsh.compile(lambda x: x * 2 + 1)(torsh.ones(64))"
    env = {**os.environ, "TORSH_DUMP": str(tmp_path), "TORSH_INTERPRET": "0"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert any("simplify" in n for n in names) and any("plan" in n for n in names)
    listing = "".join(p.read_text() for p in tmp_path.glob("*-code.txt"))
    assert "schedule" in listing and "mul" in listing
