# Nothing but make and Python 3.11-3.13 is needed: each target creates .venv and installs what it uses, once.
#   make demo PYTHON=python3.12     another interpreter

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/pytest -n 2

# Two cores are shared by two test processes; threads inside each would only get in each other's way.
test: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench catalog clean

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.train  ## train a ViT and a ConvNeXt on digits, evaluate, export, predict
	@PATH="$(CURDIR)/$(BIN):$$PATH" demo/run.sh

test: $(VENV)/.dev  ## run all tests with coverage
	@$(PYTEST) --cov --cov-report=term
	@$(BIN)/pytest -m forks

lint: $(VENV)/.dev  ## check style, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev  ## run the benchmarks (long)
	@for name in heap depthwise patches attention families fashion_mnist; do echo "$$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

catalog: $(VENV)/.dev  ## count every model anew, for `vitnext models`
	@$(BIN)/python -m vitnext.models.catalog > catalog.json.tmp && mv catalog.json.tmp src/vitnext/models/catalog.json

clean:  ## remove the virtual environment and the caches, keep runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage* htmlcov dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per extra: newer than pyproject.toml means installed.
$(VENV)/.train: EXTRA = train
$(VENV)/.dev: EXTRA = dev
$(VENV)/.train $(VENV)/.dev: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	  echo "vitnext needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot create virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "installing vitnext[$(EXTRA)] into $(VENV), a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --editable ".[$(EXTRA)]"
	@touch $@
