# `make demo` and `make test` set everything up; nothing needs to be installed but Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check bench lock clean

demo: $(VENV)/.base
	$(BIN)/caseharden demo

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

# An hour and a half on two cores, with nothing beside it.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml requirements.lock
	$(BIN)/pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

# Pin what a clean environment resolves to, without local build tags (torch's +cpu).
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'torch==2.13.0' && $(VENV)-lock/bin/pip install --quiet '.[dev,postgres]'
	$(VENV)-lock/bin/pip freeze --exclude caseharden | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) out build
