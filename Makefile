# moodq: `make demo` shows it, `make up` runs it, `make test` checks it. `make help` lists the rest.
# Python 3.11+ is all it needs. PYTHON=… names another interpreter.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
MOODQ := $(VENV)/bin/moodq
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install model demo up test lint unit bench eval quality fuzz schemathesis gateway-bench soak chaos scale drill injection screenshots audit images-check clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED)  ## Create .venv and install everything into it

# torch comes first and pinned: the version in pyproject.toml is the one with a CPU build.
# PIP_ARGS passes options to pip, for example an index that carries torch's CPU builds.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "moodq needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV); the first time this takes a few minutes"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet $(PIP_ARGS) --editable '.[worker,embedded,gateway,dev]'
	@touch $@

model: $(INSTALLED)  ## Fetch and convert the default model, once
	@$(MOODQ) model pull

demo: $(INSTALLED)  ## Send 40 messages through the whole system and show what comes out
	@$(MOODQ) demo

up: $(INSTALLED)  ## Start the queue and a worker, and stay up
	@$(MOODQ) up

lint: $(INSTALLED)  ## ruff, mypy --strict, import-linter
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache

unit: $(INSTALLED)  ## The tests that need neither server nor model
	@$(VENV)/bin/pytest -q tests/unit tests/contract tests/engine

# Most tests wait for servers and processes: three at a time keep two cores busy.
TEST_PROCESSES ?= 3
test: lint model  ## Everything: lint, then all tests, with real servers and the real model
	@$(VENV)/bin/pytest -q -n $(TEST_PROCESSES) --dist loadfile

bench: $(INSTALLED) model  ## Compare with peers on this machine; writes build/bench/latest.json, docs/performance.md
	@$(PY) -m tests.bench $(BENCH_ARGS)

eval: $(INSTALLED) model  ## A hundred customer messages through the reply task; writes docs/replies.md to judge
	@$(PY) -m tests.bench.reply_check $(EVAL_ARGS)

quality: $(INSTALLED) model  ## Sentiment beside the usual small packages, on real texts; writes docs/quality.md
	@$(PY) -m pip install --quiet $(PIP_ARGS) --editable '.[quality]' || true
	@$(PY) -m tests.bench.quality $(QUALITY_ARGS)

RUNS ?= 100000
fuzz: $(INSTALLED)  ## Fuzz the decoders by coverage, RUNS=100000 inputs each; writes build/fuzz/latest.json
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install --quiet $(PIP_ARGS) --editable '.[fuzz]' || true
	@$(PY) -m tests.fuzz --runs $(RUNS)

CASES ?= 10000
schemathesis: $(INSTALLED)  ## CASES=10000 requests made of the gateway's OpenAPI; writes build/http-cases/latest.json
	@$(PY) -m tests.http_cases --cases $(CASES)

gateway-bench: $(INSTALLED)  ## What HTTP costs over the client, and 200 users for two minutes
	@$(PY) -m tests.http_cases.gateway_bench

MINUTES ?= 60
soak: $(INSTALLED)  ## Mixed load for MINUTES=60; fails when anything grows; writes build/soak/latest.json
	@$(PY) -m tests.soak --minutes $(MINUTES)

ITEMS ?= 10000
chaos: $(INSTALLED)  ## Kill, stop, fill and cut everything under ITEMS=10000 texts; writes build/chaos/latest.json
	@$(PY) -m tests.chaos --items $(ITEMS) $(CHAOS_ARGS)

drill: $(INSTALLED)  ## Real Prometheus over two workers: every panel fed, every alert fired; writes build/drill/latest.json
	@$(PY) -m tests.drill $(DRILL_ARGS)
scale: $(INSTALLED) model  ## Several hosts on one server, as network namespaces; writes build/scale/latest.json, docs/scale.md
	@$(PY) -m tests.scale $(SCALE_ARGS)

injection: $(INSTALLED) model  ## How far texts can talk the model over; writes docs/security/prompt-injection.md
	@$(PY) -m tests.bench.injection $(INJECTION_ARGS)

screenshots: $(INSTALLED) model  ## Take the pictures of docs/page.md again; needs chromium and Noto's CJK and emoji fonts
	@$(PY) -m tests.screens

audit:  ## Known weaknesses of what deploy/constraints.txt pins; needs pip-audit and its database
	@$(PY) deploy/constraints.py --check
	@pip-audit --strict --disable-pip --require-hashes -r deploy/constraints.txt
	@pip-audit --strict --disable-pip --require-hashes -r deploy/constraints-gateway.txt

images-check: $(INSTALLED)  ## Run the Dockerfiles' steps in a fresh root file system; needs root and debootstrap
	@$(PY) tests/deploy/run_steps.py $(IMAGES)

clean:  ## Remove .venv and build
	rm -rf $(VENV) build
