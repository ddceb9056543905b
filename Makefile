# `make demo` shows it, `make test` tests it, `make check` checks it. Each first installs what it needs into .venv.
PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
INSTALL := @VIRTUAL_ENV=$(VENV) scripts/uv pip install --quiet
# Stamps: what the gateway runs on, the gateway itself (editable), the tools for development.
RUNTIME := $(VENV)/.runtime
GATEWAY := $(VENV)/.gateway
DEV := $(VENV)/.dev
SETUP := $(GATEWAY) $(DEV)

.PHONY: help setup demo test test-all clients mesh check fuzz soak mutants bench format generate lock reference release-image wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(SETUP) ## install the gateway and all tools into .venv, from hash-checked locks

# A change to any lock starts from an empty .venv, so that nothing stays that no lock names.
$(RUNTIME): requirements-setup.lock requirements.lock requirements-dev.lock
	@scripts/venv
	@echo 'setup: install what the gateway runs on (requirements.lock)'
	$(INSTALL) --require-hashes -r requirements.lock
	@touch $@

$(GATEWAY): $(RUNTIME) pyproject.toml clients/python/pyproject.toml
	@echo 'setup: install the gateway and the Python client (editable)'
	$(INSTALL) --no-deps --no-build-isolation --editable . --editable clients/python
	@touch $@

$(DEV): $(RUNTIME)
	@echo 'setup: install the tools for development (requirements-dev.lock)'
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(GATEWAY) ## run jobs through the gateway and its embedded upstream
	@$(BIN)/jobgateway demo

PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal
test: $(SETUP) ## run the quick tests: two minutes, and no tool that .venv does not have
	$(PYTEST) -m 'not slow and not tools' $(ARGS)

test-all: test ## run the quick tests, then the slow ones and those with tools of others
	$(PYTEST) -m 'slow or tools' $(ARGS)

clients: $(SETUP) ## build the clients of six languages, and run them through the scenarios (ARGS='go --scenario cut')
	$(BIN)/python -m clients.runner $(ARGS)

mesh: $(SETUP) ## run these clients through Envoy, nginx and HAProxy while gateways fail (ARGS='--proxy nginx go')
	$(INSTALL) --require-hashes -r requirements-mesh.lock
	$(BIN)/python -m clients.mesh $(ARGS)

check: $(SETUP) ## format, lint, types, import directions, proto, generated code and pages, English
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/released.binpb
	$(BIN)/python scripts/generate.py --check
	$(BIN)/python scripts/layers.py --check
	$(BIN)/python scripts/reference.py --check
	$(BIN)/python scripts/prose.py

SECONDS ?= 60
fuzz: $(SETUP) ## fuzz what comes from outside, each target for SECONDS=60
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

MINUTES ?= 10
soak: $(SETUP) ## judge the watch promises over random runs for MINUTES=10
	$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

mutants: $(SETUP) ## break each promise of a watch in the code, and see the checker find it
	$(BIN)/python scripts/mutate.py

bench: $(SETUP) ## measure the gateway beside its floor, and write benchmarks/results/ (ARGS='--quick calls')
	$(BIN)/python -m benchmarks $(ARGS)

format: $(SETUP) ## format the code and the contract
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write proto

generate: $(SETUP) ## write generated/ again from proto/
	$(BIN)/python scripts/generate.py

reference: $(SETUP) ## write the generated pages of docs/reference/
	$(BIN)/python scripts/reference.py

lock: $(RUNTIME) ## pin the dependencies again (ARGS=--upgrade for newer ones)
	scripts/lock $(ARGS)

release-image: $(SETUP) ## at a release: what `buf breaking` compares with from then on
	$(BIN)/buf build proto --output proto/released.binpb

wheel: $(GATEWAY) ## build both wheels, of the gateway and of the Python client, into dist/
	rm -f dist/jobgateway-*.whl dist/jobgateway_client-*.whl
	$(BIN)/hatchling build --target wheel
	cd clients/python && ../../$(BIN)/hatchling build --target wheel --directory ../../dist

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz dist
