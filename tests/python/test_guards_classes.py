"""Guards: classes, objects, modules and optimizers.

Each case changes one thing between calls, and the compiled function must give what the plain one gives.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import sys
import types

import pytest
from guard_cases import Box, Cases, setter

import torsh
from torsh import nn

CASES = Cases()
case, lazily = CASES.case, CASES.lazily
LEVEL, SWITCH = 2.0, False


# Modules and classes.


@case
def attribute_of_a_compiled_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = 2.0

        def forward(self, x):
            return x

    cm = torsh.compile(Net())
    return lambda x: cm(x) * cm.k, setter(cm, k=5.0)


@case
def class_attribute_of_a_module():
    class Net(nn.Module):
        k = 2.0

        def forward(self, x):
            return x * self.k

    net = Net()
    return lambda x: net(x), setter(Net, k=5.0)


@case
def forward_of_a_module_class():
    class Net(nn.Module):
        def forward(self, x):
            return x

    net = Net()
    return lambda x: net(x), setter(Net, forward=lambda self, x: x * 5.0)


@case
def forward_of_a_module():
    class Net(nn.Module):
        def forward(self, x):
            return x

    net = Net()
    return lambda x: net(x), setter(net, forward=lambda x: x * 5.0)


@case
def helper_method_of_a_module():
    class Net(nn.Module):
        def forward(self, x):
            return self.scale(x)

        def scale(self, x):
            return x

    net = Net()
    return lambda x: net(x), setter(Net, scale=lambda self, x: x * 5.0)


@case
def attribute_of_a_module_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self._k0 = 2.0

        def forward(self, x):
            return x * sum(getattr(self, f"_k{i}") for i in range(1))

    net = Net()
    return lambda x: net(x), setter(net, _k0=5.0)


@case
def attribute_that_a_module_has_not_yet():
    class Net(nn.Module):
        def forward(self, x):
            return x * (5.0 if hasattr(self, "k") else 2.0)

    net = Net()
    return lambda x: net(x), setter(net, k=1)


@case
def instance_attribute_over_a_class_attribute():
    class Thing:
        v = 2.0

    thing = Thing()
    return lambda x: x * thing.v, setter(thing, v=5.0)


@case
def class_attribute_of_a_base():
    class Base:
        v = 2.0

    class Thing(Base):
        pass

    thing = Thing()
    return lambda x: x * thing.v, setter(Thing, v=5.0)


@case
def class_attribute_of_an_item():
    class Thing:
        v = 2.0

    things = [Thing()]
    return lambda x: x * things[0].v, setter(Thing, v=5.0)


@case
def container_as_a_class_attribute():
    class Thing:
        table = {"k": 2.0}

    thing = Thing()
    return lambda x: x * thing.table["k"], lambda: Thing.table.update(k=5.0)


@case
def method_of_a_class():
    class Thing:
        def v(self):
            return 2.0

    thing = Thing()
    return lambda x: x * thing.v(), setter(Thing, v=lambda self: 5.0)


@case
def method_of_an_object():
    class Thing:
        def v(self):
            return 2.0

    thing = Thing()
    return lambda x: x * thing.v(), setter(thing, v=lambda: 5.0)


@case
def static_and_class_methods():
    class Thing:
        k = 1.0

        @staticmethod
        def a():
            return 2.0

        @classmethod
        def b(cls):
            return 3.0 * cls.k

    def change():
        Thing.b = classmethod(lambda cls: 7.0)

    return lambda x: x * Thing.a() * Thing().b(), change


@case
def static_method():
    class Thing:
        @staticmethod
        def a():
            return 2.0

    return lambda x: x * Thing.a(), setter(Thing, a=staticmethod(lambda: 5.0))


@case
def operator_of_a_class():
    class Thing:
        def __call__(self):
            return 2.0

    thing = Thing()
    return lambda x: x * thing(), setter(Thing, __call__=lambda self: 5.0)


@case
def length_and_item_of_a_class():
    class Thing:
        def __init__(self):
            self.items = [2.0]

        def __len__(self):
            return len(self.items)

        def __getitem__(self, i):
            return self.items[i]

    thing = Thing()
    return lambda x: x * thing[0] * len(thing), lambda: thing.items.insert(0, 5.0)


@case
def properties():
    class Thing:
        def __init__(self):
            self._v = 2.0

        @property
        def v(self):
            return self._v

    thing = Thing()
    return lambda x: x * thing.v, setter(thing, _v=5.0)


@case
def replaced_property():
    class Thing:
        @property
        def v(self):
            return 2.0

    thing = Thing()
    return lambda x: x * thing.v, setter(Thing, v=property(lambda self: 5.0))


@case
def property_of_an_item():
    class Thing:
        _v = Box(k=2.0)

        @property
        def v(self):
            return self._v

    things = (Thing(),)
    return lambda x: x * things[0].v.k, setter(Thing._v, k=5.0)


@case
def cached_property():
    class Thing:
        def __init__(self):
            self.k = 2.0

        @functools.cached_property
        def v(self):
            return self.k

    thing = Thing()

    def change():
        thing.__dict__.pop("v", None)
        thing.k = 5.0

    return lambda x: x * thing.v, change


@case
def slots():
    class Thing:
        __slots__ = ("v", "w")

        def __init__(self):
            self.v = 2.0

    things = [Thing()]
    return lambda x: x * things[0].v, setter(things[0], v=5.0)


@case
def attribute_through_getattr_of_the_class():
    class Thing:
        def __init__(self):
            self.table = {"v": 2.0}

        def __getattr__(self, name):
            try:
                return self.__dict__["table"][name]
            except KeyError:
                raise AttributeError(name) from None

    thing = Thing()
    return lambda x: x * thing.v, lambda: thing.table.update(v=5.0)


@case
def attribute_in_front_of_getattr():
    class Thing:
        def __getattr__(self, name):
            return 2.0

    thing = Thing()
    return lambda x: x * thing.v, setter(thing, v=5.0)


@case
def class_of_an_object():
    class A:
        def v(self):
            return 2.0

    class B(A):
        def v(self):
            return 5.0

    thing = A()
    return lambda x: x * thing.v(), setter(thing, __class__=B)


@case
def isinstance_of_an_object():
    class A:
        pass

    class B:
        pass

    thing = A()
    return lambda x: x * (2.0 if isinstance(thing, A) else 5.0), setter(thing, __class__=B)


@case
def isinstance_of_an_item():
    class A:
        pass

    class B:
        pass

    things = [A()]
    return lambda x: x * (2.0 if isinstance(things[0], A) else 5.0), setter(things[0], __class__=B)


@case
def type_of_a_number():
    a = Box(v=2)
    return lambda x: x * (2.0 if isinstance(a.v, int) else 5.0), setter(a, v=2.0)


@case
def enum_member():
    class Mode(enum.Enum):
        A = 2.0
        B = 5.0

    box = Box(mode=Mode.A)
    return lambda x: x * box.mode.value, setter(box, mode=Mode.B)


@case
def enum_attribute():
    class Mode(enum.Enum):
        A = 1
        B = 2

    Mode.A.scale = 2.0
    return lambda x: x * Mode.A.scale, setter(Mode.A, scale=5.0)


@case
def dataclass_field():
    @dataclasses.dataclass
    class Config:
        v: float = 2.0
        more: list = dataclasses.field(default_factory=lambda: [1.0])

    cfg = Config()
    return lambda x: x * cfg.v * cfg.more[0], lambda: cfg.more.__setitem__(0, 5.0)


@case
def dataclass_as_dict():
    @dataclasses.dataclass
    class Config:
        v: float = 2.0

    cfg = Config()
    return lambda x: x * dataclasses.asdict(cfg)["v"], setter(cfg, v=5.0)


@case
def named_tuple_with_a_list():
    Pair = collections.namedtuple("Pair", "a b")
    pair = Pair([2.0], Box(v=3.0))
    return lambda x: x * pair.a[0] * pair.b.v, setter(pair.b, v=5.0)


@case
def attribute_of_a_python_module():
    module = types.ModuleType("made_here")
    module.v, module.sub = 2.0, types.ModuleType("made_here.sub")
    module.sub.v = 3.0
    return lambda x: x * module.v * module.sub.v, setter(module.sub, v=5.0)


@case
def function_of_a_python_module():
    module = types.ModuleType("made_here")
    module.v = lambda: 2.0
    return lambda x: x * module.v(), setter(module, v=lambda: 5.0)


@case
def constant_of_the_standard_library():
    sys.torsh_test_value = 2.0
    return lambda x: x * sys.torsh_test_value, setter(sys, torsh_test_value=5.0)


# Modules of torsh.nn and their settings.


@case
def layer_added_to_a_list():
    layers = nn.ModuleList([nn.Flatten(0)])

    class Twice(nn.Module):
        def forward(self, x):
            return x * 2.0

    def f(x):
        for layer in layers:
            x = layer(x)
        return x

    return f, lambda: layers.append(Twice())


@case
def layer_added_to_a_sequence():
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2.0

    net = nn.Sequential(Twice())
    return lambda x: net(x), lambda: net.append(Twice())


@case
def layer_added_to_a_dict():
    class Twice(nn.Module):
        def forward(self, x):
            return x * 2.0

    net = nn.ModuleDict({"a": Twice()})
    return lambda x: sum(m(x) for m in net.values()), lambda: net.update({"b": Twice()})


@case
def hook_of_a_module():
    net = nn.Identity()
    return lambda x: net(x), lambda: net.register_forward_hook(lambda m, a, y: y * 5.0)


@case
def closure_of_a_hook():
    net = nn.Identity()
    k = 2.0
    net.register_forward_hook(lambda m, a, y: y * k)

    def change():
        nonlocal k
        k = 5.0

    return lambda x: net(x), change


@case
def parameter_added_to_a_module():
    net = nn.Linear(1, 1)
    return lambda x: x * len(list(net.parameters())), lambda: net.register_parameter(
        "more", nn.Parameter(torsh.ones(1))
    )


@case
def list_of_a_module_in_a_list():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = [2.0]

        def forward(self, x):
            return x * self.scales[0]

    nets = [Net()]
    return lambda x: nets[0](x), lambda: nets[0].scales.__setitem__(0, 5.0)


@case
def setting_of_a_layer():
    net = nn.LeakyReLU(0.5)
    return lambda x: net(-x), setter(net, negative_slope=0.25)


@case
def module_that_counts_its_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    net = Net()
    return lambda x: net(x), lambda: None


@case
def settings_of_an_optimizer():
    w = torsh.ones(1, requires_grad=True)
    opt = torsh.optim.SGD([w], lr=0.5, weight_decay=0.0)

    def f(x):
        opt.zero_grad()
        (w * x).sum().backward()
        opt.step()
        return w.detach() * 1.0

    def change():
        opt.param_groups[0]["weight_decay"] = 0.5
        opt.param_groups[0]["momentum"] = 0.5
        opt.param_groups[0]["nesterov"] = True

    return f, change


@case
def betas_of_an_optimizer():
    w = torsh.ones(1, requires_grad=True)
    opt = torsh.optim.Adam([w], lr=0.5)

    def f(x):
        opt.zero_grad()
        (w * w * x).sum().backward()
        opt.step()
        return w.detach() * 1.0

    def change():
        opt.param_groups[0]["betas"] = (0.5, 0.6)

    return f, change


@case
def parameters_added_to_an_optimizer():
    w, v = torsh.ones(1, requires_grad=True), torsh.ones(1, requires_grad=True)
    opt = torsh.optim.SGD([w], lr=0.5)

    def f(x):
        opt.zero_grad()
        (w * v * x).sum().backward()
        opt.step()
        return w.detach() * v.detach()

    return f, lambda: opt.add_param_group({"params": [v]})


@case
def schedule_inside_the_function():
    w = torsh.ones(1, requires_grad=True)
    opt = torsh.optim.SGD([w], lr=0.5)
    schedule = torsh.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)

    def f(x):
        opt.zero_grad()
        (w * x).sum().backward()
        opt.step()
        schedule.step()
        return w.detach() * 1.0

    f.after = lambda: opt.param_groups[0]["lr"]
    return f, lambda: None


@case
def replaced_state_of_an_optimizer():
    w = torsh.ones(1, requires_grad=True)
    opt = torsh.optim.SGD([w], lr=0.5, momentum=0.5)

    def f(x):
        opt.zero_grad()
        (w * x).sum().backward()
        opt.step()
        return w.detach() * 1.0

    def change():
        opt.state[w]["momentum_buffer"] = torsh.full((1,), 100.0)

    return f, change


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_value_is_seen(name):
    CASES.check(name, globals())
