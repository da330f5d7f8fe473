"""Stubs and the op reference follow from the registry and the package; everything public is documented."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest

import torsh
from torsh import _C

ROOT = Path(__file__).resolve().parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("make_stubs", ROOT / "tools" / "make_stubs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = generator()


@pytest.mark.parametrize("name", MAKE.OUTPUTS)
def test_generated_file_is_fresh(name):
    path = ROOT / name
    assert path.exists(), f"{name} is missing: run python tools/make_stubs.py"
    assert path.read_text(encoding="utf-8") == MAKE.OUTPUTS[name](), f"{name} is stale: run python tools/make_stubs.py"


@pytest.mark.parametrize("name", [n for n in MAKE.OUTPUTS if n.endswith(".pyi")])
def test_stub_is_python(name):
    compile((ROOT / name).read_text(encoding="utf-8"), name, "exec")


def test_stub_knows_every_name():
    stub = (ROOT / "python/torsh/__init__.pyi").read_text(encoding="utf-8")
    missing = [n for n in dir(torsh) if not n.startswith("_") and n not in ("annotations",) and n not in stub]
    assert not missing


def public():
    for module in (torsh, torsh.nn, torsh.nn.functional, torsh.nn.init, torsh.nn.utils, torsh.optim, torsh.func):
        for name in dir(module):
            obj = getattr(module, name)
            if name.startswith("_") or not (inspect.isroutine(obj) or inspect.isclass(obj)):
                continue
            if getattr(obj, "__module__", "").startswith("torsh"):
                yield f"{module.__name__}.{name}", obj
    for module in (torsh.autograd, torsh.limits, torsh.random, torsh.serialization, torsh.utils.data):
        for name, obj in vars(module).items():
            if not name.startswith("_") and getattr(obj, "__module__", "") == module.__name__:
                yield f"{module.__name__}.{name}", obj


def undocumented():
    for path, obj in public():
        if not inspect.getdoc(obj):
            yield path
        if inspect.isclass(obj) and obj is not _C.Tensor:
            for name, member in vars(obj).items():
                if not name.startswith("_") and inspect.isroutine(member) and not inspect.getdoc(getattr(obj, name)):
                    yield f"{path}.{name}"
    for name in dir(_C.Tensor):
        if not name.startswith("_") and not inspect.getdoc(inspect.getattr_static(_C.Tensor, name)):
            yield f"torsh.Tensor.{name}"


def test_everything_public_has_a_docstring():
    assert not sorted(set(undocumented()))


def test_every_op_states_its_facts():
    for op in _C.ops():
        assert op["doc"].strip() and op["dtypes"], op["name"]
        assert op["gradient"] != "none" or op["reason"], f"{op['name']}: no gradient and no reason"
        assert len(op["attrs"]) == len(op["attr_kinds"])
        if op["surface"] != "hidden":
            assert hasattr(torsh, op["name"]) and hasattr(torsh.Tensor, op["name"]), op["name"]
