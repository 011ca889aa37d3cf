# Builds, tests and measures multigil in a virtual environment of its own; nothing needs to be done before.
#
#   make demo
#   make test PYTHON=python3.13 VENV=.venv-3.13
#
# PYTHON is a name or a path; without it, scripts/find-python picks the newest usable one. VENV is where the
# package, and all that it is built and tested with, is installed.

PYTHON ?=
VENV ?= .venv
DEMO ?=
INPUTS ?= 1000000

# Where rustup puts cargo: the shell that installed it has not read its new profile yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# maturin builds for the environment that VIRTUAL_ENV names, and refuses to choose when conda names another.
export VIRTUAL_ENV := $(abspath $(VENV))
unexport CONDA_PREFIX

python := $(VIRTUAL_ENV)/bin/python
pip_install := $(python) -m pip install --quiet

# What was done, as empty files: beside what cargo built, so that they go when it goes, and what was done in an
# environment in a folder of its own.
done_here := target/make
done_there := $(done_here)$(VIRTUAL_ENV)

# Folders are listed too: theirs is the time at which a file was removed.
rust_sources := $(wildcard Cargo.toml Cargo.lock) $(shell find src ffi)
rust_tests := $(shell find tests benches \( -path tests/python -o -path benches/python \) -prune -o -print)

loom := RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(or $(CARGO_TARGET_DIR),target)/loom

# All of them write to the same environment and the same folder of cargo's.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help build demo test test-rust test-python bench soak fuzz lint lint-rust lint-python clean FORCE

help: ## what there is to make
	@echo 'usage: make TARGET [PYTHON=python3.14] [VENV=.venv] [DEMO=PATH]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-6s %s\n", $$1, $$2 }' Makefile

build: $(done_there)/build ## build multigil and install it in VENV

demo: build ## count the words of the standard library's files, or of those in DEMO
	$(python) -m multigil demo $(if $(DEMO),'$(DEMO)')

test: test-rust test-python ## run the tests

test-rust: $(done_here)/test-rust
	@echo 'The Rust tests have passed; they run again when a file of theirs changes.'

# Two at a time, file by file. CPython before 3.12.4 crashes now and then in a program that has made hundreds of
# interpreters: there, each file of tests is a program of its own.
test-python: build $(done_there)/requirements-test
	@if $(python) -c 'import sys; sys.exit(sys.version_info >= (3, 12, 4))'; then \
		printf '%s\n' tests/python/test_*.py | xargs -n 1 -P 2 $(python) -m pytest --quiet; \
	else \
		$(python) -m pytest --numprocesses 2 --dist loadfile; \
	fi

bench: build $(done_there)/requirements-bench ## measure multigil and its peers
	cargo bench --package multigil
	$(python) benches/python/run.py

soak: build ## kill 100,000 processes, pass messages for 5 minutes, and share a lock, a condition and a barrier for one each
	MULTIGIL_KILLS=100000 MULTIGIL_STOPS=10000 cargo test --package multigil --features faults --test storm -- \
		--nocapture storm_of
	$(python) tests/python/soak.py --minutes 5
	$(python) tests/python/soak_locks.py --minutes 1

fuzz: ## try a million regions that somebody wrote over, or INPUTS of them
	MULTIGIL_INPUTS=$(INPUTS) cargo test --package multigil --test overwritten -- --nocapture

lint: lint-rust lint-python ## check format, style and types

lint-rust: export PYO3_PYTHON := $(python)
lint-rust: $(VENV)/pyvenv.cfg
	scripts/check-cargo
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package multigil --features faults --all-targets -- -D warnings
	$(loom) cargo clippy --package multigil --test loom -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --package multigil --no-deps

# Types are checked as the oldest supported Python has them and as VENV's has them, and those of the benchmarks apart:
# they are programs of their own. Tests do on purpose what types forbid.
lint-python: build $(done_there)/requirements-lint
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy --python-version 3.12 python
	$(python) -m mypy python
	$(python) -m mypy benches/python
	$(python) -m mypy examples
	$(python) -m mypy.stubtest multigil._core --mypy-config-file pyproject.toml

clean: ## remove all that was made, the environment included
	rm -rf target .pytest_cache .mypy_cache .ruff_cache .hypothesis python/multigil/*.so
	find python tests benches -name __pycache__ -prune -exec rm -rf {} +
	if [ -f '$(VENV)/.made-by' ]; then rm -rf '$(VENV)'; fi

# Always looked at, but only a new environment is newer than what was done in the old one.
$(VENV)/pyvenv.cfg: FORCE
	@PYTHON='$(PYTHON)' scripts/make-venv '$(VENV)'

# pip installs dependency groups since 25.1.
$(done_there)/requirements-build: $(VENV)/pyvenv.cfg pyproject.toml
	@mkdir -p $(@D)
	$(pip_install) 'pip>=25.1'
	$(pip_install) --group build
	@touch $@

$(done_there)/requirements-test $(done_there)/requirements-lint: $(done_there)/requirements-%: \
		$(done_there)/requirements-build
	$(pip_install) --group $*
	@touch $@

# A peer that is left out where it cannot be built: it needs a C++ compiler and Python's headers.
$(done_there)/requirements-bench: $(done_there)/requirements-build
	$(pip_install) --group bench
	@$(pip_install) --group bench-native 2> $@.log || echo 'faster-fifo cannot be built here; it is left out. $@.log says why.'
	@touch $@

$(done_there)/build: $(done_there)/requirements-build $(rust_sources) $(wildcard python/multigil/*.py)
	@scripts/check-cargo
	$(VIRTUAL_ENV)/bin/maturin develop --release --extras demo
	@# Every interpreter that is made imports the package: not by compiling it, even where writing bytecode is off.
	$(python) -m compileall -q python/multigil
	@touch $@

# The models are explored up to 3 preemptions: enough for every known kind of fault, in minutes instead of days.
$(done_here)/test-rust: $(rust_sources) $(rust_tests)
	@mkdir -p $(@D)
	@scripts/check-cargo
	cargo test --package multigil --features faults
	LOOM_MAX_PREEMPTIONS=3 $(loom) cargo test --package multigil --test loom
	@touch $@
