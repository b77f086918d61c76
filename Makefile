# `make demo` and `make test` do all the set-up: Python 3.11+, make and git are enough.
PYTHON ?= python3
PORT ?= 5000
DATASET ?= kmnist
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all repro cluster ui server serve bench

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## make .venv and install requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## run the whole pipeline on scikit-learn's digits, in a minute or two and without a network
	kmnist compose
	dvc repro --force report@digits
	-kmnist promote --dataset digits
	@echo "The report: reports/digits/index.html"
	@kmnist verify --quick report@digits || true

test: $(READY) ## lint, types, tests
	ruff check .
	ruff format --check .
	mypy
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-all: $(READY) ## the same with PostgreSQL, a browser and emulated CPUs, installed where missing
	tools/install-debian postgresql chromium qemu-user
	$(MAKE) test

repro: $(READY) ## make every report again, as far as something changed
	kmnist compose
	kmnist fit
	dvc repro
	-kmnist promote
	@echo "The reports: reports/*/index.html"

cluster: PORT = 8786
cluster: $(READY) ## workers for fits on loopback, as a Dask cluster for trying it out; PORT=...
	@exec python -m kmnist_pipeline.fits.cluster --port $(PORT)

ui: $(READY) ## compare runs in MLflow on loopback, port 5000 or PORT=...
	@python -m kmnist_pipeline.tracking.server --port $(PORT) --store "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

server: $(READY) ## a server for MLflow on loopback, over PostgreSQL; PORT=...
	@tools/install-debian postgresql
	@python -m kmnist_pipeline.tracking.server --port $(PORT)

serve: PORT = 5001
serve: $(READY) ## the champion of kmnist, or DATASET=..., over HTTP on loopback, port 5001 or PORT=...
	@exec env MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" python -m kmnist_pipeline.serving.serve $(DATASET) $(PORT)

bench: $(READY) ## measure speed as ratios, on the real data
	python -m benchmarks.bench
