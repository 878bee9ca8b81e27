# make demo   see the whole system on synthetic heads, about 10 minutes on two cores
# make test   format check, lint, order of imports, types and tests
# make test-io     tests of one package, here ctmr.io
# make test-faults   faults put into system calls, disks and processes; as root, with strace, nothing is skipped
# make viewer   fetch NiiVue, which shows volumes in `ctmr view`, from the npm registry; its hash is below
# make dist   a wheel, with NiiVue in it
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

NIIVUE := src/ctmr/viewer/page/niivue.js
NIIVUE_SHA256 := 6e9a6a471b428eb3b258a0086beca9187d95e43a781a39e8a519c6da246af485
AXE_SHA256 := 0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292
# $(call npm,PACKAGE,VERSION,SHA256 of the archive,FILE in it,TARGET)
npm = set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	npm pack --silent --pack-destination "$$folder" $(1)@$(2) >/dev/null; \
	echo "$(3)  $$(ls "$$folder"/*.tgz)" | sha256sum --check --quiet; \
	tar -xzf "$$folder"/*.tgz -C "$$folder" package/$(4); mv "$$folder/package/$(4)" $(5)

.PHONY: demo test test-faults check clean viewer dist

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

viewer: $(NIIVUE) .venv/axe.js

$(NIIVUE):
	@$(call npm,@niivue/niivue,0.69.0,$(NIIVUE_SHA256),dist/index.js,$@)

.venv/axe.js: | .venv/ready  # judges the page in the tests
	@$(call npm,axe-core,4.10.3,$(AXE_SHA256),axe.min.js,$@)

dist: .venv/ready
	@test -f $(NIIVUE) || { echo "NiiVue is missing: make viewer" >&2; exit 1; }
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

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
