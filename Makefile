# Targets create the environment if it is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Let idle OpenMP threads sleep instead of spin, to leave the cores to the data loading processes.
export OMP_WAIT_POLICY ?= PASSIVE
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-project test-all lint format typecheck clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv and install the pinned packages

# The stamp is written last, so that an interrupted installation is repeated.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10; choose a newer one: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train, test and predict on procedural clips, in minutes on a CPU
	@$(BIN)/python scripts/demo.py

# Up to four processes; tests of one file share one, since they share expensive fixtures.
PYTEST := $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## test the behaviour, except what is slow
	@$(PYTEST) --ignore tests/project -m "not slow" --durations=10

test-project: $(READY)  ## test the repository: documents, notebooks, wheel, configuration files, imports
	@$(PYTEST) tests/project -m "not slow"

test-all: $(READY)  ## run all tests, including the slow ones
	@$(PYTEST)

lint: $(READY)  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY)  ## fix style and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(READY)  ## check types
	@$(BIN)/mypy

clean:  ## remove caches and builds; keeps .venv, data and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
