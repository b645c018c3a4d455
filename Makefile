# make demo, make test and make docs work on a fresh machine: they make their own environment first.
#
#   make test PYTHON=/path/to/python3.12 VENV=.venv312   another Python, in its own environment
#   make test PYTEST_ARGS="tests/test_config.py -x"      some of the tests
#   make test CONSTRAINTS=/dev/null VENV=.venv-newest    the newest packages, not the tested set

VENV ?= .venv
CONSTRAINTS ?= requirements.txt
WORKERS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs clean environment same-python

STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python

# Compiled programs bring their own threads; those of BLAS would only compete with them. The tests of
# a file stay together, since they share what takes longest.
TEST := JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(RUN) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

help:
	@echo "make demo      train a small model block by block, beside its end-to-end twin, and report"
	@echo "make test      run the tests"
	@echo "make test-all  run the tests and the longer studies (marked slow)"
	@echo "make lint      check style, formatting and types"
	@echo "make docs      build the site of the documentation, in build/site; warnings are errors"
	@echo "make clean     remove caches and build leftovers; environments and runs stay"

demo: environment
	@$(RUN) -m experiments.demo --workdir=runs/demo
	@echo "The report is $(CURDIR)/runs/demo/report.html"

test: environment
	@echo "Running the tests on $(WORKERS) workers"
	@$(TEST) $(PYTEST_ARGS)

test-all: environment
	@echo "Running the tests and the longer studies on $(WORKERS) workers"
	@$(TEST) -m "" --timeout=3600 $(PYTEST_ARGS)

lint: environment
	@echo "Checking style, formatting and types"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

docs: environment
	@echo "Building the site of the documentation"
	@JAX_PLATFORMS=cpu $(RUN) -m docs.site

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

environment: $(STAMP)

# A candidate is run, not only looked up: the shims of version managers are on the path for versions
# that do not run, and some systems leave out what an environment needs.
$(STAMP): requirements.txt pyproject.toml setup.py | same-python
	@usable() { "$$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
	if ! usable $(RUN); then \
	  for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.13); do \
	    if usable "$$python"; then break; fi; \
	    python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "dbjax needs Python 3.11 or newer with venv, which $(if $(PYTHON),$(PYTHON) is not,no python3 on the path is); name one with: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making the environment $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing the packages into $(VENV): a minute or two"
	@$(RUN) -m pip install --no-input --disable-pip-version-check \
	    --constraint $(CONSTRAINTS) --editable '.[dev]' >$(VENV)/install.log 2>&1 || { \
	  tail -n 20 $(VENV)/install.log >&2; \
	  echo "The installation failed; all of its output is in $(VENV)/install.log" >&2; \
	  exit 1; \
	}
	@touch $@

# An environment keeps the Python it was made with: refuse to test another one than was asked for.
same-python:
ifdef PYTHON
	@if [ -x $(RUN) ]; then \
	  version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	  there=$$($(RUN) -c "$$version"); asked=$$("$(PYTHON)" -c "$$version"); \
	  if [ "$$there" != "$$asked" ]; then \
	    echo "$(VENV) holds Python $$there and $(PYTHON) is $${asked:-no Python}; name another folder with VENV=, or remove $(VENV)" >&2; \
	    exit 1; \
	  fi; \
	fi
endif
