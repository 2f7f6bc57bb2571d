# make setup   virtual environment with everything in it (again only when the requirements change)
# make demo    the main job on three photographs, or on IMAGES=folder; prints figures and a contact sheet
# make test    lint, import contracts, types, tests
# make guards  writes workers/audit/guards.json again, after a change of the migrations
# make up      the whole system in the foreground; Ctrl-C stops it

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.refacex-setup

.PHONY: setup demo up guards test lint format clean distclean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements-models.txt scripts/setup
	@VENV=$(VENV) scripts/setup
	@touch $@

demo: $(STAMP)
	@$(BIN)/refacex demo $(if $(IMAGES),"$(IMAGES)")

up: $(STAMP)
	@$(BIN)/refacex up

guards: $(STAMP)
	$(BIN)/python scripts/guards.py

lint: $(STAMP)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage build dist out
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info
