# Every target works first, alone, in a fresh clone: `make train` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)

.PHONY: setup train compare table1 lifelong bench bench-check bench-peers format lint types unit dist e2e test fuzz soak test-gpu test-slurm golden check clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): requirements.txt requirements-cpu.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python {sys.version.split()[0]} found; 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(GPU),yes)
	@echo "setup: an NVIDIA GPU answers nvidia-smi, so the CUDA set of requirements.txt is installed"
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
else
	@echo "setup: no NVIDIA GPU answers nvidia-smi, so the CPU set of requirements-cpu.txt is installed"
	$(BIN)/pip install --quiet -r requirements-cpu.txt -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps $$(grep '^torchrec==' requirements.txt)
endif
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $(STAMP)

data/synthetic/schema.json: | $(STAMP)
	$(BIN)/dare prepare synthetic --out data/synthetic

train: data/synthetic/schema.json
	$(BIN)/dare train --config launch/recipes/synthetic_dare.yaml --overwrite

compare: $(STAMP)
	$(BIN)/dare compare

# Table 1 of the paper: make table1 DATA="data/taobao data/tmall" WIDTHS="16 64 128" SEEDS=5
CONFIG ?= launch/recipes/taobao_dare.yaml
PRESETS ?= table1
SEEDS ?= 5
WIDTHS ?= 16
OPTIONS ?=
comma := ,
empty :=
commas = $(subst $(empty) $(empty),$(comma),$(strip $(1)))

table1: $(STAMP)
	$(if $(DATA),,$(error give the folder of prepared data: make table1 DATA=data/taobao))
	$(BIN)/dare sweep --config $(CONFIG) --presets $(call commas,$(PRESETS)) --data $(call commas,$(DATA)) --seeds $(SEEDS) --vary width=$(call commas,$(WIDTHS)) --out runs/table1 $(OPTIONS)

# AUC against the behaviours that are seen, of lives of 20,000: make lifelong, make lifelong RANKS=2 LENGTHS=20000
LENGTHS ?= 200 1000 5000 10000 20000

data/synthetic_lifelong/schema.json: | $(STAMP)
	$(BIN)/dare prepare synthetic --out data/synthetic_lifelong --users 600 --history_length 20000 --requests 16 --targets 64 --items 1000000 --categories 1000 --sharpness 20 --width 16 --recency 0 --stray 0.01 --interests 3 --short_histories 0 --newest 200,1000,2000,5000,10000,20000

lifelong: RANKS = 1
lifelong: data/synthetic_lifelong/schema.json
	$(BIN)/dare sweep --config launch/recipes/synthetic_lifelong.yaml --seeds 1 --vary data.history_length=$(call commas,$(LENGTHS)) $(if $(filter 1,$(RANKS)),--out runs/lifelong,--out runs/lifelong_$(RANKS)_ranks --data.batch_size $$((1024 / $(RANKS))) --launcher "torchrun --nproc-per-node $(RANKS) -m trainer")

# The benchmark page: make bench OUT=runs/benchmarks
OUT ?= runs/benchmarks
bench: $(STAMP)
	$(BIN)/dare bench all --out $(OUT)

bench-check: $(STAMP)
	$(BIN)/dare bench check

# This project's training beside its peers', about 7 minutes on a quiet machine; every case needs its peer:
# git clone https://github.com/thuml/DARE
# python3 -m venv fuxictr && fuxictr/bin/pip install fuxictr==2.3.10 keras_preprocessing torch==2.13.0
# make bench-peers PAPER=DARE FUXICTR=fuxictr CASES=paper_4m,fuxictr_200
bench-peers: $(STAMP)
	$(BIN)/python -m tests.bench.peers --paper "$(PAPER)" --fuxictr "$(FUXICTR)" --cases "$(CASES)" $(OPTIONS)

format: $(STAMP)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

# A file's tests stay in one process, so that what they share is made once; some of them wait.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n + 1 : 8)))
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

unit: $(STAMP)
	$(PYTEST) tests/unit

dist: $(STAMP)
	$(PYTEST) tests/dist

e2e: $(STAMP)
	$(PYTEST) tests/e2e

# Runs under random faults, told at the end; exit code 1 where anything was wrong: make soak MINUTES=2
MINUTES ?= 60
RANKS ?= 2
SEED ?= 0
soak: $(STAMP)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --ranks $(RANKS) --seed $(SEED)

# Property-based tests with many inputs, told at the end: make fuzz EXAMPLES=10000
EXAMPLES ?= 1000

fuzz: $(STAMP)
	EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/fuzz --timeout=0

test: lint types
	$(PYTEST)

# What takes long: hosts that are drained, lost, and come back.
test-slow: $(STAMP)
	$(BIN)/pytest -m "slow and not gpu"

# The same suite: on a GPU host it trains on the GPU, and tests marked gpu run too.
test-gpu: $(STAMP)
	@nvidia-smi -L
	$(BIN)/pytest -m "not slow and not slurm"

# A real Slurm of two nodes on this host; of it all only the packages stay.
SLURM_IS_HERE := command -v slurmctld && command -v slurmd && command -v munged

test-slurm: $(STAMP)
	@test "$$(id -u)" = 0 || { echo "test-slurm: Slurm's daemons start jobs for others: run as root"; exit 1; }
	@{ $(SLURM_IS_HERE) || command -v apt-get; } >/dev/null || { echo "test-slurm: install slurmctld, slurmd and munged (on Debian: slurm-wlm munge)"; exit 1; }
	@{ $(SLURM_IS_HERE); } >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurm-wlm munge; }
	$(BIN)/pytest -m slurm tests/slurm

# What TorchX would send to each scheduler, made anew, and what that changes.
golden: $(STAMP)
	$(BIN)/python -m tests.torchx_requests
	git --no-pager diff --stat --patch -- tests/golden

check: test

clean:
	rm -rf data runs
