# What people type. `make setup` and `make test` are idempotent; tools/ holds the logic.
#
# PYTHON       the Python that .venv is made of (3.11 or newer)
# TORCH_INDEX  a pip index to take torch alone from, such as that of the CPU wheels
# ARGS         more overrides for quickstart, more options for test (ARGS=-n0: one process)

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
BIN := .venv/bin

export TORCH_INDEX

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test bench lint gates bundle gpu clean

help:  ## this list
	@sed -n 's/^\([a-z]*\): *[a-z]* *## /  make \1\t/p' Makefile | expand -t 20

setup:  ## .venv with pinned packages, the C++ ops and megafm itself (PYTHON= TORCH_INDEX=)
	@command -v "$(PYTHON)" >/dev/null || { echo "setup: error: no $(PYTHON) on the PATH;" \
	  "apt-get install python3 python3-venv (or set PYTHON=)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: error: $$("$(PYTHON)" --version 2>&1) is too old, megafm needs 3.11 or newer;" \
	  "make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" tools/setup_venv.py

quickstart: setup  ## the main job: raw text to a trained, evaluated, exported model
	$(BIN)/megafm quickstart $(ARGS)

test: setup  ## the tests, at most 12 minutes on 2 cores
	$(BIN)/python -m pytest -q --durations=10 -n 2 --dist loadfile $(ARGS)

bench: setup  ## every op against torch, side by side (ARGS="suite=train": whole training steps)
	$(BIN)/megafm bench $(ARGS)

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gates: setup  ## C++ without warnings and under sanitizers; Triton's and CUDA kernels without a GPU
	$(BIN)/python tools/compile_ops.py --strict
	$(BIN)/python tools/gate_sanitizers.py
	$(BIN)/python tools/gate_triton.py
	$(BIN)/python tools/gate_cuda.py
	$(BIN)/python tools/gate_cuda_library.py
	$(BIN)/python tools/gate_emulated.py

bundle: setup  ## wheels for `make gpu` on a machine without a network, into build/bundle
	$(BIN)/python tools/bundle.py

gpu:  ## build, test and measure on this machine's GPU in at most 8 minutes (PYTHON=, MEGAFM_COMMIT=)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,"$(PYTHON)") tools/gpu.py $(ARGS)

clean:  ## remove .venv, build outputs and caches; runs/ stays
	rm -rf .venv build dist megafm.egg-info megafm/_ops.so megafm/_index.*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find megafm tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
