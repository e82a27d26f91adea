# One command each; README explains `make demo` and `make test`.
# Needs Python 3.11+ (with venv and headers), a C compiler, make, and cargo or git where no liboqs is installed.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
NATIVE := pyproject.toml CMakeLists.txt $(wildcard csrc/*.c csrc/*.h csrc/lanes/* csrc/cmake/*) $(wildcard src/qflare/_native/*.py)

.PHONY: demo screenshots test lint types check-c check-long bench bench-baseline bench-compare bench-flame detection-report docs clean help

help:
	@echo "make demo | test | lint | types | check-c | check-long | bench | bench-baseline | bench-compare | bench-flame | detection-report | clean | screenshots"

# The stamp is newer than what the extension is built from: a second run starts at once.
$(VENV)/.installed: $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "QFLARE needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "Python cannot make a virtual environment here: install the venv module (Debian: python3-venv)."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev,bench]'
	@touch $@

# QFLARE_DEMO_ARGS adds arguments, e.g.  make demo QFLARE_DEMO_ARGS='--devices 200 --rounds 5'
demo: $(VENV)/.installed
	$(BIN)/qflare demo $(QFLARE_DEMO_ARGS)

# All of it, its parts side by side; PYTEST_ARGS runs what it names, e.g.  make test PYTEST_ARGS='tests/protocol -x'
test: $(VENV)/.installed
	@$(if $(PYTEST_ARGS),$(BIN)/python -m pytest $(PYTEST_ARGS),PYTHON=$(BIN)/python bash tests/run)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

# CHECK_C=built leaves out the running times, CHECK_C=timed runs them alone.
check-c: $(VENV)/.installed
	PYTHON=$(abspath $(BIN)/python) bash tests/c/run $(CHECK_C)

# Ten million cases of the ML-KEM engine against liboqs (QFLARE_LONG_ROWS asks for more or fewer rows), then the same as
# above with more time for what finds more with time: hours, outside CI.
check-long: $(VENV)/.installed
	PYTHON=$(abspath $(BIN)/python) bash tests/c/run-long
	QFLARE_FUZZ_S=1800 QFLARE_TIMING_ROUNDS=200000 PYTHON=$(abspath $(BIN)/python) bash tests/c/run

bench: $(VENV)/.installed
	$(BIN)/qflare bench

# Ratios of this machine now against those it had: `make bench-baseline` keeps a run, `make bench-compare` runs again.
bench-baseline: bench
	cp build/bench/benchmarks.json build/bench/baseline.json

bench-compare: $(VENV)/.installed
	@test -f build/bench/baseline.json || { echo "no baseline yet: run make bench-baseline on the version to compare with"; exit 1; }
	$(BIN)/qflare bench
	$(BIN)/qflare bench compare build/bench/baseline.json

# Where the time goes, as build/bench/flame.svg
bench-flame: $(VENV)/.installed
	$(BIN)/qflare bench flame

# Measures the detector on recordings of the real protocol and writes docs/detection.md: a few minutes.
detection-report: $(VENV)/.installed
	PYTHONPATH=.:tests $(BIN)/python -W ignore -m detection.report

# Pictures of the live page in docs/images, of a run of the demo; needs Chromium (Debian: chromium-headless-shell).
screenshots: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python tests/screenshots.py

clean:
	rm -rf build $(VENV)
