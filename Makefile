# Two commands: `make demo` plans and trains, `make test` passes every test. Both do their own set-up.
# `cargo run -- plan RECIPE` needs neither Python nor libtorch.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE    ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llmc
# tch 0.24 speaks to libtorch 2.11.0; the wheel carries it, with headers, for CPU and CUDA alike.
LIBTORCH_DIR := $(CACHE)/libtorch-2.11.0
export LIBTORCH ?= $(LIBTORCH_DIR)/torch
# Where a build that takes its libraries from elsewhere finds them; harmless otherwise.
export LD_LIBRARY_PATH := $(LIBTORCH)/lib:$(LIBTORCH)/../nvidia/cu13/lib:$(LD_LIBRARY_PATH)

# Threads that spin while they wait starve each other on shared cores.
export OMP_WAIT_POLICY ?= passive

TARGET   ?= $(or $(CARGO_TARGET_DIR),target)
RELEASE  := $(TARGET)/release
LLMC     := $(RELEASE)/llmc
TESTER   := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run --no-fail-fast" || echo "test --no-fail-fast")
export LLMC_WORKER := $(abspath $(RELEASE)/llmc-worker)
export LLMC_DATA   := $(abspath $(RELEASE)/llmc-data)

.PHONY: gpu-session help demo test test-plan test-corpus test-runtime test-run test-peers fuzz bench lint toolchain libtorch worker quickstart-text

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: toolchain ## print a plan, then train a small model on real text on this CPU
	cargo build --release --quiet
	$(LLMC) plan recipes/one-liner.llm
	$(MAKE) --no-print-directory worker quickstart-text
	rm -rf runs/quickstart
	$(LLMC) run recipes/quickstart.llm

test: toolchain test-plan test-corpus test-runtime test-run ## every test
	@echo "all tests passed"

test-plan: ## language, compiler, planner, plan, command line: no Python, no libtorch
	INSTA_UPDATE=no cargo $(TESTER)

test-corpus: quickstart-text ## readers, tokenizer, batches
	cargo test --release --quiet -p llmc-corpus

test-runtime: libtorch ## every op against autograd, checkpoints, interpreter (one process loads libtorch once)
	cargo test --release --quiet -p llmc-runtime

test-run: worker quickstart-text ## the real programs end to end: run, kill, resume, trace, edit
	cargo test --release --quiet --features worker --test training --test determinism

PEERS := .cache/peers
test-peers: toolchain ## files by pyarrow, datasets, webdataset, Megatron-core, as far as they install; programmes by HiGHS
	cargo build --release --quiet -p llmc-corpus
	python3 -m venv $(PEERS)
	@for peer in pyarrow datasets webdataset "torch megatron-core"; do \
	  $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $$peer >$(PEERS)/pip.log 2>&1 \
	    || echo "skipped $$peer: $$(tail -n 1 $(PEERS)/pip.log)"; done
	PYTHONWARNINGS=ignore HF_DATASETS_DISABLE_PROGRESS_BARS=1 $(PEERS)/bin/python corpus/tests/peers.py $(LLMC_DATA)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check highspy
	LLMC_INSTANCES=$(abspath $(PEERS))/instances.jsonl cargo test --quiet -p llmc-planner --test milp
	$(PEERS)/bin/python planner/tests/highs.py $(PEERS)/instances.jsonl planner/tests/highs.csv

worker: libtorch ## build llmc, llmc-worker and llmc-data
	cargo build --release --quiet
	cargo build --release --quiet -p llmc-corpus -p llmc-runtime

CARD ?= H100
gpu-session: worker ## gather what benches/gpu/session.sh needs on a GPU machine (CARD=H200): programs, op tests, plans
	cargo test --release --quiet -p llmc-runtime --test ops --no-run
	rm -rf $(TARGET)/gpu && mkdir -p $(TARGET)/gpu
	cp $(RELEASE)/llmc-worker $(RELEASE)/llmc benches/gpu/session.sh benches/gpu/parts.py $(TARGET)/gpu/
	cp "$$(ls -t $(RELEASE)/deps/ops-* | grep -v '\.d$$' | head -n 1)" $(TARGET)/gpu/ops
	for recipe in benches/gpu/recipes/*.llm benches/gpu/held_out/*.llm; do \
	  $(LLMC) plan "$$recipe" --set on=1x$(CARD) -o $(TARGET)/gpu/"$$(basename "$$recipe" .llm)".json >/dev/null 2>&1 || echo "not planned: $$recipe"; done

fuzz: ## 200,000 random and mutated recipes through parse, check and fmt; 3,000 made-up ones planned
	LLMC_FUZZ_CASES=200000 cargo test --release -p llmc-grammar --test fuzz
	LLMC_FUZZ_CASES=200000 cargo test --release -p llmc-compiler --test properties fuzz
	LLMC_FUZZ_CASES=3000 cargo test --release -p llmc-compiler --test plans

bench: ## criterion benchmarks of the planner and the front end
	cargo bench

lint: ## formatting and clippy, where the components are installed
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings

toolchain:
	@command -v cargo >/dev/null || { echo "llmc needs Rust: install rustup, then run this again" >&2; exit 2; }

# NVRTC compiles the CUDA kernels. A libtorch from elsewhere lies beside its own.
NVRTC := $(if $(filter $(LIBTORCH_DIR)/torch,$(LIBTORCH)),$(LIBTORCH_DIR)/nvidia/cu13/lib/libnvrtc.so.13)

libtorch: toolchain $(LIBTORCH)/lib/libtorch_cpu.so $(NVRTC) ## unpack libtorch into the user cache (1.3 GB, once)

WHEELS = python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-cache-dir --no-compile --no-deps \
  --only-binary=:all: --implementation cp --python-version 3.12 --platform manylinux_2_28_$(shell uname -m) \
  --platform manylinux_2_25_$(shell uname -m) --platform manylinux2014_$(shell uname -m) --platform manylinux_2_17_$(shell uname -m)

$(LIBTORCH_DIR)/torch/lib/libtorch_cpu.so:
	@command -v c++ >/dev/null || { echo "the runtime needs a C++ compiler: install g++, then run this again" >&2; exit 2; }
	@command -v python3 >/dev/null || { echo "libtorch comes as a Python wheel: install python3, then run this again" >&2; exit 2; }
	@python3 -m pip --version >/dev/null 2>&1 || python3 -m ensurepip --user >/dev/null 2>&1 \
	  || { echo "libtorch comes as a Python wheel: install python3-pip, then run this again" >&2; exit 2; }
	@echo "unpacking libtorch 2.11.0 into $(LIBTORCH_DIR) (1.2 GB, once)"
	@mkdir -p $(CACHE) && rm -rf $(LIBTORCH_DIR).part
	$(WHEELS) --target $(LIBTORCH_DIR).part torch==2.11.0 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*'
	rm -rf $(LIBTORCH_DIR) && mv $(LIBTORCH_DIR).part $(LIBTORCH_DIR)

# pip does not add to a folder that another wheel filled, so it unpacks beside it; the library itself comes last.
$(LIBTORCH_DIR)/nvidia/cu13/lib/libnvrtc.so.13: | $(LIBTORCH)/lib/libtorch_cpu.so
	rm -rf $(LIBTORCH_DIR).part
	$(WHEELS) --target $(LIBTORCH_DIR).part 'nvidia-cuda-nvrtc==13.0.*'
	cp $(LIBTORCH_DIR).part/nvidia/cu13/lib/libnvrtc-builtins.so.13* $(@D)/
	cp $(LIBTORCH_DIR).part/nvidia/cu13/lib/libnvrtc.so.13 $@.part && mv $@.part $@
	rm -rf $(LIBTORCH_DIR).part

quickstart-text: .cache/quickstart/python.jsonl

.cache/quickstart/python.jsonl: recipes/quickstart_text.py
	python3 recipes/quickstart_text.py $@
