"""What a compiled function reads from Python is guarded: attributes, variables, containers, captured tensors."""

import pytest
from guard_cases import Box

import torsh
import torsh.nn as nn

SCALE = 2.0


def entries(f):
    return f.cache_info()["entries"]


def test_class_attributes_are_guarded():
    class Base:
        scale = 2.0

    class Settings(Base):
        shift = 1.0

    f = torsh.compile(lambda x: x * Settings.scale + Settings.shift)
    x = torsh.ones(2)
    assert f(x).tolist() == [3.0, 3.0]
    Settings.shift = 5.0
    assert f(x).tolist() == [7.0, 7.0]
    Base.scale = 10.0
    assert f(x).tolist() == [15.0, 15.0]
    Settings.scale = 0.0
    assert f(x).tolist() == [5.0, 5.0]


def test_globals_and_closures_are_guarded():
    global SCALE
    offset = 1.0

    def f(x):
        return x * SCALE + offset

    g = torsh.compile(f)
    x = torsh.ones(1)
    assert g(x).item() == 3.0 and g(x).item() == 3.0
    SCALE = 5.0
    try:
        assert g(x).item() == 6.0
    finally:
        SCALE = 2.0
    offset = 10.0
    assert g(x).item() == 12.0
    assert "SCALE" in " ".join(p["reason"] for p in g.explain()["programs"])


def test_module_attributes_and_training_are_guarded():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = 2.0
            self.drop = nn.Dropout(1.0)

        def forward(self, x):
            return self.drop(x) * self.scale

    net = Net()
    f = torsh.compile(lambda x: net(x))
    x = torsh.ones(3)
    net.eval()
    assert f(x).tolist() == [2.0] * 3
    net.scale = 3.0
    assert f(x).tolist() == [3.0] * 3
    net.train()
    assert f(x).tolist() == [0.0] * 3
    net.eval()
    assert f(x).tolist() == [3.0] * 3


def test_a_function_that_changes_what_it_reads_is_never_stale():
    class Box:
        calls = 0

    box = Box()
    box.calls = 0

    def f(x):
        y = x + box.calls
        box.calls += 1
        return y

    g = torsh.compile(f)
    assert [g(torsh.zeros(1)).item() for _ in range(4)] == [0.0, 1.0, 2.0, 3.0]


def test_helpers_in_other_functions_are_guarded():
    table = {"k": 1.0}
    state = [2.0]

    def factory(k):
        def helper(x):
            return x * k

        return helper

    helper = factory(3.0)

    def outer(x):
        return helper(x)

    g = torsh.compile(outer)
    assert g(torsh.ones(1)).item() == 3.0
    helper = factory(4.0)
    assert g(torsh.ones(1)).item() == 4.0
    assert table and state


def test_attributes_of_plain_objects_are_guarded():
    class Box:
        value = 1.0

    box = Box()
    box.value = 2.0
    f = torsh.compile(lambda x: x * box.value)
    assert f(torsh.ones(1)).item() == 2.0
    box.value = 4.0
    assert f(torsh.ones(1)).item() == 4.0


def test_attributes_read_through_local_names_are_guarded():
    class Model:
        def __init__(self):
            self.cfg = Box(scale=2.0)

        def go(self, x):
            c = self.cfg
            return x * c.scale

    m = Model()
    f = torsh.compile(m.go)
    assert f(torsh.ones(1)).item() == 2.0
    m.cfg.scale = 5.0
    assert f(torsh.ones(1)).item() == 5.0


def test_a_helper_called_with_several_objects_is_guarded_for_each():
    a, b = Box(s=2.0), Box(s=3.0)

    def block(x, c):
        return x * c.s

    f = torsh.compile(lambda x: block(block(x, a), b))
    assert f(torsh.ones(1)).item() == 6.0
    b.s = 10.0
    assert f(torsh.ones(1)).item() == 20.0


def test_a_variable_read_only_in_an_inner_function_is_guarded():
    k = 2

    def f(x):
        return sum(x * k for _ in range(3))

    g = torsh.compile(f)
    assert g(torsh.ones(1)).item() == 6.0
    k = 5
    assert g(torsh.ones(1)).item() == 15.0


def test_contents_of_containers_are_guarded():
    items, table, tensors, nested = [1.0], {"a": 1.0}, [torsh.ones(1)], {"k": [1.0]}
    box = Box(items=[0.0])

    def f(x, more=[0.0]):  # noqa: B006
        return x * items[0] + table["a"] + tensors[0] + nested["k"][0] + box.items[0] + more[0]

    g = torsh.compile(f)
    assert g(torsh.ones(1)).item() == 4.0
    items[0] = 2.0
    assert g(torsh.ones(1)).item() == 5.0
    table["a"] = 2.0
    assert g(torsh.ones(1)).item() == 6.0
    tensors[0] = torsh.full((1,), 2.0)
    assert g(torsh.ones(1)).item() == 7.0
    nested["k"][0] = 2.0
    assert g(torsh.ones(1)).item() == 8.0
    box.items[0] = 1.0
    assert g(torsh.ones(1)).item() == 9.0
    f.__defaults__[0][0] = 1.0
    assert g(torsh.ones(1)).item() == 10.0
    misses = g.cache_info()["misses"]
    g(torsh.ones(1))
    assert g.cache_info()["misses"] == misses


def test_zero_and_minus_zero_differ_and_nan_is_itself():
    z = 0.0
    f = torsh.compile(lambda x: x / z)
    assert f(torsh.ones(1)).item() == float("inf")
    z = -0.0
    assert f(torsh.ones(1)).item() == -float("inf")
    z = float("nan")
    f(torsh.ones(1))
    misses = f.cache_info()["misses"]
    z = float("nan")
    f(torsh.ones(1))
    assert f.cache_info()["misses"] == misses


class Scaled:
    def __init__(self, scale):
        self.scale = scale


def test_an_item_of_a_large_container_is_never_stale():
    numbers = [1.0] * 20_000
    table = {f"k{i}": 1.0 for i in range(5_000)}
    keys = set(range(3_000))
    nested = [[[[[[[2.0]]]]]]]
    fixed = ([3.0], *range(2_000))
    objects = [Scaled(1.0) for _ in range(3_000)]

    def f(x):
        y = x * numbers[19_000] + table["k4321"] + len(keys) * 0 + (5.0 if 2_999 in keys else 6.0)
        y = y * nested[0][0][0][0][0][0][0] + fixed[0][0]
        for o in objects[2_990:]:
            y = y * o.scale
        return y

    g = torsh.compile(f)
    x = torsh.tensor([1.0, 2.0])

    def check(misses):
        assert g(x).tolist() == f(x).tolist()
        assert g(x).tolist() == f(x).tolist()
        assert g.cache_info()["misses"] == misses

    check(1)
    numbers[19_000] = 7.0
    check(2)
    table["k4321"] = -1.0
    check(3)
    keys.remove(2_999)
    keys.add(-1)
    check(4)
    nested[0][0][0][0][0][0][0] = 0.5
    check(5)
    fixed[0][0] = 9.0
    check(6)
    objects[2_995].scale = 3.0
    check(7)
    assert not any(p["graph_break"] for p in g.explain()["programs"])


def test_what_is_too_large_to_check_runs_without_compilation_and_is_never_stale():
    numbers = list(range(70_000))
    numbers[-1], numbers[65_000] = 5, 7
    g = torsh.compile(lambda x: x * numbers[65_000] * numbers[-1])
    x = torsh.tensor([1.0])
    with pytest.warns(UserWarning, match="more than 65536 items"):
        assert g(x).item() == 35.0
    for value in (2, 3):
        numbers[65_000] = value
        assert g(x).item() == value * 5.0
    assert g.cache_info()["misses"] == 1
    assert "65536 items" in g.explain()["programs"][0]["graph_break"][0]
    h = torsh.compile(lambda x: x * numbers[0], fullgraph=True)
    with pytest.raises(torsh.TraceError, match="65536 items"):
        h(x)
    deep = [1.0]
    for _ in range(40):
        deep = [deep]
    innermost = deep
    while isinstance(innermost[0], list):
        innermost = innermost[0]

    def sink(x):
        at = deep
        while isinstance(at, list):
            at = at[0]
        return x * at

    k = torsh.compile(sink)
    with pytest.warns(UserWarning, match="nested more than"):
        assert k(x).item() == 1.0
    innermost[0] = 4.0
    assert k(x).item() == 4.0


def test_a_long_chain_of_attributes_is_guarded():
    class Box:
        pass

    root = Box()
    at = root
    for _ in range(9):
        at.a = Box()
        at = at.a
    at.v = 2.0
    g = torsh.compile(lambda x: x * root.a.a.a.a.a.a.a.a.a.v)
    x = torsh.tensor([1.0])
    assert g(x).item() == 2.0
    at.v = 5.0
    assert g(x).item() == 5.0


def test_a_captured_tensor_that_begins_or_ceases_to_require_gradients():
    w, v = torsh.tensor([2.0]), torsh.tensor([3.0], requires_grad=True)
    g = torsh.compile(lambda x: (x * w * v).sum())
    x = torsh.tensor([1.0])
    g(x).backward()
    assert w.grad is None and v.grad.item() == 2.0
    w.requires_grad_(True)
    g(x).backward()
    assert w.grad is not None and w.grad.item() == 3.0
    v.requires_grad_(False)
    v.grad = w.grad = None
    g(x).backward()
    assert v.grad is None and w.grad.item() == 3.0


def test_state_that_takes_on_a_history_is_traced_again():
    w = torsh.tensor([2.0], requires_grad=True)
    state = [torsh.tensor([1.0])]

    def f(x):
        state[0].mul_(w)
        return state[0] * x

    g = torsh.compile(f)
    x = torsh.tensor([1.0])
    g(x)
    y = g(x)
    y.backward()
    # state = w * w
    assert y.item() == 4.0 and w.grad.item() == 4.0


def test_values_copied_without_gradients_bring_no_history():
    source = torsh.tensor([1.0, 2.0], requires_grad=True)
    layer = torsh.nn.Linear(2, 2)
    plain = torsh.zeros(2)

    def f(x):
        with torsh.no_grad():
            layer.bias.copy_(source)
            plain.copy_(source)
        layer.bias.grad = layer.weight.grad = None
        (layer(x).sum() + plain.sum() * 2.0).backward()

    for run in (f, torsh.compile(f)):
        for _ in range(2):
            run(torsh.ones(1, 2))
            assert source.grad is None and layer.bias.grad.tolist() == [1.0, 1.0]
            assert not plain.requires_grad and plain.tolist() == [1.0, 2.0]
            assert layer.bias.is_leaf and layer.bias.requires_grad
    head = torsh.tensor([3.0, 4.0], requires_grad=True)
    head.data.copy_(source)
    (head * 2.0).sum().backward()
    assert source.grad is None and head.grad.tolist() == [2.0, 2.0]
