# make demo: environment, built-in data, a verdict and a figure.   make test: lint, types, tests.
PYTHON ?= python3
VENV   ?= .venv
# Where demo leaves its run folders, and how many test processes run side by side.
RUNS    ?= runs
WORKERS ?= 2
# --force: a second demo keeps the runs of the first aside.
DEMO := --model srgnn --dataset demo --seed 1 --seed 2 --seed 3 --runs-dir $(RUNS) --force

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint types env format clean

help:
	@echo "make demo    dissect SR-GNN on built-in data: a verdict on screen, a figure on disk (minutes)"
	@echo "make test    ruff, mypy and pytest, in $(VENV)"
	@echo "make format  put every file into ruff's format"
	@echo "make clean   remove what make and the tools made; run folders and data stay"

# Three seeds of the model, then of the model without propagation, which ends with the verdict on both.
demo: $(VENV)/installed
	$(BIN)/dissect run $(DEMO) >/dev/null
	$(BIN)/dissect run $(DEMO) --without propagation
	$(BIN)/dissect plot density --runs-dir $(RUNS)

# One thread a process: the processes share the cores.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy

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
