# `make up` serves, `make test` tests; each installs what it needs into .venv first.
# Variables: MODEL=demo|ImageReward-v1.0  CHECKPOINT=path  NAME=of-the-weights
#            PRECISION=fp32|int8 on a CPU, fp16|bf16 on a GPU
#            PORT=8006  HOST=127.0.0.1  PYTHON=python3.11  TORCH_INDEX=url
#            TRITON_HOST=127.0.0.1, of Triton's gRPC door, which has no keys (SECURITY.md)
#            TRITON_PORT=8000  TRITON_GRPC_PORT=8001  TRITON_METRICS_PORT=8002

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
HOST ?= 127.0.0.1
TRITON_HOST ?= 127.0.0.1
PORT ?= 8006
TRITON_PORT ?= 8000
TRITON_GRPC_PORT ?= 8001
TRITON_METRICS_PORT ?= 8002
PRECISION ?=
# From the command line only: some environments hold a NAME that means the machine (WSL's does).
ifeq ($(origin NAME),environment)
NAME :=
endif
SOURCES := reward export demo frontend local model_boss clients examples tests bench model_repository deploy

.PHONY: help up demo publish checkpoint-is-named install-test test test-slow test-clients test-hostile test-fresh test-monitoring test-compose fuzz check fix bench clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

ENSURE = $(BIN)/python -m export ensure --model "$(MODEL)" --name "$(NAME)" $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(if $(PRECISION),--precision $(PRECISION))

# Status 3: a checkpoint must be exported first. Only then the tools for it are installed, torch
# among them.
up: $(VENV)/.serve ## start Triton and the REST door; MODEL= or CHECKPOINT= say with what (docs/weights.md)
	@$(ENSURE); status=$$?; \
	if [ $$status -eq 3 ]; then echo "installing them …" && $(INSTALL_EXPORT) && $(ENSURE); \
	else exit $$status; fi
	@$(BIN)/python -m local up --host $(HOST) --triton-host $(TRITON_HOST) --port $(PORT) \
	  --triton-http-port $(TRITON_PORT) --triton-grpc-port $(TRITON_GRPC_PORT) --triton-metrics-port $(TRITON_METRICS_PORT)

DEMO := .cache/demo
demo: $(VENV)/.serve ## rank the example pictures with the demonstration model, through REST
	@rm -rf $(DEMO) && mkdir -p $(DEMO) && tar --exclude='image_reward_network/[0-9]*' --exclude='model_repository/*/configs' -cf - model_repository | tar -C $(DEMO) -xf -
	@$(BIN)/python -m export --repository $(DEMO)/model_repository ensure --model demo
	@$(BIN)/python -m local demo --repository $(DEMO)/model_repository --directory $(DEMO)

publish: checkpoint-is-named $(VENV)/.export ## export CHECKPOINT=path, compare it with torch and publish it, once
	@$(BIN)/python -m export ensure --checkpoint "$(CHECKPOINT)" --name "$(NAME)" --precision "$(PRECISION)"

checkpoint-is-named:
	@[ -n "$(CHECKPOINT)" ] || { echo "error: say which: make publish CHECKPOINT=path/to/ImageReward.pt" >&2; exit 1; }

install-test: $(VENV)/.dev .upstream/.installed .cache/pillow/.installed ## install all that the tests need; they run without a network

# Five processes on two cores, a file at a time: most integration tests wait for something. torch
# takes one core: threads that wait for each other on a busy machine cost more than they compute.
# What one process has compiled is written down for the others.
test: install-test ## run the everyday tests
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not hostile and not full_size' --numprocesses 5 --dist loadfile --no-loadscope-reorder

test-full-size: install-test ## compare a network of ImageReward's size with upstream; three minutes, 5 GB of memory
	$(BIN)/python -m pytest -m full_size tests/parity

test-slow: install-test ## run the long tests
	$(BIN)/python -m pytest -m slow

test-hostile: install-test ## attack the service, process by process and request by request, for minutes
	$(BIN)/python -m pytest -s -m hostile tests/hostile

test-clients: install-test clients/typescript/node_modules/.installed $(VENV)/.browser $(VENV)/.examples ## run the tests of the clients, examples and playground; takes Node 18 or later, or brings one, and a Chromium
	$(BIN)/python -m pytest -m clients tests/clients

test-fresh: $(VENV)/.dev ## run these commands in containers of minimal Debian; needs Docker; ONLY=name chooses one
	@docker info >/dev/null 2>&1 || { echo "error: no Docker daemon answers: make test-fresh needs one" >&2; exit 1; }
	$(BIN)/python -m pytest -m fresh -s tests/fresh -k "$(ONLY)"

test-monitoring: install-test ## scrape the service with a real Prometheus, and run every panel's query; needs prometheus on PATH
	@command -v prometheus >/dev/null || { echo "error: no prometheus on PATH: make test-monitoring needs one" >&2; exit 1; }
	$(BIN)/python -m pytest -m monitoring tests/monitoring

test-compose: $(VENV)/.dev ## build the images, run docker-compose.yml and break it; needs Docker; ONLY=name chooses one
	@docker info >/dev/null 2>&1 || { echo "error: no Docker daemon answers: make test-compose needs one" >&2; exit 1; }
	$(BIN)/python -m pytest -m compose -s -v tests/compose -k "$(ONLY)"

fuzz: $(VENV)/.dev ## decode 200,000 broken images
	AESTHETIC_FUZZ_IMAGES=200000 AESTHETIC_FUZZ_SEED=$${SEED:-$$RANDOM} $(BIN)/python -m pytest --timeout 3600 tests/integration/frontend/test_decode_fuzz.py

check: $(VENV)/.dev ## lint, types, formatting, import rules, declared dependencies
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mypy examples deploy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml
	$(BIN)/hadolint --config deploy/.hadolint.yaml deploy/*/Dockerfile
	$(BIN)/deptry reward export demo frontend local model_boss
	cd clients/python && ../../$(BIN)/deptry src
	@if command -v promtool >/dev/null; then $(PROMTOOL); \
	else echo "no promtool (Debian's package prometheus has it): the alert rules were not checked"; fi

PROMTOOL = set -e; cd deploy/monitoring; promtool check config --syntax-only prometheus.yml; \
	promtool check rules alerts.yml; promtool test rules alerts.test.yml drift.test.yml

fix: $(VENV)/.dev ## mend what can be mended by machine
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.bench .upstream/.installed ## measure; BENCH="--help" says how; see docs/performance.md
	$(BIN)/python -m bench $(BENCH)

clean: ## remove everything that was installed or built, but no published version
	rm -rf $(VENV) .tools .upstream .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info clients/typescript/node_modules

# local/install.sh chooses a Python, and says in its head what may be set.
INSTALL = PYTHON="$(PYTHON)" bash local/install.sh

$(VENV)/.serve: pyproject.toml constraints.txt local/install.sh
	@$(INSTALL) serve
	@touch $@

# `make up` does this in the middle of its recipe: a nested make would run even under `make -n`.
INSTALL_EXPORT = $(INSTALL) export && touch $(VENV)/.export

$(VENV)/.export: $(VENV)/.serve
	@$(INSTALL_EXPORT)

$(VENV)/.dev: $(VENV)/.export
	@$(INSTALL) dev
	@touch $@

$(VENV)/.examples: $(VENV)/.dev
	@$(INSTALL) examples
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(INSTALL) bench
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	@$(INSTALL) browser
	@touch $@

clients/typescript/node_modules/.installed: clients/typescript/package-lock.json $(VENV)/.dev
	clients/typescript/npm.sh ci
	@touch $@

.upstream/.installed: tests/parity/upstream.txt $(VENV)/.dev
	@$(INSTALL) upstream
	@touch $@

.cache/pillow/.installed: $(VENV)/.dev
	@$(INSTALL) pillow
	@touch $@
