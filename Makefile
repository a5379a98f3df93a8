# Everything a newcomer types. `make demo` and `make test` set up what is missing first; both may be repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYNCED := $(VENV)/.synced
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
LAB := $(BIN)/nooks lab run --timeout 7200
LAB_CARDS := --device e1000 --device i82557b --device usb-net
LAB_DISKS := --device nvme --device usb-storage
LAB_GROUP := --device e1000 --device e1000,bridge=shared --device pcnet,bridge=shared
IN_LAB := $(BIN)/pytest
FUZZ_CARDS := 3c905b epic100 es1371 sblive audigy
FUZZ_SECONDS ?= 300

.PHONY: help setup lock demo demo-picture test test-unit test-vm test-long fuzz test-lab test-lab-short lint format complexity clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: system-packages $(SYNCED) ## system packages (only missing ones) and the virtual environment

.PHONY: system-packages
system-packages:
	@$(AS_ROOT) sh scripts/system-packages

$(SYNCED): requirements.lock pyproject.toml | system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

lock: $(SYNCED) ## regenerate requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --all-extras --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock

demo: setup ## crash a network driver seven ways while a download goes on
	$(AS_ROOT) $(BIN)/nooks demo network

demo-picture: setup ## docs/demo.svg from a real run
	$(AS_ROOT) $(BIN)/nooks demo network --picture docs/demo.svg

test: lint test-unit test-vm test-lab-short ## what continuous integration runs

lint: setup ## style, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: setup ## let ruff format and mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test-unit: setup ## tests without a virtual machine
	$(BIN)/pytest tests/unit -n auto

test-vm: setup ## tests on real domains
	$(AS_ROOT) $(BIN)/pytest tests/vm -m "vm and not slow"

test-long: setup ## tests that take minutes
	$(AS_ROOT) $(BIN)/pytest tests/vm -m slow

fuzz: setup ## look for messages that harm a device model, guided by coverage: FUZZ_SECONDS for each card
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-fuzz.lock
	for card in $(FUZZ_CARDS); do \
		$(BIN)/python tests/unit/fuzz_cards.py $$card -max_total_time=$(FUZZ_SECONDS) -max_len=2000 -timeout=20 || exit 1; \
	done

test-lab-short: setup ## one real card on an emulated PC, taken, failed and given back
	$(AS_ROOT) $(LAB) --device e1000 -- $(IN_LAB) tests/lab/test_attach.py -m lab_short

test-lab: setup ## all of the tests with real devices, on emulated PCs: more than two hours
	$(AS_ROOT) $(LAB) $(LAB_CARDS) -- $(IN_LAB) tests/lab/test_attach.py tests/lab/test_devices.py
	$(AS_ROOT) $(LAB) --device pcnet -- $(IN_LAB) tests/lab/test_attach.py
	$(AS_ROOT) $(LAB) $(LAB_DISKS) -- $(IN_LAB) tests/lab/test_attach_disks.py
	$(AS_ROOT) $(LAB) $(LAB_GROUP) -- $(IN_LAB) tests/lab/test_refusals.py tests/lab/test_devices.py
	$(AS_ROOT) $(LAB) --no-iommu --device e1000 -- $(IN_LAB) tests/lab/test_refusals.py
	$(AS_ROOT) $(LAB) -- $(IN_LAB) tests/lab/test_endpoint_disk.py
	$(AS_ROOT) $(LAB) --device AC97 --device usb-audio -- $(IN_LAB) tests/lab/test_sound.py
	$(AS_ROOT) $(LAB) --device model:3c905b --device model:epic100 -- $(IN_LAB) tests/lab/test_attach.py -m lab_short
	$(AS_ROOT) $(LAB) --kernel trixie --device e1000 -- $(IN_LAB) tests/lab/test_attach.py -m lab_short
	$(AS_ROOT) $(LAB) --kernel trixie -- $(IN_LAB) tests/lab/test_endpoint_disk.py

complexity: setup ## lines per room and class, beside the papers' figures
	$(BIN)/python -m nooks.lab.complexity

clean: ## remove the virtual environment and what tools left
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
