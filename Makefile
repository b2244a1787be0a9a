# Verbs. `make env` installs by uv where it is there, else by venv and pip; every other verb uses what it made.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONUNBUFFERED = 1

.PHONY: env demo test check bench lock clean

env: .venv/.installed

.venv/.installed: requirements.lock
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python $(PYTHON) .venv && uv pip install -q --python $(BIN)/python -r requirements.lock; \
	else \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock; \
	fi
	@touch $@

test: env
	$(BIN)/python -m pytest -q

check: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

lock: ## requirements.lock from pyproject.toml, hashes included
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --generate-hashes --no-annotate \
	  --extra dev -o requirements.lock pyproject.toml

clean:
	rm -rf build report .pytest_cache .mypy_cache .ruff_cache
