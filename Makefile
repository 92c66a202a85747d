# Every target sets up what it needs by itself, in .venv. A machine needs Python 3.11 or newer,
# make and a C compiler. Another Python: make test PYTHON=/path/to/python

BIN := .venv/bin
PYTHON = $(firstword $(foreach name,python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test bench docs lint

demo: .venv/installed
	$(BIN)/weft demo

# One thread: two of them on a busy machine make millisecond jobs several times slower.
test: export OMP_NUM_THREADS := 1
test: export MKL_NUM_THREADS := 1
test: export MPLBACKEND := Agg
test: .venv/installed
	$(BIN)/python -m pytest

bench: .venv/installed
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/installed-docs
	$(BIN)/python -m mkdocs build

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# The stamps are newer than the files that decide what is installed, or the install runs again.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo >&2 "weft needs Python 3.11 or newer: neither python3.11 nor a" \
		"python3 that is new enough was found. Name one with 'make PYTHON=/path/to/python'."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing weft and its pinned dependencies into .venv: a few minutes, once."
	@$(INSTALL) '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	@$(INSTALL) '.[dev,docs]'
	@touch $@
