# Two commands matter: `make demo` runs everything on this machine, `make test` passes the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
BQEMULATOR := .venv-bqemulator
BENCH := .venv-bench
FEAST := .venv-feast
# What checks and tests read; nothing in it protects anything.
TEST_ENV := RECSITE_ENV_FILE=tests/test.env
# And what an installation sets besides, for the deploy check; nothing is connected to.
DEPLOYED := $(TEST_ENV) RECSITE_HTTPS_ONLY=true RECSITE_DATABASE_URL=postgres://recsite@db.example.com/recsite \
	RECSITE_ALLOWED_HOSTS='["recs.example.com"]' RECSITE_SERVING_URL=https://recs.example.com RECSITE_PROXIES=1 \
	RECSITE_METRICS_TOKEN=nothing-is-protected-by-this
# Arguments for pytest, the demo, a benchmark: `make test ARGS="tests/unit -x"`, `make demo ARGS="--players 5000"`.
ARGS ?=
# How many processes share the tests; one of them: `make test WORKERS=0`.
WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-reset demo-metrics test test-fast faults check format screenshots dashboards bench-serving bench-loading bench-feast lock

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.base ## run everything on this machine; Ctrl-C stops it, a second time it goes on with its data
	@$(BIN)/python manage.py demo $(ARGS)

demo-reset: $(VENV)/.base ## the same, with the data of earlier starts removed first
	@$(BIN)/python manage.py demo --reset $(ARGS)

demo-metrics: $(VENV)/.base ## the demo with Prometheus beside it, where that is installed
	@$(BIN)/python manage.py demo --metrics $(ARGS)

test: $(VENV)/.dev $(BQEMULATOR)/.installed ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-fast: $(VENV)/.dev ## run most tests of units and pages, in two minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" tests/unit tests/integration $(ARGS)

faults: $(VENV)/.dev ## do faults by chance to a whole installation, every answer checked; ARGS="--seed 7 --minutes 10"
	@$(BIN)/python -m tests.faults.long $(ARGS)

check: $(VENV)/.dev ## lint, types, import contracts, migrations, OpenAPI, deploy check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files -z '*.html' | xargs -0 -r $(BIN)/djade --check --target-version 5.2
	$(TEST_ENV) $(BIN)/mypy .
	$(BIN)/lint-imports
	$(TEST_ENV) $(BIN)/python manage.py makemigrations --check --dry-run
	$(TEST_ENV) $(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null
	$(DEPLOYED) $(BIN)/python manage.py check --deploy --fail-level WARNING

screenshots: $(VENV)/.dev ## make the README's pictures anew, with Chromium and a demo of their own
	@PYTHONPATH=. $(BIN)/python docs/screenshots.py

dashboards: $(VENV)/.base ## write Grafana's dashboards anew from deploy/grafana
	@PYTHONPATH=deploy $(BIN)/python -m grafana

format: $(VENV)/.dev ## put code and templates into the one form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files -z '*.html' | xargs -0 -r $(BIN)/djade --target-version 5.2

bench-serving: $(VENV)/.base $(BENCH)/.installed ## serving against its peers on this machine; ARGS="--quick" for a short look
	@$(BIN)/python -m benchmarks serving $(ARGS)

bench-loading: $(VENV)/.base ## loading against one key per row on this machine; ARGS="--quick" for a short look
	@$(BIN)/python -m benchmarks loading $(ARGS)

bench-feast: $(VENV)/.base $(FEAST)/.installed ## loading against Feast, which installs a few hundred MB first
	@$(BIN)/python -m benchmarks loading --parts feast $(ARGS)

# uv keeps the pinned versions that still fit; `make lock ARGS=--upgrade` takes the newest. Extras stay in their lines,
# which plain-pins.awk doubles: older pips want a pin of `package` and one of `package[extra]`.
COMPILE = $(UV) pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-strip-extras $(ARGS)
lock: $(UV) ## pin the dependencies of pyproject.toml, with hashes, under requirements/
	$(COMPILE) pyproject.toml --extra otel -o requirements/base.txt
	$(COMPILE) pyproject.toml --extra otel --group dev -o requirements/dev.txt
	$(COMPILE) --group build -o requirements/build.txt
	$(COMPILE) --group bqemulator -o requirements/bqemulator.txt
	$(COMPILE) --group bench -o requirements/bench.txt
	$(COMPILE) --group feast -o requirements/feast.txt
	for file in $(filter-out requirements/uv.txt,$(wildcard requirements/*.txt)); do \
		awk -f requirements/plain-pins.awk $$file >$$file.new && mv $$file.new $$file || exit 1; done

# --- Environments: made once, brought up to date when a file under requirements/ changed ------------------------------

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.base: requirements/base.txt $(UV)
	@echo "Installing what recsite needs into $(VENV) …"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/base.txt
	@touch $@

# Everything in base.txt is in dev.txt, in the same version.
$(VENV)/.dev: requirements/dev.txt requirements/base.txt $(UV)
	@echo "Installing what the tests need into $(VENV) …"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $(VENV)/.base $@

# The BigQuery emulator needs a DuckDB of its own, so it has an environment of its own.
$(BQEMULATOR)/.installed: requirements/bqemulator.txt $(UV)
	@echo "Installing the BigQuery emulator into $(BQEMULATOR) …"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(BQEMULATOR)
	@$(UV) pip install --quiet --python $(BQEMULATOR)/bin/python --require-hashes -r requirements/bqemulator.txt
	@touch $@

# A benchmark's Python peers, apart from what is served.
$(BENCH)/.installed: requirements/bench.txt $(UV)
	@echo "Installing the benchmarks' Python peers into $(BENCH) …"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(BENCH)
	@$(UV) pip install --quiet --python $(BENCH)/bin/python --require-hashes -r requirements/bench.txt
	@touch $@

$(FEAST)/.installed: requirements/feast.txt $(UV)
	@echo "Installing Feast into $(FEAST) …"
	@$(UV) venv --quiet --allow-existing --python $(BIN)/python $(FEAST)
	@$(UV) pip install --quiet --python $(FEAST)/bin/python --require-hashes -r requirements/feast.txt
	@touch $@
