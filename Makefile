# SPDX-License-Identifier: Apache-2.0
# test-vm and test are the two commands of the README. Each sets up what it needs.
# Options of a run: FAULT=<name> ACCEL=kvm|tcg SEED=<n> ORDER=shuffled BOOT=pvh|bzimage
# APPEND=<words> STATE=auto|booted|no DEADLINE=<phase>=<s> VMS=<n> KEEP=1 GDB=1 IOMMU=intel HOTPLUG=1
# PROFILE=<name or path> COHERENT=yes|no PLACE=kind|hostile ARGS="-k alignment -x" ENDPOINT=<module>:<class>
# MODULE=<folder, C file or .ko> DRIVER=<name> REHEARSE=1 KERNEL=<suite or path> TESTS=<folder of guest tests>
# KERNEL_MODULES=<name,...> PACKAGES=<Debian package,...> OUTPUT=<format>[=<path>],...

VENV := build/venv
PYTHON := $(VENV)/bin/python
SOURCES := device examples guest host_harness tests pip_build
# For targets that need no set-up: the virtual environment's Python, else the system's.
ANY_PYTHON = $(if $(wildcard $(PYTHON)),$(PYTHON),python3)
NEED_PYTHON = $(ANY_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "error: $(ANY_PYTHON) is not there, or older than 3.11" >&2; \
	echo "  next: install Python 3.11 or newer as python3" >&2; exit 3; }
ARGS ?=

ATTACH ?=
TESTS ?=

export FAULT ACCEL SEED ORDER ENDPOINT MODULE DRIVER REHEARSE IOMMU HOTPLUG KERNEL PROFILE COHERENT PLACE BOOT APPEND STATE \
	KERNEL_MODULES PACKAGES DEADLINE VMS OUTPUT KEEP GDB QEMU

# An unknown variable is an error. Otherwise FAULTS=x would run without a fault.
VARIABLES := ACCEL APPEND ARGS ATTACH BOOT CLIENT COHERENT DEADLINE DMA_REHEARSAL_BUILD \
	DMA_REHEARSAL_CACHE DRIVER ENDPOINT FAULT GDB HOTPLUG IOMMU JOBS KEEP KERNEL KERNEL_MODULES LIBVFIO_USER LOAD MODULE N ORDER OUTPUT PACKAGES \
	PLACE PROFILE PYTHON QEMU REHEARSE \
	SECONDS SEED STATE TARGET TESTS VENV VM VMS \
	PATH PYTHONPATH PYTEST_ADDOPTS SHELL TMPDIR XDG_CACHE_HOME XDG_RUNTIME_DIR
UNKNOWN := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword \
	$(origin $(name)))),$(filter-out $(VARIABLES) MAKE% -%,$(name)))))
ifneq (,$(UNKNOWN))
ALIKE := $(filter $(foreach name,$(UNKNOWN),$(name:S=) $(name)S),$(VARIABLES))
$(error nothing reads $(UNKNOWN)=; next: $(if $(ALIKE),write $(ALIKE)=,make help lists what there is))
endif

.DEFAULT_GOAL := help
.PHONY: help setup test-vm rehearse watch test-order diff shell soak doctor test test-all test-matrix lint units fuzz flood bench interop \
	museum faults docs dist lock mutants clean clean-cache

help: ## list the targets, and the options of a run
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24
	@sed -nE '3,/^$$/s/^# ?/  /p' Makefile

setup:
	@host_harness/environment/bootstrap.sh $(VENV)

test-vm: setup ## boot the guest, run the DMA checks, print the table
	@$(PYTHON) -m dma_rehearsal.host_harness test $(if $(TESTS),--tests $(TESTS)) $(ARGS)

rehearse: setup ## run each test of MODULE's or DRIVER's (TESTS, ENDPOINT) under every condition; one report
	@$(PYTHON) -m dma_rehearsal.host_harness rehearse $(if $(TESTS),--tests $(TESTS)) $(ARGS)

watch: setup ## rerun the selected checks when a file of guest/, TESTS, MODULE, PROFILE or ENDPOINT changes; ARGS="-k alignment"
	@$(PYTHON) -m dma_rehearsal.host_harness watch $(if $(TESTS),--tests $(TESTS)) $(ARGS)

test-order: setup ## N=10: compare the verdicts of two orders, and of N tests that run alone
	@$(PYTHON) -m dma_rehearsal.host_harness order --sample $(or $(N),10) $(if $(TESTS),--tests $(TESTS)) $(ARGS)

diff: setup ## print what changed between two runs of build/runs; ARGS="RUN latest"
	@$(PYTHON) -m dma_rehearsal.host_harness diff $(ARGS)

shell: setup ## open a login shell in the guest; ATTACH=<run folder> opens one more in a running VM
	@$(PYTHON) -m dma_rehearsal.host_harness shell $(if $(ATTACH),--attach $(ATTACH))

doctor: ## report what this machine has and lacks for a run; changes nothing
	@$(NEED_PYTHON)
	@$(ANY_PYTHON) -m dma_rehearsal.host_harness.cli.doctor

test: setup ## lint, units, and a whole VM of each kind; about 10 minutes on two cores; ARGS="-k alignment"
	@$(PYTHON) -m dma_rehearsal.host_harness environment
	@$(PYTHON) -m tests.stages test $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

test-all: setup ## make test and all that it leaves out: each VM and example, the matrix, orders, fuzzing, docs
	@$(PYTHON) -m dma_rehearsal.host_harness environment
	@$(PYTHON) -m tests.stages test-all $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

lint: setup
	@$(VENV)/bin/ruff format --check $(SOURCES) docs/*.py
	@$(VENV)/bin/ruff check $(SOURCES) docs/*.py
	@$(VENV)/bin/mypy -p dma_rehearsal -p tests -p pip_build -m examples.checksum.checksum_device -m examples.timer -m examples.nvme.controller -m examples.virtio_blk.blk_device \
		-m examples.own_driver.mirror_device
	@$(VENV)/bin/lint-imports --no-cache --no-logo >build/lint-imports.log || { \
		cat build/lint-imports.log >&2; exit 1; }

units: setup ## the tests that boot no VM
	@$(PYTHON) -m pytest -q -m "not vm and not matrix" -n $(or $(JOBS),auto) --dist worksteal $(ARGS)

test-matrix: setup ## every profile, coherent and not, IOMMU and not, several VMs at a time; ARGS="-k isa-24"
	@$(PYTHON) -m dma_rehearsal.host_harness environment
	@$(PYTHON) -m tests.stages test-matrix $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

fuzz: setup ## SECONDS=600 TARGET=any_commands: hostile input, guided by coverage; corpus in build/fuzz
	@$(PYTHON) -m tests.fuzz.fuzzer $(or $(TARGET),all) $(or $(SECONDS),60)

flood: setup ## SECONDS=600: flood the device process with messages, and watch its memory
	@$(PYTHON) -m tests.fuzz.flood $(or $(SECONDS),600)

bench: setup ## measure speed, as ratios side by side; ARGS="--guest" with a VM, ARGS=--list; LIBVFIO_USER=<its sources>
	@LIBVFIO_USER="$(LIBVFIO_USER)" $(PYTHON) -m tests.bench $(ARGS)

interop: setup ## CLIENT=<path>: run libvfio-user's sample client against our timer device
	@$(PYTHON) -m tests.interop $(CLIENT)

soak: setup ## run the checks N=50 times in a row beside LOAD=2 busy processes
	@$(PYTHON) -m dma_rehearsal.host_harness soak --count $(or $(N),50) --load $(or $(LOAD),2) $(ARGS)

mutants: setup ## N=300 SEED=1 SECONDS=3600 VM=1: change one place of the code at a time; see if tests notice
	@$(PYTHON) -m tests.mutants --count $(or $(N),300) --seed $(or $(SEED),1) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(VM),--vm) $(ARGS)

museum: setup ## run the museum of DMA mistakes, and print its table; ARGS="wrong_direction --runs build/museum"
	@$(PYTHON) -m examples.museum $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

faults: setup ## list the named faults: name, status, description
	@$(PYTHON) -m dma_rehearsal.host_harness faults

docs: setup ## build the documentation into build/site; check its links, commands and examples
	@$(PYTHON) -m sphinx -W --keep-going -q -b html docs build/site
	@$(PYTHON) -m pytest -q tests/unit/docs
	@echo "build/site/index.html"

dist: setup ## build the wheel and the source archive in build/dist, and check them
	@rm -rf build/dist
	@$(PYTHON) -m build --no-isolation --outdir build/dist .
	@$(PYTHON) -m twine check --strict build/dist/*

lock: ## resolve requirements.lock again from pyproject.toml
	uv pip compile -q --universal --generate-hashes --no-header --no-annotate --extra dev --extra docs \
		pyproject.toml -o requirements.lock

clean: ## remove build/
	rm -rf build

clean-cache: ## remove QEMU, guest images and saved states from the cache, except those that a run uses
	@$(NEED_PYTHON)
	@$(ANY_PYTHON) -m dma_rehearsal.host_harness.cli.doctor clean-cache
