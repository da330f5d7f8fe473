"""Every example in a docstring, in the registry's docs and in the README runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import re
from pathlib import Path

import pytest

import torsh
from torsh import _C

pytestmark = pytest.mark.host_only("examples in the docs print what they give on the CPU")

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+|\d+[eE][-+]?\d+)")


class Checker(doctest.OutputChecker):
    """Floats may differ in the sixth digit; everything else must be the same text."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        a, b = NUMBER.findall(want), NUMBER.findall(got)
        if len(a) != len(b) or not super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags):
            return False
        return all(math.isclose(float(x), float(y), rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b, strict=True))


def modules():
    names = ["torsh", *(m.name for m in pkgutil.walk_packages(torsh.__path__, "torsh."))]
    return [importlib.import_module(n) for n in names if n != "torsh._C"]


def examples() -> dict[str, doctest.DocTest]:
    found = {}
    parser, finder = doctest.DocTestParser(), doctest.DocTestFinder(exclude_empty=True)
    for module in modules():
        for test in finder.find(module, module.__name__):
            if test.examples:
                found[test.name] = test
    for op in _C.ops():
        test = parser.get_doctest(op["doc"], {}, op["name"], f"ir/src/ops/{op['name']}.rs", 0)
        assert test.examples or op["surface"] == "hidden", f"{op['name']} has no example"
        if test.examples:
            found[f"registry:{op['name']}"] = test
    for name in dir(_C.Tensor):
        doc = getattr(getattr(_C.Tensor, name), "__doc__", None)
        if doc and ">>> " in doc:
            found.setdefault(f"Tensor.{name}", parser.get_doctest(doc, {}, f"Tensor.{name}", None, 0))
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name):
    test = EXAMPLES[name]
    test.globs = {"torsh": torsh, "__name__": "__main__"}
    report: list[str] = []
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


def test_there_are_examples():
    assert len(EXAMPLES) > 150


PAGES = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/packages.md", "docs/c.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES, re.S)


@pytest.mark.parametrize("k", range(len(BLOCKS)))
def test_readme(k, capsys, tmp_path, monkeypatch):
    # Examples write files.
    monkeypatch.chdir(tmp_path)
    # The globals of a module of its own: torsh.compile looks names up there.
    scope = {"__name__": "readme"}
    exec(compile(BLOCKS[k], str(ROOT / "README.md"), "exec"), scope)
    assert capsys.readouterr().out


def test_env_help(capsys):
    torsh.env_help()
    out = capsys.readouterr().out
    for name, _, text in _C.env_table():
        assert name in out and text in out
