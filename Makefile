# Two commands for a newcomer: `make serve` and `make test`. `make help` lists the rest.
# Environments live in .venv and .venv-ort120; a stamp in each says what has been put in, so that a second
# call installs nothing. Every package comes from a lock, with its hashes.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
INSTALL = $(UV) pip install --quiet --python
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate
export UV_PYTHON_DOWNLOADS := never
# pip trusts the certificates that the system trusts, a company's proxy say; uv does when it is told to.
export UV_SYSTEM_CERTS ?= 1

.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help serve test lint format pytest trials loadtest bench bundle lock clean debian debian-bench

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

serve: .venv/serve.stamp ## Set up and serve the shipped models on ports 8080 and 8081 (ARGS="--port 9000")
	@exec $(BIN)/keelmark serve $(ARGS)

test: debian .venv-ort120/installed.stamp lint pytest ## Set up and run every check: what CI runs

lint: .venv/dev.stamp ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/dev.stamp ## Put the code into shape
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

pytest: .venv/dev.stamp ## Run the tests alone (ARGS="-k ladder")
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

trials: .venv/dev.stamp .venv-ort120/installed.stamp ## Run the long tests that `make test` leaves out
	$(BIN)/python -m pytest -m trial --timeout 3600 $(ARGS)

loadtest: .venv/dev.stamp ## Let callers loose on a server for a minute (ARGS="--seconds 600 --users 100")
	$(BIN)/python loadtests/run.py $(ARGS)

bench: .venv/dev.stamp debian-bench ## Measure speed on this machine, against other servers too (ARGS="--quick")
	@$(BIN)/python benchmarks/all.py $(ARGS)

bundle: .venv/dev.stamp ## Train the flights example again and ship its bundle
	rm -rf build/shipped
	$(BIN)/python examples/flights/train.py --store build/shipped
	rm -rf models/shipped
	mv build/shipped models/shipped

lock: .venv/tools.stamp ## Make the locks again from pyproject.toml (LOCK=--upgrade takes newer versions)
	$(COMPILE) $(LOCK) --extra dev -o requirements-dev.lock pyproject.toml
	$(COMPILE) $(LOCK) -c requirements-dev.lock -o requirements.lock pyproject.toml
	$(COMPILE) $(LOCK) -c requirements-dev.lock --group build -o requirements-build.lock
	$(COMPILE) $(LOCK) --group ort120 -o requirements-ort120.lock

clean: ## Remove what these targets made; .keelmark, a server's state, stays
	rm -rf .venv .venv-ort120 .hypothesis .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

debian:
	@.ci/need git:git promtool:prometheus haproxy:haproxy nginx:nginx

debian-bench:
	@.ci/need wrk:wrk

.venv/tools.stamp: requirements-build.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Keelmark needs Python 3.11 or" \
	  "newer; name one that is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "This Python makes no virtual environments;" \
	  "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv/serve.stamp: requirements.lock .venv/package.stamp
	$(INSTALL) .venv --require-hashes -r $<
	@touch $@

.venv/dev.stamp: requirements-dev.lock .venv/package.stamp
	$(INSTALL) .venv --require-hashes -r $<
	@touch $@ .venv/serve.stamp

.venv/package.stamp: pyproject.toml .venv/tools.stamp
	$(INSTALL) .venv --no-deps --no-build-isolation --editable .
	@touch $@

.venv-ort120/installed.stamp: requirements-ort120.lock .venv/tools.stamp
	$(PYTHON) -m venv --without-pip .venv-ort120
	$(INSTALL) .venv-ort120 --require-hashes -r $<
	@touch $@
