PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help .venv demo test lint check bench clean

help:  ## show these targets
	@grep -E '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

.venv: .venv/installed  ## make or refresh the environment from the pinned requirements

.venv/installed: requirements.txt requirements-train.txt constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Beside the environment and not in it: JAX would look for a TPU at every start.
.venv/libtpu: .venv/installed constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ --upgrade $$(grep '^libtpu==' constraints.txt)
	touch $@

demo: .venv/installed  ## real conversations to a chat bot, in minutes, on this machine
	$(BIN)/jaxgpt demo

test: .venv/installed .venv/libtpu  ## every test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not tpu"
	PYTHONPATH=.venv/libtpu $(BIN)/python -m pytest -m tpu

lint: .venv/installed  ## format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## what CI runs

bench: .venv/installed .venv/libtpu  ## our numbers beside the peer's
	$(BIN)/python benchmarks/records.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/perplexity.py
	PYTHONPATH=.venv/libtpu $(BIN)/python benchmarks/tpu_compile.py

clean:  ## remove the environment and caches; runs/ and data/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
