# `make demo`: the whole line on real data. `make web`: the browser app with that bundle, or with BUNDLE=DIR. `make test`: the tests that
# take minutes at most. `make test-all`: every test, and those of layers, models and weights on JAX and PyTorch too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `pip` puts the package's version of each dependency into the environment; the stamps make a second run quick.
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

# Layers, models and weights run on every Keras backend: here each without TensorFlow, in an environment of its own.
BACKENDS := jax torch
BACKEND_TESTS := tests/test_conformance.py tests/layers tests/weights tests/models/test_parity.py tests/models/test_backbone.py \
	tests/models/test_simmim.py tests/models/test_training_models.py tests/tasks/test_segmentation.py \
	tests/tasks/test_detection.py
# Most tests keep one core busy; each process takes up to 4 GB. Neighbours share fixtures, so each process has its run of them.
PYTEST := -m pytest -n 2 --dist worksteal
JAX := jax
# A CPU build.
TORCH := torch==2.13.0
# As in setup.py.
KERAS_HUB := keras-hub>=0.32,<0.33
# The original libraries load what `save_weights` writes. Without their dependencies, of which torch may be another build. The official
# code is on no index: OFFICIAL and DETECTION are clones of microsoft/Swin-Transformer and SwinTransformer/Swin-Transformer-Object-Detection.
REFERENCES := timm==1.0.31 torchvision==0.28.0
OFFICIAL ?=
DETECTION ?=

# What `make web` serves, and where.
DEMO_BUNDLE := demo-out/bundle
BUNDLE ?= $(DEMO_BUNDLE)
PORT ?= 8000

.PHONY: demo web install lint test test-all test-jax test-torch test-reference clean

demo: $(INSTALLED)
	$(BIN)/swin-keras demo --out demo-out

web: $(INSTALLED) $(if $(filter $(DEMO_BUNDLE),$(BUNDLE)),$(DEMO_BUNDLE)/model.json)
	edge_demo/web/install.sh
	$(BIN)/python -m edge_demo.serve --bundle $(BUNDLE) --port $(PORT) --open

install: $(INSTALLED)

lint: $(INSTALLED_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python $(PYTEST) -m "not slow and not alone"
	$(BIN)/python -m pytest -m "alone and not slow"

test-all: lint
	$(BIN)/python $(PYTEST) -m "not alone"
	$(BIN)/python -m pytest -m alone
	$(MAKE) $(BACKENDS:%=test-%)

test-jax test-torch: test-%: .venv-%/.installed
	KERAS_BACKEND=$* .venv-$*/bin/python $(PYTEST) $(BACKEND_TESTS)

test-reference: .venv-reference/.installed
	KERAS_BACKEND=torch SWIN_OFFICIAL="$(OFFICIAL)" SWIN_DETECTION="$(DETECTION)" .venv-reference/bin/python -m pytest tests/reference/check_*.py

clean:
	rm -rf $(VENV) $(BACKENDS:%=.venv-%) .venv-reference build *.egg-info edge_demo/web/node_modules edge_demo/web/litert

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'swin-keras needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(VENV)/bin/python setup.py pyproject.toml
	$(BIN)/python -m pip install --editable .
	touch $@

$(INSTALLED_TEST): $(INSTALLED)
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@

$(DEMO_BUNDLE)/model.json: | $(INSTALLED)
	$(BIN)/swin-keras demo --out demo-out

.venv-jax/.installed: BACKEND := $(JAX)
.venv-torch/.installed: BACKEND := $(TORCH)
$(BACKENDS:%=.venv-%/.installed): %/.installed: setup.py tests/requirements-backend.txt
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install $(BACKEND) -r tests/requirements-backend.txt
	$*/bin/python -m pip install --no-deps "$(KERAS_HUB)" --editable .
	touch $@

.venv-reference/.installed: setup.py tests/requirements-backend.txt tests/requirements-reference.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(TORCH) -r tests/requirements-backend.txt -r tests/requirements-reference.txt
	$(@D)/bin/python -m pip install --no-deps $(REFERENCES)
	$(@D)/bin/python -m pip install --no-deps --editable .
	touch $@
