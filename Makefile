# make repro · make test · make lint · make bench · make ablate · make ui
# Each sets up .venv first, from requirements.lock, with nothing but Python 3.11 or 3.12 and pip.

PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && command -v $$p && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro test lint bench ablate ui clean

repro: .venv/.ready
	dvc repro

test: lint
	pytest -n 2 --dist loadfile

lint: .venv/.ready
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: .venv/.ready
	python -m benchmarks

ablate: .venv/.ready
	python -m pipelines.ablate

ui: .venv/.ready
	mlflow ui --backend-store-uri $$(python -c 'from cfpp.config import load_params; print(load_params().mlflow.tracking_uri)')

clean:
	rm -rf .venv .uv .cfpp .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build *.egg-info

# Compiled once here, not in each of the many processes of a run. uv lives in a folder of its own, which needs no venv module: `uv pip sync` removes from .venv what the lock does not name.
.venv/.ready: requirements.lock requirements-uv.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 not found on PATH; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x .uv/bin/uv || { $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv --require-hashes -r requirements-uv.lock; }
	test -x .venv/bin/python || .uv/bin/uv venv --quiet --python "$$(command -v $(PYTHON))" .venv
	VIRTUAL_ENV=$(CURDIR)/.venv .uv/bin/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv .uv/bin/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
