"""What functions change in their arguments, make of standard classes, and find in caches."""

from __future__ import annotations

import collections
import fractions
import functools
import hashlib
import pathlib
import threading
import uuid
import warnings

import pytest

import torsh

T = torsh.tensor


def runs(fn, calls):
    """Each call of the compiled function, warnings aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torsh.compile(fn)
        return [compiled(*args) for args in calls]


def test_a_list_that_is_given_keeps_what_is_appended():
    def f(x, past):
        past.append(x * 2)
        return sum(past)

    past = []
    got = runs(f, [(T([float(k)]), past) for k in range(1, 5)])
    assert [g.item() for g in got] == [2, 6, 12, 20]
    assert [p.item() for p in past] == [2, 4, 6, 8]


def test_a_dict_that_is_given_holds_what_is_stored():
    def f(x, state):
        state["h"] = state["h"] + x
        return state["h"].sum()

    state = {"h": torsh.zeros(2)}
    assert [g.item() for g in runs(f, [(torsh.ones(2), state)] * 4)] == [2, 4, 6, 8]
    assert state["h"].tolist() == [4, 4]


def test_arguments_that_are_put_elsewhere_are_the_callers_own():
    def f(x, box, inner):
        box["x"], box["pair"], box["inner"] = x, (x, x + 1), inner
        inner.insert(0, x)
        return x + 1

    x, box, inner = T([1.0]), {}, [3]
    runs(f, [(x, box, inner)])
    assert box["x"] is x and box["pair"][0] is x and box["pair"][1].item() == 2
    assert box["inner"] is inner and inner[0] is x and inner[1] == 3


def test_what_is_stored_may_be_nested_deeply_and_hold_itself():
    def f(x, box):
        ring, deep = [x], [x]
        ring.append(ring)
        for _ in range(3000):
            deep = [deep]
        box.extend((ring, {"deep": deep, "box": box}))
        return x + 1

    x, box = T([1.0]), []
    runs(f, [(x, box)])
    ring, rest = box
    assert ring[0] is x and ring[1] is ring and rest["box"] is box
    deep = rest["deep"]
    while len(deep) == 1 and isinstance(deep[0], list):
        deep = deep[0]
    assert deep[0] is x


def test_items_are_taken_out_sorted_and_removed():
    def f(x, batch, order):
        order.sort()
        return batch.pop("y") * batch["x"] + x

    batch, order = {"x": T([2.0]), "y": T([3.0])}, [3, 1, 2]
    assert runs(f, [(T([1.0]), batch, order)])[0].item() == 7
    assert list(batch) == ["x"] and order == [1, 2, 3]


def test_a_change_before_an_error_is_kept():
    def f(x, seen):
        seen.append(1)
        raise ValueError("on purpose")

    seen = []
    with pytest.raises(ValueError, match="on purpose"):
        torsh.compile(f)(T([1.0]), seen)
    assert seen == [1]


def test_a_change_is_an_error_where_a_whole_graph_is_demanded():
    with pytest.raises(torsh.TraceError, match="changes a list that it is given"):
        torsh.compile(lambda x, past: past.append(x), fullgraph=True)(T([1.0]), [])


@pytest.mark.parametrize(
    "value", [fractions.Fraction(1, 3), uuid.UUID(int=7), pathlib.PurePosixPath("a/b")], ids=lambda v: type(v).__name__
)
def test_objects_of_standard_classes_are_whole(value):
    make = type(value)
    source = {fractions.Fraction: (1, 3), uuid.UUID: (str(uuid.UUID(int=7)),)}.get(make, ("a", "b"))
    got = runs(lambda x: (x * 2, make(*source)), [(T([1.0]),)] * 3)
    assert all(other == value and str(other) == str(value) for _, other in got)


class Output(collections.OrderedDict):
    """As models of other libraries return: items that are attributes too."""

    def __setattr__(self, name, value):
        super().__setitem__(name, value)
        super().__setattr__(name, value)


def test_what_is_read_of_a_result_that_is_made_is_no_guard():
    def f(x):
        out = Output()
        out.logits = x * 2
        if "loss" not in out:
            out.loss = out.logits.sum()
        return out

    compiled = torsh.compile(f)
    got = [compiled(T([float(k)])) for k in range(8)]
    assert [g.loss.item() for g in got] == [2.0 * k for k in range(8)]
    assert all(g["logits"] is g.logits for g in got)
    assert compiled.cache_info()["hits"] >= 6


def test_what_a_cache_holds_may_change():
    @functools.cache
    def get():
        return {"n": 0}

    def f(x):
        state = get()
        state["n"] += 1
        return x * state["n"]

    assert [g.item() for g in runs(f, [(T([1.0]),)] * 4)] == [1, 2, 3, 4]


def test_a_tensor_that_is_held_twice_is_one():
    def f(x):
        y = x * 2
        return [y, y]

    for first, second in runs(f, [(T([1.0]),)] * 3):
        assert first is second
        first.add_(100)
        assert second.item() == 102


@pytest.mark.parametrize("make", [threading.Lock, lambda: hashlib.sha256(b"a")], ids=["lock", "digest"])
def test_objects_that_change_unseen_are_not_shared(make):
    got = runs(lambda x: (x * 2, make()), [(T([1.0]),)] * 3)
    assert got[1][1] is not got[2][1]


def test_negative_numbers_beside_unsigned_integers():
    x = T([200, 15], dtype=torsh.uint8)
    assert (x & ~15).tolist() == [192, 0] and (x ^ -1).tolist() == [55, 240]
    assert (x + -1).tolist() == [199, 14] and (x - 1).tolist() == [199, 14] and (x * -1).tolist() == [56, 241]
    for wrong in (lambda: x & -257, lambda: x + 256, lambda: x // -1):
        with pytest.raises(RuntimeError, match="without overflow"):
            wrong()
