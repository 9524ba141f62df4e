# `make demo` and `make test` set everything up by themselves, in either order.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
WANTED := pyproject.toml constraints.txt
PARALLEL := -n auto --dist loadfile
SAMPLE := assets/butterfly.mp4
RESULT := demo/butterfly_4x.mp4
PICTURE := demo/comparison.png

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-full test-open-clip lint data bench-quality train clean
unexport PYTHONPATH

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.runtime ## enhance the sample clip: 4x the size, 2x the frames
	@mkdir -p demo
	$(BIN)/venhancer-rt enhance $(SAMPLE) -o $(RESULT) --scale 4 --interpolate 2 \
		--compare $(PICTURE) --overwrite
	@printf '%s\n' "video:            $(RESULT)" "before and after: $(PICTURE)"

test: lint ## lint, types and the quick tests
	$(BIN)/python -m pytest $(PARALLEL)

test-full: test ## the slow tests too, one after the other: they need up to 12 GB
	$(BIN)/python -m pytest -m slow

# open_clip without what it depends on: its torchvision does not import beside a CPU torch
test-open-clip: $(VENV)/.dev ## the text encoder against open_clip
	$(INSTALL) --no-deps ftfy wcwidth open_clip_torch
	$(BIN)/python -m pytest tests/core/test_text.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

data: $(VENV)/.bench ## fetch the training and validation clips into data/
	$(BIN)/python -m benchmarks.data --out data

bench-quality: data ## measure the quality against the truth and two baselines
	$(BIN)/python -m benchmarks.quality

train: $(VENV)/.runtime ## train the nano model on data/train
	$(BIN)/python -m venhancer.training --data data/train -o runs/nano

clean: ## remove what make made, but data/ and runs/
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +

# Stamps: a second run installs nothing, unless what is wanted has changed.
$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; ok = (3, 10) <= sys.version_info < (3, 14); \
	sys.exit(None if ok else "Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ...")'
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created $(WANTED)
	@echo "Installing what venhancer needs (once; a minute or two) ..."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.bench: $(VENV)/.created $(WANTED)
	@echo "Installing what the benchmarks need (once; a minute or two) ..."
	$(INSTALL) -e '.[bench]'
	@touch $(VENV)/.runtime $@

$(VENV)/.dev: $(VENV)/.created $(WANTED)
	@echo "Installing what the tests need (once; a minute or two) ..."
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.runtime $(VENV)/.bench $@
