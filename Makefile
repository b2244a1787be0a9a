# Verbs. `make env` installs by uv where it is there, else by venv and pip; every other verb uses what it made.
PYTHON ?= python3
BIN := .venv/bin
RESULTS := results
DEMO_SPEED := 6
NOTEBOOK_FOLDER := docs
export PYTHONUNBUFFERED = 1

.PHONY: help env demo notebook picture live dashboards quick test test-vllm check house bench lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: .venv/.installed ## .venv with everything the other verbs need

.venv/.installed: requirements.lock
	@if command -v uv >/dev/null; then \
	  uv venv -q --allow-existing --python $(PYTHON) .venv && uv pip install -q --python $(BIN)/python -r requirements.lock; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "make: $(PYTHON) is older than Python 3.11: say e.g. make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }; \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -r requirements.lock; \
	fi
	@touch $@

demo: env ## emulated servers, a sweep over the sample problems, a report: no GPU needed
	@out=$(RESULTS)/demo-$$(date -u +%Y%m%dT%H%M%SZ); \
	$(BIN)/python -m loadgen sweep --plan plans/demo.yaml --speed $(DEMO_SPEED) --out $$out \
	  && $(BIN)/python -m analysis report $$out && echo "open $$out/report/index.html" >&2

notebook: env ## docs/analysis.ipynb, cell by cell: from a simulated study to a decision
	@cd "$(NOTEBOOK_FOLDER)" && PYTHONPATH="$(CURDIR)" "$(abspath $(BIN))/python" -m tests.fixtures.notebook "$(CURDIR)/docs/analysis.ipynb"

picture: demo ## docs/images/report.png: the beginning of the report of `make demo`, in Chromium
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1280,1660 --virtual-time-budget=20000 \
	  --screenshot=docs/images/report.png "file://$$(ls -d $(CURDIR)/$(RESULTS)/demo-* | tail -1)/report/index.html"

live: ## Prometheus on this machine over what runs here, no Docker (docs/dashboards.md)
	@prometheus/live.sh

dashboards: env ## grafana/dashboards/*.json from grafana/boards/*.py
	$(BIN)/python -m grafana.generate

TEST = $(BIN)/python -m pytest -q -n $${TEST_PROCESSES:-6} --dist worksteal
QUICK = tests/loadgen/plan tests/loadgen/measure/test_formulas.py tests/loadgen/measure/test_quantiles.py tests/loadgen/measure/test_verdict.py \
  tests/loadgen/client/test_sse.py tests/loadgen/client/test_token_stream.py tests/loadgen/test_chunks.py tests/loadgen/run/test_dispatch.py \
  tests/analysis/test_grade_normalize.py tests/analysis/test_grade_extract.py tests/analysis/test_grade.py::test_table_of_pairs \
  tests/project/test_layers.py tests/loadgen/run/test_run.py::test_every_problem_and_budget_is_recorded_exactly_once

quick: env ## parsing, formulas, schedules, grading tables, layers and one run against the emulator: one minute
	$(TEST) $(QUICK)

test: env ## every test this machine can run; most wait for servers, so six processes suit two cores
	$(TEST)

check: env ## lint, strict types, tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(TEST)

house: env ## the structure of the code in one table, and the limits it has to keep
	@$(BIN)/python -m tools.house

test-vllm: env ## the emulator beside a real vLLM 0.32.0 (CPU), in an environment of its own: .venv-vllm, 4 GB
	tests/vllm/make_env.sh .venv-vllm
	THINKLOAD_VLLM=.venv-vllm/bin/vllm $(BIN)/python -m pytest -q -m vllm tests/server/emulator/test_vllm.py tests/server/test_vllm_accepts.py

bench: env ## what client and emulator cost, and how true they are (minutes; needs an otherwise idle machine)
	$(BIN)/python -m benchmarks.truth
	$(BIN)/python -m benchmarks.client_cost
	$(BIN)/python -m benchmarks.client_cost --only command,locust
	$(BIN)/python -m benchmarks.locust_agreement
	$(BIN)/python -m benchmarks.emulator_speed
	$(BIN)/python -m benchmarks.emulator_fidelity $${THINKLOAD_SHARED:-../shared}/measurements/h200-vllm-0.26.0.json

COMPILE = uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --generate-hashes --no-annotate
lock: ## exact versions from pyproject.toml, hashes included: everything, the image, the image with Locust
	$(COMPILE) --extra dev -o requirements.lock pyproject.toml
	$(COMPILE) --extra server -c requirements.lock -o requirements-server.lock pyproject.toml
	$(COMPILE) --extra server --extra locust -c requirements.lock -o requirements-distributed.lock pyproject.toml

clean: ## what the tools left, not the results
	rm -rf build report .pytest_cache .mypy_cache .ruff_cache
