# `make demo` and `make test` install everything else: Python 3.11+, make and git are enough.
PYTHON ?= python3
PORT ?= 5000
DATASET ?= kmnist
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
READY := .venv/.ready
PIP := .venv/bin/pip --quiet --disable-pip-version-check
# A virtual environment has its own path in its scripts: if it was moved or copied, make it again.
MADE_AT := sed -n 's/^command = .* -m venv \(--[a-z-]* \)*//p' pyvenv.cfg
MOVED := $(shell cd .venv 2>/dev/null && $(MADE_AT) | grep -qvxF "$$(pwd -P)" && echo moved)
# DVC asks for the name of the user; in a container there may be only a number.
export USER ?= $(firstword $(shell id -un 2>/dev/null || id -u))
PYTEST := pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-all repro cluster ui server serve bench moved repository lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## create .venv and install the packages of requirements.lock

# If this folder's name has an umlaut, Python 3.11 under LC_ALL=C can neither write its path for an
# editable installation nor start with it: so `sed` makes the path relative.
$(READY): requirements.lock pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, but $(PYTHON) is " + sys.version.split()[0] + "; use another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(MOVED:moved=--clear) .venv
	@# torch first: given hashes, pip takes the build of the package index, and not the one that this machine
	@# prefers, such as that for CPUs in a folder of PIP_FIND_LINKS. So it is downloaded and then checked.
	@awk '/^torch==/, !/\\$$/' requirements.lock > .venv/torch.lock
	$(PIP) download --no-deps --only-binary :all: --dest .venv/torch `grep -o '^torch==[^ ]*' .venv/torch.lock`
	$(PIP) install --no-deps --require-hashes --no-index --find-links .venv/torch --requirement .venv/torch.lock
	@rm -r .venv/torch .venv/torch.lock
	$(PIP) install --no-deps --require-hashes --requirement requirements.lock
	@# What the lock cannot have for all builds of torch: the CUDA libraries whose versions one of them pins.
	LC_ALL=C.UTF-8 $(PIP) install --no-build-isolation --editable '.[dev]'
	@sed -i 's|^/.*/src$$|../../../../src|' .venv/lib/python3*/site-packages/__editable__.*.pth
	@touch $(READY)

repository:
	@reason=$$(LC_ALL=C git rev-parse --verify HEAD 2>&1) || { echo "$$reason"; \
	  case "$$reason" in *"not a git repository (or"* | *"Needed a single revision"*) \
	    echo "error: DVC needs a Git repository with a commit. In an unpacked ZIP archive, make one:"; \
	    echo "git init && git add --all && git commit --message start";; esac; exit 1; } >&2

# Restore what an interrupted DVC has lost from dvc.lock; `kmnist compose` does this too.
lock: $(READY)
	@python -c 'from kmnist_pipeline.cli import common; common.mend_lock()'

lint cluster ui server serve bench: lock

demo: repository $(READY) ## run the whole pipeline on scikit-learn's digits, in a few minutes and without a network
	kmnist compose
	dvc repro --force report@digits weights@digits_cnn
	-kmnist promote --dataset digits
	@echo "The report: reports/digits/index.html"
	@kmnist verify --quick report@digits || true

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy

test: lint ## run lint, type checks, unit and integration tests, in some minutes
	$(PYTEST) -m "not system" tests/unit tests/integration

test-all: lint ## also run the tests of whole systems, in half an hour; installs PostgreSQL, a browser and QEMU
	tools/install-debian postgresql chromium qemu-user
	$(PYTEST)

repro: repository $(READY) ## run every stage that is stale, and make the best models champions
	kmnist compose
	kmnist fit
	dvc repro
	-kmnist promote
	@echo "The reports: reports/*/index.html"

cluster: PORT = 8786
cluster: $(READY) ## start a Dask cluster on this machine, to try training on one; port 8786 or PORT=...
	@exec python -m kmnist_pipeline.fits.cluster --port $(PORT)

ui: $(READY) ## start MLflow on this machine, to compare runs; port 5000 or PORT=...
	@python -m kmnist_pipeline.tracking.server --port $(PORT) --store "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

server: $(READY) ## start MLflow with PostgreSQL on this machine; port 5000 or PORT=...
	@tools/install-debian postgresql
	@python -m kmnist_pipeline.tracking.server --port $(PORT)

serve: PORT = 5001
serve: $(READY) ## serve the champion of kmnist, or DATASET=..., over HTTP on this machine; port 5001 or PORT=...
	@exec env MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" python -m kmnist_pipeline.serving.serve $(DATASET) $(PORT)

bench: $(READY) ## measure speed on the real data, mostly as ratios
	python -m benchmarks.bench
