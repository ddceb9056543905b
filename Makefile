# `make demo` shows it, `make test` tests it, `make check` checks it; each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

.PHONY: help setup demo test clients mesh check fuzz soak mutants bench format generate lock reference release-image wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(SETUP) ## install into .venv from the hash-checked lock

$(SETUP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The Job Gateway needs Python 3.11 or later; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(SETUP) ## run jobs through the gateway and its embedded upstream
	@$(BIN)/jobgateway demo

test: $(SETUP) ## run all tests
	$(BIN)/python -m pytest $(ARGS)

clients: $(SETUP) ## build the clients of six languages, and run them through the scenarios (ARGS='go --scenario cut')
	$(BIN)/python -m clients.runner $(ARGS)

mesh: $(SETUP) ## run these clients through Envoy, nginx and HAProxy while gateways fail (ARGS='--proxy nginx go')
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-mesh.lock
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

generate: $(SETUP) ## write generated/ anew from proto/
	$(BIN)/python scripts/generate.py

reference: $(SETUP) ## write the generated pages of docs/reference/
	$(BIN)/python scripts/reference.py

lock: $(SETUP) ## pin the dependencies anew (ARGS=--upgrade for newer ones)
	PATH=$(CURDIR)/$(BIN):$$PATH scripts/lock $(ARGS)

release-image: $(SETUP) ## at a release: what `buf breaking` compares with from then on
	$(BIN)/buf build proto --output proto/released.binpb

wheel: $(SETUP) ## build the wheel into dist/
	rm -f dist/jobgateway-*.whl
	$(BIN)/hatchling build --target wheel

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz dist
