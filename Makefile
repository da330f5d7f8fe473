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

SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find ir passes codegen runtime frontend python -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name '*.c' -o -name Cargo.toml | grep -v /target/)

LEVELS := portable $(if $(shell grep -m1 -w -o avx2 /proc/cpuinfo 2>/dev/null),avx2)
# Tests of values, not of the machinery round them: these are repeated at each level by `make test`.
VALUE_TESTS := $(addprefix tests/python/test_,functions.py autograd.py views.py edges.py attention.py)

.PHONY: help demo test test-rust test-python test-levels test-cuda test-cuda-full fuzz-packages cuda-sim cuda-report mutants-cuda lint bench clean

help:
	@echo "make demo    train the two demo models (installs torsh into $(VENV) first)"
	@echo "make test    run every test"
	@echo "make test-levels  run the op matrix, random graphs and the Python tests at every level and schedule (half an hour)"
	@echo "make cuda-sim  build the simulated CUDA driver and cublasLt into target/cuda-sim, for LD_LIBRARY_PATH"
	@echo "make test-cuda       the CUDA backend on the simulator (part of make test); test-cuda-full: all of it"
	@echo "make fuzz-packages   hostile packages under hashes that fit, for SECONDS (60) from SEED (0)"
	@echo "make cuda-report     check and measure the CUDA devices of this machine, and write cuda-report.md"
	@echo "make mutants-cuda  change the CUDA code that is generated, one thing at a time, and count what the tests notice"
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

test: test-rust test-cuda test-python

# torsh-python is the extension module itself: it is built by pip and tested from Python.
test-rust: $(STAMPS)/test
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then export REQUIRE_NVRTC=1; fi; \
	if cargo nextest --version >/dev/null 2>&1; then \
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

# Under the names that programs look for; see tests/cuda-sim/README.md.
cuda-sim:
	cargo build --release --locked -p torsh-cuda-sim -p torsh-cublaslt-sim
	mkdir -p target/cuda-sim
	ln -sf ../release/libtorsh_cuda_sim.so target/cuda-sim/libcuda.so.1
	ln -sf ../release/libtorsh_cublaslt_sim.so target/cuda-sim/libcublasLt.so.13
	ln -sf ../release/libtorsh_cublaslt_sim.so target/cuda-sim/libcublasLt.so.12

# Kernels are compiled by the NVRTC of the wheel in requirements/test.txt, and run by the simulator.
NVRTC = $(shell $(BIN)/python tests/cuda/nvrtc.py -)
# With two devices, for copies between them.
SIM = TORSH_CUDA_SIM=$(abspath target/cuda-sim/libcuda.so.1) TORSH_CUDA_SIM_DEVICES=2
# Of the workspace as a whole, like test-rust: a choice of packages would build every dependency again with other features.
SIM_RUST = $(SIM) TORSH_NVRTC=$(NVRTC) cargo test --release --locked --workspace --exclude torsh-python

ifeq ($(shell uname -sm),Linux x86_64)
test-cuda: cuda-sim $(STAMPS)/torsh $(STAMPS)/test
	$(SIM_RUST) --test cuda_sim
	TORSH_CUDA_GRAPHS=0 $(SIM_RUST) --test cuda_sim
	$(SIM_RUST) --test cuda_ops
	$(SIM) $(BIN)/python -m pytest -q -n 2 tests/cuda_device tests/python/test_cuda.py
	$(SIM) $(BIN)/python -m pytest -q -n 2 tests/python/test_lazy.py tests/python/test_views.py tests/python/test_autograd.py --device cuda

test-cuda-full: test-cuda
	$(SIM_RUST) --test cuda_ops -- --include-ignored
	TORSH_CUDA_SIM_ORDER=reversed TORSH_CUDA_SIM_RACES=1 $(SIM_RUST) --test cuda_ops -- --include-ignored
	cargo test --release --locked --workspace --exclude torsh-python --test cuda_matrix -- --ignored
	$(SIM) $(BIN)/python -m pytest -q -n 2 tests/python --device cuda
else
test-cuda test-cuda-full:
	@echo "skipped: the simulator of CUDA and NVRTC's wheel are for Linux on x86-64"
endif

# `make test` tries a few thousand of these cases.
SECONDS ?= 60
SEED ?= 0
fuzz-packages:
	cargo run --release --locked -p torsh-runtime --example fuzz_packages -- $(SECONDS) $(SEED)

cuda-report: $(STAMPS)/torsh
	$(BIN)/python tests/cuda_device/report.py cuda-report.md

# Needs NVRTC (the nvidia-cuda-nvrtc wheel, or TORSH_NVRTC), no GPU; writes tests/cuda/MUTANTS.md.
mutants-cuda:
	cargo run --release --locked -p torsh-tests --bin cuda_mutants -- --each 4 --write

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
