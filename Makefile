# Everything a contributor does. `make` alone says what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The Python to make .venv from, unless you name one.
PYTHON ?=
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.synced
SPELL := $(BIN)/spell

.PHONY: help sync format check test run docs bench lock up down clean lint

help: ## Show what make can do
	@echo "Usage: make TARGET"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- set-up --------------------------------------------------------------------------------------------------

sync: $(STAMP) ## Set up .venv with everything pinned in requirements.lock

# A .venv does not survive a move: its scripts hold its path. The stamp does too.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# The same versions everywhere, each file checked against its hash. uv installs in seconds; where it cannot
# (an index that only pip is set up for), pip does the same.
$(STAMP): requirements.lock pyproject.toml
	@missing() { echo "$$1 is missing: $$2" >&2; exit 1; }; \
	new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python=$(PYTHON); \
	for name in python3 python3.14 python3.13 python3.12 python3.11; do \
		test -n "$$python" || ! new_enough $$name || python=$$name; done; \
	test -n "$$python" && new_enough $$python || missing "Python 3.11 or newer" "apt-get install python3 python3-venv"; \
	$$python -c 'import venv, ensurepip' 2>/dev/null || missing python3-venv "apt-get install python3-venv"; \
	command -v git >/dev/null || missing git "apt-get install git"; \
	command -v ssh >/dev/null || echo "Without ssh, code is pushed more slowly: apt-get install openssh-client"; \
	command -v bwrap >/dev/null || echo "Without bubblewrap, runs are less isolated: apt-get install bubblewrap"; \
	grep -qsF "$(CURDIR)" "$(BIN)/activate" && "$(BIN)/python" -c pass 2>/dev/null || { \
		echo "Making $(VENV) with $$($$python --version)"; \
		rm -rf $(VENV); $$python -m venv $(VENV); }
	@echo "Installing what requirements.lock pins"
	@awk '/^uv==/ { found = 1 } found { print } found && !/\\$$/ { exit }' requirements.lock > $(VENV)/uv.lock
	@( "$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock && \
	   "$(BIN)/uv" pip install --quiet --python "$(BIN)/python" --require-hashes -r requirements.lock ) || \
	 { echo "uv could not; trying again with pip"; \
	   "$(BIN)/python" -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; }
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $@
	@echo "$(VENV) is ready"

lock: sync ## Resolve the versions in requirements.lock again
	"$(BIN)/uv" pip compile pyproject.toml --extra standalone --extra aws --group dev --universal --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --quiet -o requirements.lock

# ---- checks --------------------------------------------------------------------------------------------------

format: sync ## Format the code and mend what the linter can mend
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

lint: sync
	@echo "Linting"
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@echo "Checking types"
	@"$(BIN)/mypy"
	@echo "Checking that no service imports another"
	@"$(BIN)/lint-imports" --no-logo

check: lint ## Lint, types, borders between services, unit tests (under two minutes)
	@echo "Running the unit tests"
	@"$(BIN)/pytest" -q tests/unit

test: lint ## Everything: set-up, checks, and all tests with real Postgres, NATS, git and processes
	@echo "Running all tests"
	@"$(BIN)/pytest"

docs: sync ## Write the generated parts of docs/ again
	@"$(BIN)/python" docs/generate.py

bench: sync ## Measure what docs and design promise
	@for file in bench/warm_start.py bench/environments.py bench/code_sync.py bench/mounts.py \
		bench/storage.py bench/files.py bench/throughput.py bench/idle.py; do \
		echo "== $$file"; "$(BIN)/python" $$file; done

# ---- use -----------------------------------------------------------------------------------------------------

run: sync ## Set everything up and run the quick start on this machine
	@git rev-parse --verify --quiet HEAD >/dev/null || { \
		echo "The quick start runs a commit, and this directory is no git repository with one: use git clone." >&2; exit 1; }
	@echo '$$ cd examples/quickstart'
	@echo '$$ spell run --pip scikit-learn "python train.py"'
	@cd examples/quickstart && "$(SPELL)" run --pip scikit-learn "python train.py"
	@id=$$("$(SPELL)" ps --number 1 --json | "$(BIN)/python" -c 'import json, sys; print(json.load(sys.stdin)[-1]["id"])'); \
	for path in runs/$$id runs/$$id/examples/quickstart; do echo "\$$ spell ls $$path"; "$(SPELL)" ls $$path; done; \
	echo "\$$ spell cp runs/$$id out"; "$(SPELL)" cp --force runs/$$id out; \
	find out -type f

up: sync ## Start the stack of this machine
	@"$(SPELL)" up

down: sync ## Stop it; runs go on
	@"$(SPELL)" down

clean: ## Remove what was built here (never the data of a stack)
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
