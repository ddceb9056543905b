# Start with `make demo`, `make test` or `make check`. Each target first installs its dependencies into .venv.
PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
INSTALL := @VIRTUAL_ENV=$(VENV) scripts/uv pip install --quiet
# Stamps: the dependencies of the gateway, the gateway itself (editable), the tools for development.
RUNTIME := $(VENV)/.runtime
GATEWAY := $(VENV)/.gateway
DEV := $(VENV)/.dev
SETUP := $(GATEWAY) $(DEV)

.PHONY: help setup demo demo-fleet test test-all clients packages mesh check fuzz soak mutants bench format generate lock reference release-image wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(SETUP) ## install the gateway and all tools into .venv, from hash-checked locks

# If a lock changes, start with an empty .venv, so that it has no package that is in no lock.
$(RUNTIME): requirements-setup.lock requirements.lock requirements-dev.lock
	@scripts/venv
	@echo 'setup: install the dependencies of the gateway (requirements.lock)'
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

demo-fleet: $(SETUP) ## send one request_id through two gateways, and kill each once (needs redis-server)
	@$(BIN)/python -m clients.mesh.demo

PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal
# Slow tests mostly wait, so there are three for two cores.
WAITING = $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)))
test: $(SETUP) ## run the quick tests (two minutes, no tools outside .venv)
	$(PYTEST) -m 'not slow and not tools' $(ARGS)

test-all: test ## run the quick tests, the slow tests and those with third-party tools
	$(INSTALL) --require-hashes -r requirements-mesh.lock
	$(PYTEST) --numprocesses $(WAITING) -m 'slow or tools' $(ARGS)

clients: $(SETUP) ## build the clients in six languages, and run the scenarios (ARGS='go --scenario connection_cut')
	$(BIN)/python -m clients.runner $(ARGS)

packages: $(SETUP) ## build the client packages, and run the example of each from its artifact (ARGS='--list go')
	$(BIN)/python -m clients.packages $(ARGS)

mesh: $(SETUP) ## run the built clients behind Envoy, nginx and HAProxy while gateways fail (ARGS='--proxy nginx go')
	$(INSTALL) --require-hashes -r requirements-mesh.lock
	$(BIN)/python -m clients.mesh $(ARGS)

check: $(SETUP) ## check format, lint, types, imports, proto, generated code and pages, English
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
fuzz: $(SETUP) ## fuzz the parsers of external input, each target for SECONDS=60
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

MINUTES ?= 10
soak: $(SETUP) ## check the watch promises over random runs for MINUTES=10
	$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

mutants: $(SETUP) ## break each watch promise in the code, and check that the checker finds it
	$(BIN)/python scripts/mutate.py

bench: $(SETUP) ## run the benchmarks, and write benchmarks/results/ (ARGS='--quick calls')
	$(BIN)/python -m benchmarks $(ARGS)

format: $(SETUP) ## format the code and the contract
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write proto

generate: $(SETUP) ## write generated/ from proto/
	$(BIN)/python scripts/generate.py

reference: $(SETUP) ## write the generated pages of docs/reference/
	$(BIN)/python scripts/reference.py

lock: $(RUNTIME) ## write the locks from pyproject.toml (ARGS=--upgrade for newer versions)
	scripts/lock $(ARGS)

release-image: $(SETUP) ## at a release: write the contract that `buf breaking` compares with
	$(BIN)/buf build proto --output proto/released.binpb

wheel: $(GATEWAY) ## build both wheels, of the gateway and of the Python client, into dist/
	rm -f dist/jobgateway-*.whl dist/jobgateway_client-*.whl
	$(BIN)/hatchling build --target wheel
	cd clients/python && ../../$(BIN)/hatchling build --target wheel --directory ../../dist

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz dist
