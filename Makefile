# `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := .cache/lock
UV_VERSION := 0.13.9
UV_COMPILE = $(LOCK)/bin/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--custom-compile-command "make lock"
TOOLS := .cache/tools
CYCLONEDX_VERSION := 7.5.0
PIP_AUDIT_VERSION := 2.10.1
IMAGES := $(patsubst images/%/Dockerfile,%,$(wildcard images/*/Dockerfile))

##@ Use

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: venv ## Play the whole alignment loop on this machine (three iterations, no GPU needed)
	$(BIN)/sppo run

.PHONY: mlflow
mlflow: venv ## Open the runs in runs/, such as that of `make run`, in MLflow's UI
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db

.PHONY: results
results: venv ## Play the default run with three seeds, and write docs/results.md and the README's table
	$(BIN)/python benchmarks/results.py

##@ Develop

.PHONY: venv
venv: $(VENV)/.project ## Build the environment in .venv

.PHONY: test
test: lint ## Check the code, then run every test
	@# Two workers of one thread each: most unit tests keep one core busy.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal --durations 20 tests/unit tests/backend
	@# Two workers here too, each of one half of the cores: much of a stage is work that one core does.
	$(BIN)/pytest --numprocesses 2 --dist worksteal --durations 20 tests/integration

.PHONY: lint
lint: venv ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: format
format: venv ## Mend style and formatting where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: golden
golden: venv ## Write the golden packages of the tests anew
	rm -f tests/unit/golden/*.yaml
	$(BIN)/sppo compile --output tests/unit/golden/default.yaml
	for profile in pipelines/sppo_pipelines/profiles/*.yaml; do \
		$(BIN)/sppo compile --max-iterations 1 --profile "$$(basename "$$profile" .yaml)" \
			--output "tests/unit/golden/$$(basename "$$profile")"; \
	done

.PHONY: surface
surface: venv ## Write the tests' lists of public names anew, and the tables of settings in docs
	SURFACE=write $(BIN)/pytest --quiet tests/unit/surface tests/unit/test_docs.py

.PHONY: lock
lock: ## Write requirements.txt anew from requirements.in, and the images' own from pyproject.toml
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/pip install --quiet uv==$(UV_VERSION)
	$(UV_COMPILE) requirements.in --upgrade --output-file requirements.txt
	@# uv keeps the versions that it finds in its output, where it can: those of requirements.txt, which the tests run.
	for image in $(IMAGES); do \
		config=images/$$image/uv.toml; [ -f $$config ] || config=images/uv.toml; \
		cp requirements.txt images/$$image/requirements.txt; \
		$(UV_COMPILE) pyproject.toml images/requirements.in --extra $$image --constraints requirements.in \
			--config-file $$config --generate-hashes --output-file images/$$image/requirements.txt; \
	done

.PHONY: images
images: ## Build the container images; IMAGES="prepare train", REGISTRY=, PYTHON_IMAGE=, REVISION= and PUSH=1 are optional
	$(PYTHON) scripts/build_images.py $(IMAGES) $(if $(REGISTRY),--registry $(REGISTRY)) \
		$(if $(PYTHON_IMAGE),--base $(PYTHON_IMAGE)) $(if $(REVISION),--revision $(REVISION)) $(if $(PUSH),--push)

.PHONY: test-images
test-images: venv ## Build images with buildah on a base of its own, and run components in them; TESTS=FILE for some
	$(BIN)/pytest $(or $(TESTS),tests/images)

.PHONY: test-cluster
test-cluster: venv ## Play the pipeline on the cluster that the environment names (docs/cluster.md); TESTS=FILE for some
	$(BIN)/pytest --verbose --timeout 14400 $(or $(TESTS),tests/cluster)

.PHONY: sbom
sbom: ## Write what each image holds into build/sbom, as CycloneDX
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet cyclonedx-bom==$(CYCLONEDX_VERSION)
	mkdir -p build/sbom
	for image in $(IMAGES); do \
		PYTHONWARNINGS=ignore $(TOOLS)/bin/cyclonedx-py requirements images/$$image/requirements.txt \
			--pyproject pyproject.toml --mc-type application --output-reproducible \
			--output-format JSON --output-file build/sbom/$$image.json; \
	done

.PHONY: audit
audit: ## Look the images' packages up among PyPI's known vulnerabilities; one that cannot be looked up is a failure
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet pip-audit==$(PIP_AUDIT_VERSION)
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		$(IMAGES:%=--requirement images/%/requirements.txt)

MANIFESTS := build/manifests

.PHONY: manifests
manifests: ## Render the Kubernetes manifests of every overlay into build/manifests
	@render="$$(command -v kubectl || command -v kustomize || true)"; \
	[ -n "$$render" ] || { echo "make manifests needs kubectl or kustomize on the PATH" >&2; exit 1; }; \
	[ "$${render##*/}" = kustomize ] && render+=" build" || render+=" kustomize"; \
	mkdir -p $(MANIFESTS); \
	for overlay in manifests/overlays/*/; do \
		name="$$(basename "$$overlay")"; \
		$$render "$$overlay" > $(MANIFESTS)/$$name.yaml; \
		echo "$(MANIFESTS)/$$name.yaml"; \
	done

.PHONY: clean
clean: ## Remove the environment and every cache (not runs/)
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is touched last: a build that was cut short starts again where it left off.

$(VENV)/.requirements: requirements.txt scripts/install.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" \
		if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $$(grep -c '^[a-z]' requirements.txt) pinned packages; this takes minutes, once."
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/python scripts/install.py requirements.txt
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.requirements
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check --editable .
	@touch $@
