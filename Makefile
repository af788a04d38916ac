# Targets create the environment if it is missing or outdated.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
# Let idle OpenMP threads sleep instead of spin, to leave the cores to the data loading processes.
export OMP_WAIT_POLICY ?= PASSIVE
# Stamps: the package alone is installed, and with it what developers need.
PACKAGE := $(VENV)/.package
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-project test-browser test-all test-lowest test-install coverage lint format typecheck \
	docs mutants fuzz check lock build release clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv and install the pinned packages, those for developers too

# Stamps are written last, so that an interrupted installation is repeated.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo "error: $(PYTHON) is older than 3.10; choose a newer one: make PYTHON=python3.12"; exit 1; }
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	{ echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(CONSTRAINTS) --editable '$(1)'
endef

$(PACKAGE): pyproject.toml $(CONSTRAINTS)
	$(call install,.)
	@touch $@

$(READY): pyproject.toml $(CONSTRAINTS)
	$(call install,.[dev])
	@touch $(PACKAGE) $@

demo: $(PACKAGE)  ## train, test and predict on procedural clips, in minutes on a CPU
	@$(BIN)/python scripts/demo.py

# Up to four processes; tests of one file share one, since they share expensive fixtures.
PYTEST := $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## test the behaviour, except what is slow
	@$(PYTEST) --ignore tests/project -m "not slow" --durations=10

test-project: $(READY)  ## test the repository: documents, notebooks, wheel, configuration files, imports
	@$(PYTEST) tests/project -m "not slow"

test-browser: docs  ## test reports, transparent movies, pages and the site in Chromium, which has to be installed
	@$(BIN)/python tests/browser.py
	@$(PYTEST) tests/reports/test_browser.py tests/inference/test_browser.py tests/app/test_browser.py tests/project/test_site.py

test-all: $(READY)  ## run all tests, including the slow ones
	@$(PYTEST)

coverage: $(READY)  ## as `make test`; fails where too few lines and branches are covered
	@$(PYTEST) --ignore tests/project -m "not slow" --cov --cov-report=term:skip-covered

test-lowest:  ## as `make test`, with the lowest allowed versions, in .venv-lowest; PYTHON has to be 3.10 or 3.11
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

lint: $(READY)  ## check style, formatting, notebooks, yaml, large files, workflows and forms: what .pre-commit-config.yaml lists
	@SKIP=mypy $(BIN)/pre-commit run --all-files --show-diff-on-failure

format: $(READY)  ## fix style, formatting and notebooks
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python scripts/strip_notebooks.py

typecheck: $(READY)  ## check types
	@$(BIN)/mypy

lock: $(READY)  ## renew constraints.txt and constraints-lowest.txt after a change of pyproject.toml; UPGRADE=1: newest versions
	@$(BIN)/uv pip compile $(LOCK) --universal $(if $(UPGRADE),--upgrade) --output-file constraints.txt
	@$(BIN)/uv pip compile $(LOCK) --python-platform linux --resolution lowest-direct --upgrade \
		--output-file constraints-lowest.txt

LOCK := --quiet --python-version 3.10 --extra dev --no-annotate --custom-compile-command 'make lock' pyproject.toml

docs: $(READY)  ## build the site in site/html; warnings are errors
	@$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet -c docs -d site/doctrees . site/html
	@cp site/html/README.html site/html/index.html
	@echo "site: site/html/index.html"

build: $(READY)  ## build wheel and source distribution in dist/
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist
	@$(BIN)/twine check --strict dist/*

# What is installed has to work on its own: outside of the checkout, without the packages for developers.
EMPTY := build/empty
TRY := cd $(EMPTY) && bin/maskvos --version --verbose && bin/maskvos +experiment=smoke --cfg job > job.yaml && bin/python -c \
	'import maskvos, numpy; print(next(maskvos.load().stream([numpy.zeros((96, 160, 3), "uint8")] * 2)).mask.shape)'

fuzz: $(READY)  ## wrong input and faults without end, or SECONDS=..., or CASES=... of each kind; KINDS=... chooses
	@$(BIN)/python tests/campaign $(KINDS) --rounds $(if $(CASES),1 --cases $(CASES),0) $(if $(SECONDS),--seconds $(SECONDS))

mutants: $(READY)  ## change the code in many small ways, and list the changes that no test notices; hours. MUTANTS=...: a pattern of names
	@$(BIN)/mutmut run --max-children 2 $(MUTANTS)
	@$(BIN)/mutmut results | grep -v 'not checked' || echo 'no survivors'

test-install: build  ## install wheel and source distribution in an empty environment, and use them
	@rm -rf $(EMPTY)
	@$(BIN)/python -m venv $(EMPTY)
	$(EMPTY)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt dist/*.whl
	@$(TRY)
	$(EMPTY)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --force-reinstall dist/*.tar.gz
	@$(TRY)
	@rm -rf $(EMPTY)

release: $(READY)  ## check that a release can be made, build and try it, print what is left to do
	@$(BIN)/python scripts/release.py
	@$(MAKE) test-install
	@$(BIN)/python scripts/release.py --steps

check: lint typecheck docs coverage test-project test-browser test-install test-lowest  ## all of the above that CI runs; an hour, 20 GB

clean:  ## remove caches and builds; keeps .venv, data and runs
	rm -rf build dist site mutants .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
