# Two commands: `make demo` and `make test`. Both need Rust, Python 3.10+, a C compiler and make, nothing else:
# they make .venv, install torsh into it with pip, and run. A second run rebuilds nothing.
#
# The wheel and the Rust tests share one profile (release) and one target folder, so that each dependency is
# compiled once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find ir passes codegen runtime frontend python -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name Cargo.toml | grep -v /target/)

LEVELS := portable $(if $(shell grep -m1 -w -o avx2 /proc/cpuinfo 2>/dev/null),avx2)
# Tests of values, not of the machinery round them: these are repeated at each level by `make test`.
VALUE_TESTS := $(addprefix tests/python/test_,functions.py autograd.py views.py edges.py attention.py)

.PHONY: help demo test test-rust test-python test-levels lint bench clean

help:
	@echo "make demo    train the two demo models (installs torsh into $(VENV) first)"
	@echo "make test    run every test"
	@echo "make test-levels  run the op matrix, random graphs and the Python tests at every level and schedule (half an hour)"
	@echo "make lint    rustfmt, clippy, ruff, dependency checks"
	@echo "make bench   measure against NumPy, PyTorch and JAX (installs them) and write benchmarks/RESULTS.md"
	@echo "make clean   remove $(VENV) and target"

$(STAMPS)/venv:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "torsh needs Python 3.10 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: $(STAMPS)/venv requirements/build.txt
	$(BIN)/pip install -q -r requirements/build.txt && touch $@

$(STAMPS)/torsh: $(STAMPS)/build $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pip install -q --no-deps --no-build-isolation --force-reinstall . && touch $@

$(STAMPS)/test: $(STAMPS)/venv requirements/test.txt
	$(BIN)/pip install -q -r requirements/test.txt && touch $@

$(STAMPS)/demo: $(STAMPS)/venv requirements/demo.txt
	$(BIN)/pip install -q -r requirements/demo.txt && touch $@

demo: $(STAMPS)/torsh $(STAMPS)/demo
	$(BIN)/python examples/demo.py

test: test-rust test-python

# torsh-python is the extension module itself: it is built by pip and tested from Python.
test-rust:
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --release --locked --workspace --exclude torsh-python --no-fail-fast; \
	else \
	  cargo test --release --locked --workspace --exclude torsh-python --no-fail-fast; \
	fi

test-python: $(STAMPS)/torsh $(STAMPS)/test
	$(BIN)/python -m pytest -q -n 2 tests/python
	TORSH_INTERPRET=1 $(BIN)/python -m pytest -q -n 2 tests/python -m "not compiled_only"
	for isa in $(LEVELS); do TORSH_ISA=$$isa $(BIN)/python -m pytest -q -n 2 $(VALUE_TESTS) || exit 1; done

# The ignored Rust tests run each case on every backend instead of one in turn.
test-levels: $(STAMPS)/torsh $(STAMPS)/test
	cargo test --release --locked -p torsh-tests --test op_matrix --test fuzz -- --ignored
	for isa in $(LEVELS); do echo $$isa && TORSH_ISA=$$isa $(BIN)/python -m pytest -q -n 2 tests/python || exit 1; done
	for s in block inline row vector random; do echo $$s && TORSH_SCHEDULE=$$s $(BIN)/python -m pytest -q -n 2 tests/python || exit 1; done

lint: $(STAMPS)/test
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_deps.py

bench: $(STAMPS)/torsh
	$(BIN)/pip install -q -r requirements/bench.txt
	$(BIN)/python -m benchmarks --write

clean:
	rm -rf $(VENV) target
