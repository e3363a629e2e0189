# The everyday commands. Each one installs what is missing first (make deps), on Debian 12 as root or
# with sudo. The build itself is CMake: see CMakePresets.json.
#
#   make train   build, then train the example language model on two processes
#   make train-lstm, make train-image   the same with the other example trainers: about a minute
#   make test    every test, also under the sanitizers, and two minutes of fuzzing
#   make soak    the same tests with their full counts (hours)
#   make bench   the benchmark tables
#   make lint    formatting, clang-tidy, ruff, mypy
#   make build   only build                     make deps   only install what is needed
#   make clean   remove the build folders
#
# Variables: PYTHON (a Python with torch), JOBS, NP (ranks of make train), DATA, TRAIN_FLAGS,
# BENCH_FLAGS (see tests/bench/run.py).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help deps build train train-lstm train-image test test-builds soak bench lint clean

# To ccache equal files are equal in every build folder and clone: the wheel's are those of release.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

JOBS ?= $(shell nproc)
NP ?= 2
OUT ?= out/train_lm
BIN := build/release/bin
configure = cmake --preset $(1) -DKHORUS_PYTHON="$$(.ci/python)"
compile = cmake --build build/$(1) --parallel $(JOBS)

help:
	@sed -n '/^#   make/s/^# //p' Makefile

deps:
	@.ci/install-dependencies

build: deps
	$(call configure,release)
	$(call compile,release)

# The text is the source of Python's own standard library: every machine with Python has it.
train: deps
	$(call configure,release)
	$(call compile,release) --target khorus_programs
	data="$(DATA)"; \
	[ -n "$$data" ] || data=$$("$$(.ci/python)" -c 'import os; print(os.path.dirname(os.__file__))'); \
	$(BIN)/khorusrun -np $(NP) $(BIN)/train_lm --data "$$data" --out $(OUT) $(TRAIN_FLAGS)
	$(BIN)/train_lm --generate "def " --checkpoint $(OUT)

train-lstm: deps
	$(call configure,release)
	$(call compile,release) --target khorus_programs
	data="$(DATA)"; \
	[ -n "$$data" ] || data=$$("$$(.ci/python)" -c 'import os; print(os.path.dirname(os.__file__))'); \
	$(BIN)/khorusrun -np $(NP) $(BIN)/train_lstm_lm --data "$$data" --out out/train_lstm_lm $(TRAIN_FLAGS)
	$(BIN)/train_lstm_lm --generate "def " --out out/train_lstm_lm

train-image: deps
	$(call configure,release)
	$(call compile,release) --target khorus_programs
	"$$(.ci/python)" examples/export_digits.py out/digits.safetensors
	$(BIN)/khorusrun -np $(NP) $(BIN)/train_image --data out/digits.safetensors $(TRAIN_FLAGS)

test-builds: build
	$(call configure,tsan)
	$(call compile,tsan)
	$(call configure,asan-ubsan)
	$(call compile,asan-ubsan)

# One run of ctest over all build folders, so that one summary at the end tells everything.
test: test-builds
	.ci/test-all

soak: test-builds
	KHORUS_TEST_SOAK=1 .ci/test-all

bench: build
	@.ci/install-dependencies mpi4py matplotlib
	@mkdir -p out
	"$$(.ci/python)" tests/bench/run.py --bin $(BIN) --out out/bench.json $(BENCH_FLAGS)

lint: build
	.ci/lint

clean:
	rm -rf build
