# Everything runs from here. `make` alone lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
UV := .cache/uv/bin/uv
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --upgrade
PROTOS := $(wildcard protos/streamo/v1/*.proto)
PROTOC := -m grpc_tools.protoc -Iprotos

# Torch gains nothing from more threads here, and loses much where processes outnumber cores.
export OMP_NUM_THREADS := 1

# Options of `make demo`, passed on to `streamo demo`.
DURATION ?=
SOURCE ?=
ASK ?=
TASK ?=
SUMMARY ?=
# Options of `make bench-ablations`.
STEPS ?=
MINUTES ?=
WARMED ?=
option = $(if $(2),--$(1) '$(subst ','\'',$(2))')

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Make .venv with everything, every package checked against its hash (once; PYTHON=python3.12 chooses)

# Make a virtual environment $(1) without packages, and fetch the installer.
define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13. Name one that is: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv --without-pip $(1)
	@if ! test -x $(UV) || test infra/uv.lock -nt .cache/uv/.ready; then \
	  echo "Fetching uv, the installer ..."; \
	  $(PYTHON) -m venv --clear .cache/uv || { \
	    echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  .cache/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r infra/uv.lock || { \
	    echo "make: uv could not be fetched. Is there a connection to the package index?" >&2; exit 1; }; \
	  touch .cache/uv/.ready; \
	fi
endef

# Give the virtual environment $(1) exactly the packages that $(2) pins, compiled, and the project itself.
# Else the first start of every process compiles thousands of files, and each start where Python may not write them.
define fill_venv
	@echo "Installing what $(2) pins (about 6 GB with torch; minutes the first time) ..."
	@index="$$(.cache/uv/bin/python -m pip config get global.index-url 2>/dev/null || true)"; \
	if test -n "$$index"; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	if test -n "$${PIP_CERT:-}"; then export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$PIP_CERT}"; fi; \
	$(UV) pip sync --quiet --compile-bytecode --python $(1)/bin/python --require-hashes $(2) || { \
	  echo "make: the packages could not be installed. Without internet this works only where uv's cache holds them." >&2; exit 1; }; \
	$(UV) pip install --quiet --offline --python $(1)/bin/python --no-deps --no-build-isolation --editable .
endef

# The downloads are the only step that needs the internet.
$(READY): requirements.lock infra/uv.lock
	$(call make_venv,$(VENV))
	$(call fill_venv,$(VENV),requirements.lock)
	@touch $@

.PHONY: demo
demo: $(READY) ## Simulated cameras to events, live (DURATION=s, SOURCE=video, ASK='text', TASK=event, SUMMARY=file)
	@$(BIN)/streamo demo $(call option,duration,$(DURATION)) $(call option,source,$(SOURCE)) \
	  $(call option,ask,$(ASK)) $(call option,task,$(TASK)) $(call option,summary,$(SUMMARY))

.PHONY: up
up: $(READY) ## Start the local stack and leave it running
	@$(BIN)/streamo up --detach

.PHONY: down
down: $(READY) ## Stop the local stack
	@$(BIN)/streamo down

.PHONY: test
test: lint ## Lint, then the tests: unit, architecture, integration, deployment, end to end (under 15 minutes on two cores)
	@$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile tests/unit tests/architecture tests/integration tests/deploy
	@$(BIN)/python -m pytest -m 'not slow' tests/e2e

.PHONY: test-slow
test-slow: $(READY) ## The tests that take minutes each
	@$(BIN)/python -m pytest -m slow

.PHONY: bench-engine
bench-engine: $(READY) ## Measure the engine, and write docs/benchmarks/engine.md (ten minutes on two quiet cores)
	@$(BIN)/python -m tests.bench.engine_bench

.PHONY: scaling-plan
scaling-plan: $(READY) ## Compute what 100, 1,000 and 10,000 cameras take, and write docs/benchmarks/scaling.md
	@PYTHONPATH=tests $(BIN)/python -m tests.bench.scaling_plan

.PHONY: bench-ablations
bench-ablations: $(READY) ## What parts of the recipe are worth, and write docs/benchmarks/ablations.md (2 hours on two cores: STEPS, MINUTES a run, WARMED)
	@nice $(BIN)/python -m tests.bench.ablations $(call option,steps,$(STEPS)) $(call option,minutes,$(MINUTES)) \
	  $(call option,warmed,$(WARMED))

.PHONY: bench-scale-out
bench-scale-out: $(READY) ## A second LLM replica comes and goes with the load: docs/benchmarks/scale-out.* (five minutes)
	@PYTHONPATH=tests $(BIN)/python -m tests.bench.scale_out

.PHONY: test-unit
test-unit: $(READY) ## The tests that start nothing
	@$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile tests/unit tests/architecture

.PHONY: test-oldest
test-oldest: $(OLDEST)/.ready ## The unit tests of models/ with the oldest packages that pyproject.toml allows (.venv-oldest)
	@$(OLDEST)/bin/python -m pytest -m 'not slow' tests/unit/models

$(OLDEST)/.ready: infra/oldest.lock infra/uv.lock
	$(call make_venv,$(OLDEST))
	$(call fill_venv,$(OLDEST),infra/oldest.lock)
	@touch $@

.PHONY: lint
lint: $(READY) protos-clean ## Style, types, import contracts, generated code
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: protos
protos: $(READY) ## Generate code from protos/
	@$(BIN)/python $(PROTOC) --python_out=protos --pyi_out=protos --grpc_python_out=protos $(PROTOS)

.PHONY: protos-clean
protos-clean: $(READY) ## Fail where generated code is not what protos/ makes
	@rm -rf build/protos && mkdir -p build/protos
	@$(BIN)/python $(PROTOC) --python_out=build/protos --pyi_out=build/protos --grpc_python_out=build/protos $(PROTOS)
	@diff -r -x '*.proto' -x '__init__.py' -x '__pycache__' build/protos/streamo/v1 protos/streamo/v1 || { \
	  echo "make: the generated code is stale: make protos" >&2; exit 1; }

.PHONY: lock
lock: $(READY) ## Resolve dependencies anew into requirements.lock, infra/oldest.lock and infra/locks, and Kafka's jars into theirs
	@$(UV) pip compile pyproject.toml --extra local --extra training --extra dev $(LOCK) --output-file requirements.lock
	@$(UV) pip compile pyproject.toml --extra local --extra training --extra dev --resolution lowest-direct $(LOCK) \
	  --output-file infra/oldest.lock
	@for extra in ingest gateway simulator; do \
	  $(UV) pip compile pyproject.toml --extra $$extra $(LOCK) --constraints requirements.lock --output-file infra/locks/$$extra.lock; done
	@$(UV) pip compile pyproject.toml --extra encoder --extra llm $(LOCK) --constraints requirements.lock --output-file infra/locks/model.lock
	@echo hatchling | $(UV) pip compile - $(LOCK) --constraints requirements.lock --output-file infra/locks/build.lock
	@$(BIN)/python -m services.local.kafka_jars

.PHONY: board
board: $(READY) ## Write Grafana's board from the declared metrics
	@$(BIN)/python infra/observability/board.py > charts/streamo/files/board.json

.PHONY: board-picture
board-picture: $(READY) ## Run a local stack for two minutes and draw the board's panels into docs/images/board.png
	@PYTHONPATH=tests $(BIN)/python -m tests.bench.board_picture

.PHONY: chart-schema
chart-schema: $(READY) ## Write the schema of the chart's values from the settings, and the table of all values
	@$(BIN)/python infra/chart_schema.py > charts/streamo/values.schema.json
	@$(BIN)/python infra/chart_docs.py > charts/streamo/VALUES.md

.PHONY: chart-golden
chart-golden: $(READY) ## Write down how the chart renders in each profile, to be looked at in a diff (needs deploy-tools)
	@$(BIN)/python -m tests.deploy.golden

.PHONY: deploy-tools
deploy-tools: $(READY) ## Build what test-deploy checks with: Helm, an API server, schemas (ten minutes, once; needs Go)
	@infra/deploy-tools

.PHONY: test-deploy
test-deploy: $(READY) ## Images, compose file and chart, as far as they can be checked without an engine or a cluster
	@$(BIN)/python -m pytest -m 'not slow' tests/deploy

.PHONY: test-images
test-images: $(READY) ## Each image's install steps in an empty directory, and its command (minutes; 6 GB for the model's)
	@$(BIN)/python -m pytest -s -m slow tests/deploy

.PHONY: train-tiny
train-tiny: $(READY) ## Train the embedded model from nothing on the simulated place, or go on where it stopped (hours)
	@OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 --shutdown-timeout 600 -m services.cli.main train \
		--recipe tiny --output runs/tiny --workers 0 $(if $(wildcard runs/tiny/init),--resume)
	@$(BIN)/streamo model export runs/tiny --out runs/tiny/model

.PHONY: clean
clean: ## Remove what was built or recorded here: .streamo, build, caches; not .venv*, nor .cache
	@if test -x $(BIN)/streamo; then $(BIN)/streamo down; $(BIN)/streamo down --directory .streamo/demo; fi
	@rm -rf .streamo build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
