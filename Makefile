# Lavatube. `make serve` and `make test` are all that a newcomer needs: each sets up what it lacks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help serve test test-slow test-nightly test-gpu test-kernels check bench bench-peers docs format clean
help:                ## what there is to make
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

serve: $(VENV)/.runtime   ## serve the embedded model; MODEL=… serves another, LAVATUBE_PORT=… moves the port
	@exec $(BIN)/lavatube serve $(MODEL)

test: $(VENV)/.dev   ## every test that needs no GPU
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-slow: $(VENV)/.dev   ## the long ones: repeated kills, whole fault matrices
	$(BIN)/python -m pytest -m slow

test-nightly: $(VENV)/.dev   ## thousands of made-up requests, and the whole catalogue of hostile ones
	$(BIN)/python -m pytest -m slow tests/serve/test_schemathesis.py tests/flow/test_catalogue.py

docs: $(VENV)/.dev   ## write the documents that are made from the code
	$(BIN)/python -m docs.errors
	$(BIN)/python -m docs.cog

test-gpu: $(VENV)/.dev   ## parity on a CUDA device
	$(BIN)/python -m pytest -m gpu

test-kernels: $(VENV)/.triton   ## the kernels for GPUs, interpreted on the CPU and compiled; brings Triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not gpu" tests/model/triton
	$(BIN)/python -m pytest -n auto --maxprocesses 4 tests/model/triton/test_compile.py

check: $(VENV)/.dev   ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: $(VENV)/.dev   ## measurements; each prints how to repeat it
	$(BIN)/python -m bench

bench-peers:         ## what `python -m bench.engine` compares with, in environments of their own; builds llama.cpp
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r bench/peers/requirements.txt
	bench/peers/build_llama.sh .venv-peers
	$(PYTHON) -m venv .venv-vllm
	bench/peers/install_vllm.sh .venv-vllm

format: $(VENV)/.dev   ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:               ## remove what make made; weights in the cache stay
	rm -rf $(VENV) .venv-peers .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lavatube needs Python 3.11 or newer; PYTHON=… names one.")'
	$(PYTHON) -m venv $(VENV)

NATIVE := $(wildcard src/lavatube/model/native/*)

$(VENV)/.runtime: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# What tests import of all these modules is compiled then.
$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.triton: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'triton>=3.6'
	@touch $@
