# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Folders with ready-made wheels, where the machine names some (space-separated); nothing otherwise.
FIND_LINKS := $(foreach folder,$(PIP_FIND_LINKS),--find-links $(folder))

DATA ?=
OUT ?= runs/demo
DEMO_ARGS ?=

.PHONY: demo test test-fast lint format setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; EgoLoom needs Python 3.11 (or: make PYTHON=python3)"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(FIND_LINKS) --constraint constraints.txt --editable ".[exo2ego,export,dev]"
	@touch $@

demo: setup
	$(BIN)/egoloom demo --out $(OUT) $(if $(DATA),--data $(DATA)) $(DEMO_ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .import_linter_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
