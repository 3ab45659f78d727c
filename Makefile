# Two commands matter: `make demo` (set up and compile a kernel) and `make check` (set up and test everything).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: help demo check setup setup-dev bytecode lint types layers budget test bless bench bench-compile bench-conv bench-conv-grad bench-matmul bench-elementwise bench-npu bench-npu-schedule bench-quick bench-simulator bench-training mutants timings schedules setup-bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: bytecode ## set up a virtual environment and compile kernels_dsl/conv_bn_relu.k
	$(BIN)/opc compile kernels_dsl/conv_bn_relu.k

check: setup-dev lint types layers budget test ## set up and run the whole test suite

setup: $(VENV)/.opc-run ## the environment that runs opc

setup-dev: $(VENV)/.opc-dev ## the environment that tests and measures opc (includes PyTorch)

# Compiled once here, so that the first command starts as fast as every later one.
bytecode: setup
	@$(BIN)/python -m compileall -q opc passes kernels_dsl

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.opc-run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	@touch $@

$(VENV)/.opc-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -q torch==2.13.0 || echo "torch cannot be installed: its tests are skipped" >&2
	@touch $@ $(VENV)/.opc-run

setup-bench: $(VENV)/.opc-bench ## the environment that measures opc beside its peers

$(VENV)/.opc-bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[bench]'
	@touch $@ $(VENV)/.opc-run

lint: ## ruff
	$(BIN)/ruff check .

types: ## mypy, strict
	$(BIN)/mypy

layers: ## import-linter: who may import whom
	$(BIN)/lint-imports --no-logo --config pyproject.toml

budget: ## size of files and functions
	$(BIN)/python tests/budget.py

test: ## the tests, on $(JOBS) processes
	$(BIN)/python -m pytest -n $(JOBS) tests

test-long: setup-dev ## random shapes of the shipped kernels and of their gradients, random functions: EXAMPLES new ones for each kernel and machine
	OPC_EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/python -m pytest -n $(JOBS) tests/e2e/test_random_shapes.py tests/e2e/test_random_functions.py
	OPC_EXAMPLES=$(or $(EXAMPLES),2000) $(BIN)/python -m pytest -n $(JOBS) tests/passes/tensor/test_torch_gradients.py tests/passes/tensor/test_random_gradients.py tests/e2e/test_gradients.py

mutants: setup-dev ## every flag of every shipped NPU kernel deleted, moved and renumbered, against 200 random timings
	$(BIN)/python benchmarks/sync/mutants.py --list build/mutants.txt

timings: setup-dev ## every shipped NPU kernel under 200 random timings
	$(BIN)/python benchmarks/sync/timings.py

schedules: setup-dev ## the static checker against every interleaving, on COUNT random schedules
	$(BIN)/python benchmarks/sync/schedules.py --count $(or $(COUNT),100000)

bench-simulator: setup-dev ## speed of the simulator, of sync insertion and of the static proof
	$(BIN)/python benchmarks/sync/simulator.py

bless: ## rewrite the golden files whose meaning did not change
	$(BIN)/python -m pytest tests --bless

bench: setup-dev bytecode ## the measured bars of the main job
	$(BIN)/python benchmarks/main_job.py

bench-compile: setup-dev bytecode ## compile time of every benchmark kernel on every CPU machine
	$(BIN)/python benchmarks/compile_time.py

bench-conv: setup-bench bytecode ## every ResNet-50 convolution against every library; takes an hour
	$(BIN)/python benchmarks/conv.py

bench-conv-grad: setup-bench bytecode ## both gradients of every ResNet-50 convolution against oneDNN's
	$(BIN)/python benchmarks/conv_grad.py

bench-matmul: setup-bench bytecode ## matrix products against torch
	$(BIN)/python benchmarks/matmul.py

bench-elementwise: setup-bench bytecode ## bandwidth on arrays of 1 GiB
	$(BIN)/python benchmarks/elementwise.py

bench-npu: setup-bench bytecode ## simulated cycles on the NPU against a lower bound
	$(BIN)/python benchmarks/npu.py

bench-npu-schedule: setup-bench bytecode ## list schedules against CP-SAT, and what scheduling costs; hours, goes on where it was stopped
	$(BIN)/python benchmarks/npu_schedule.py

bench-training: setup-bench bytecode ## blocks of ResNet-50 in training, forward and backward, against torch; hours
	$(BIN)/python benchmarks/training_ops.py

bench-quick: setup-bench bytecode ## a fixed subset of the three, a few minutes
	$(BIN)/python benchmarks/conv.py --quick
	$(BIN)/python benchmarks/matmul.py --quick
	$(BIN)/python benchmarks/elementwise.py --quick

clean: ## remove build outputs and caches, keep the environment
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
