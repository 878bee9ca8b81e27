# make demo   see the whole system on synthetic heads, about 10 minutes on two cores
# make test   format check, lint, order of imports, types and tests
# make test-io     tests of one package, here ctmr.io
# make test-faults   faults put into system calls, disks and processes; as root, with strace, nothing is skipped
#
# All make .venv. TORCH=... takes another build of PyTorch, e.g. `make demo TORCH=torch` for a GPU.

PYTHON ?= python3
TORCH ?=
MINUTES ?= 7
OUT ?= runs/demo

BIN := .venv/bin
TORCH_INDEX := https://download.pytorch.org/whl/cpu
CONSTRAINT := $(if $(TORCH),,-c constraints-cpu.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-faults check clean

demo: .venv/ready
	$(BIN)/ctmr demo --out $(OUT) --minutes $(MINUTES)

test: check
	$(BIN)/python -m pytest

test-faults: .venv/ready
	$(BIN)/python -m pytest tests/faults

test-%: .venv/ready
	$(BIN)/python -m pytest tests/$*

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean:
	rm -rf .venv

.venv/ready: pyproject.toml constraints-cpu.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "ctmr needs Python 3.11 or newer: set PYTHON=..., e.g. make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing PyTorch and ctmr into .venv (some minutes)"
	@$(PIP) $(CONSTRAINT) $(or $(TORCH),torch) 2>.venv/pip.log \
		|| $(PIP) $(CONSTRAINT) --index-url $(TORCH_INDEX) $(or $(TORCH),torch) 2>>.venv/pip.log \
		|| { echo "no PyTorch build for $(or $(TORCH),torch==2.13.0+cpu) was found (.venv/pip.log): set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to where it is, or name another with TORCH=..." >&2; exit 1; }
	@$(PIP) $(CONSTRAINT) --editable '.[dev]'
	@touch $@
