# `make demo`: the whole line on real data. `make test`: the tests that take minutes at most. `make test-all`: every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `pip` puts the package's version of each dependency into the environment; the stamps make a second run quick.
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

.PHONY: demo install lint test test-all clean

demo: $(INSTALLED)
	$(BIN)/swin-keras demo --out demo-out

install: $(INSTALLED)

lint: $(INSTALLED_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-all: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'swin-keras needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(VENV)/bin/python setup.py pyproject.toml
	$(BIN)/python -m pip install --editable .
	touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@
