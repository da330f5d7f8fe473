"""What `import torsh` pulls in: nothing heavy, so that it stays within milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import torsh

HEAVY = ["numpy", "inspect", "re", "json", "typing", "dataclasses", "logging", "warnings", "ast", "pathlib", "random"]
LAZY = ["torsh.nn", "torsh.optim", "torsh.func", "torsh.utils", "torsh.serialization", "torsh._compile"]


def loaded(code: str) -> set[str]:
    # -S leaves out what site-packages' own .pth files import.
    run = f"import sys; sys.path[:] = {sys.path!r}; {code}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-S", "-c", run], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_is_light():
    modules = loaded("import torsh")
    assert not modules & {*HEAVY, *LAZY}


def test_values_need_no_numpy():
    assert "numpy" not in loaded("import torsh; print((torsh.ones(2) + 1).tolist(), torsh.ones(2))")


def test_a_package_needs_little_more(tmp_path):
    path = str(tmp_path / "double.torsh")
    torsh.export(lambda x: x * 2, (torsh.ones(3),), path, targets=("native",))
    modules = loaded(f"import torsh; program = torsh.load({path!r}); print(program(torsh.ones(3)).tolist())")
    assert "torsh._package" in modules
    heavy = {*HEAVY, "secrets", "struct", "hashlib", "weakref", "torsh._guards", "torsh._export"}
    # `importlib`, by which torsh finds its parts, has warnings.
    assert not modules & (heavy - {"warnings"})


@pytest.mark.parametrize("name", LAZY)
def test_lazy_modules_are_there(name):
    attribute = {"torsh.serialization": "torsh.save", "torsh._compile": "torsh.compile"}.get(name, name)
    assert name in loaded(f"import torsh; {attribute}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize("setting", [{"TORSH_BOGUS": "1"}, {"TORSH_THREADS": "-3"}, {"TORSH_LOG": "time,steps"}])
def test_warnings_that_cannot_be_written_are_lost(setting):
    run = f"import sys; sys.path[:] = {sys.path!r}; import torsh; print((torsh.ones(2) + 1).tolist())"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", run], env={**os.environ, **setting}, stdout=subprocess.PIPE, stderr=full, text=True
        )
    assert (done.returncode, done.stdout) == (0, "[2.0, 2.0]\n")
