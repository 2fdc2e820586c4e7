# make demo: environment, built-in data, a verdict and a figure.   make test: lint, types, tests.
PYTHON ?= python3
VENV   ?= .venv
# Where demo leaves its run folders, and how many test processes run side by side.
RUNS    ?= runs
WORKERS ?= 2
# --force: a second demo keeps the runs of the first aside. One thread a process: the two data sets share the cores.
DEMO := OMP_NUM_THREADS=1 $(VENV)/bin/dissect run --test-at-end --runs-dir $(RUNS) --force --dataset
PLOT := OMP_NUM_THREADS=1 $(VENV)/bin/dissect plot density --runs-dir $(RUNS)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint types docs env format clean

help:
	@echo "make demo    dissect SR-GNN on built-in data: two verdicts, figures (4 to 10 minutes)"
	@echo "make env     only install, in $(VENV)"
	@echo "make test    ruff, mypy and pytest, in $(VENV)"
	@echo "make docs    the Python interface as HTML pages, in build/api, made from the docstrings"
	@echo "make format  put every file into ruff's format"
	@echo "make clean   remove what make and the tools made; run folders and data stay"

# Propagation is needed in demo-walk and redundant in demo-bag. Three seeds of the model on each, then of the model
# without propagation, which ends with the verdict. Both data sets at the same time; the screen shows how far demo-walk is.
demo: $(VENV)/installed
	@mkdir -p $(RUNS)
	@echo "Both data sets are dissected at the same time. What is shown is demo-walk; demo-bag follows."
	@( $(DEMO) demo-bag --name demo-bag --quiet >/dev/null \
	    && $(DEMO) demo-bag --name demo-bag --quiet --without propagation && $(PLOT) demo-bag ) \
	    >$(RUNS)/demo-bag.log 2>&1 & bag=$$!; \
	  $(DEMO) demo-walk --name demo-walk >/dev/null \
	    && $(DEMO) demo-walk --name demo-walk --without propagation && $(PLOT) demo-walk; walk=$$?; \
	  wait $$bag || { cat $(RUNS)/demo-bag.log >&2; exit 1; }; exit $$walk
	@cat $(RUNS)/demo-bag.log

# One thread a process: the processes share the cores.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy

docs: $(VENV)/installed-test
	$(BIN)/python docs/build_api.py build/api

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(VENV)/installed-test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "dissect needs Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/installed-test: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
