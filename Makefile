# Each verb sets up .venv by itself, where pyproject.toml, constraints.txt or the folder changed.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
STAMP := .venv/.headstart
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help repro test test-all check bench deps setup FORCE

help:  ## show these verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: setup  ## run the pipeline and print the table of heads
	headstart check
	dvc repro
	@echo
	@headstart results

test: setup  ## the fast tests, a few minutes
	python -m pytest $(PARALLEL)

test-all: setup  ## every test, the slow ones too
	python -m pytest $(PARALLEL) -m ""

check: setup  ## lint and type-check
	ruff check .
	ruff format --check .
	mypy

bench: setup  ## measure, side by side, PARTS="extraction peers" or all; writes benchmarks/results.*
	python -m benchmarks $(PARTS)

deps: setup  ## rewrite the code deps in dvc.yaml from the imports
	python -m tests.closure

setup: $(STAMP)  ## make .venv and install

# .venv may be a link to one that another clone installed into: the stamp holds whose it is.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
$(STAMP): pyproject.toml constraints.txt
	@test -x "$(BIN)/python" || $(PYTHON) -m venv .venv
	python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@echo "$(CURDIR)" > $(STAMP)
