# vch. `make run` shows a first container, `make test` is the gate; both set up what is missing.
SHELL := /bin/bash
# A failure before a pipe is a failure.
.SHELLFLAGS := -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup run check test test-matrix test-takeover test-vsphere test-files test-sockets test-shared test-floods test-leaks test-clients test-apps test-nested test-build builder-image ova test-ova bench lint format protos clean

setup: $(VENV)/.packages $(VENV)/.installed
	@$(BIN)/python build/guest/image.py --link $(VENV)/share/vch/guest >/dev/null

$(VENV)/.packages: build/packages.txt build/packages.sh
	@mkdir -p $(VENV)
	@build/packages.sh
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

run: setup
	@build/run.sh

# Lint, and the tests that need neither VMs nor VMware's simulator: under 90 s on two cores.
check: setup
	@$(BIN)/python -m tests.gate --check -q

test: setup lint
	@$(BIN)/python -m tests.gate

# The same live tests however machines begin; takes an hour, most of it where each of them boots.
test-matrix: setup
	@for flags in '--vm-template off' '--vm-pool 0' '--vm-pool 2'; do \
	    echo "== $$flags"; VCH_TEST_FLAGS="$$flags" $(BIN)/python -m pytest -q tests/live || exit 1; done

# This version takes over the state and the VMs of earlier ones.
test-takeover: setup
	@$(BIN)/python -m pytest -q tests/live/takeover

# Live tests of what does not depend on where machines run, on VMware's simulator with a stand-in host.
test-vsphere: setup
	@VCH_TEST_HYPERVISOR=vsphere $(BIN)/python -m pytest -q tests/live/test_exec.py tests/live/test_restart.py \
	    tests/live/test_networks.py tests/live/test_archive.py tests/live/test_health.py tests/live/test_pause.py \
	    tests/live/builds/test_machine.py

# System calls on each kind of file system of a container: what works, and what volume/README.md lists as refused.
test-files: setup
	@VCH_TEST_FILES=1 $(BIN)/python -m pytest -q tests/live/test_filesystem_calls.py

# Sockets of the host and of the API in a container: clients, load, floods, the life of a socket. Takes some minutes without KVM.
test-sockets: setup
	@VCH_TEST_SOCKETS=1 $(BIN)/python -m pytest -q tests/live/test_socket_mounts.py tests/live/sockets

# Containers that share a machine: what each sees of the others, and which of them may go first. Takes minutes without KVM.
test-shared: setup
	@VCH_TEST_SHARED=1 $(BIN)/python -m pytest -q tests/live/test_pods.py tests/live/test_shared_machines.py \
	    tests/live/vsphere/test_shared_machines.py

# A guest that floods the port of its tether, or its console, beside a container that works. Takes some minutes without KVM.
test-floods: setup
	@VCH_TEST_FLOODS=1 $(BIN)/python -m pytest -q tests/live/test_floods.py

# The image of the builder, for hosts that cannot pull it; prints the archive for `docker load`. It needs Go, and the rights of root.
builder-image: setup
	@$(BIN)/python -m build.builder.image

# Two hundred starts and removals: no descriptor, file, process or memory of theirs is left. It counts the host's shared memory: run it alone.
test-leaks: setup
	@VCH_TEST_LEAKS=1 $(BIN)/python -m pytest -q tests/live/test_leaks.py

# The appliance, as root; prints where it is. OVA="--out FILE" copies it, "--sign-key KEY --sign-cert CERT" signs it.
ova: setup
	@$(BIN)/python -m build.ova.image $(OVA)

# It boots by BIOS and by UEFI, and runs a container on VMware's simulator with a stand-in host.
test-ova: setup
	@VCH_TEST_OVA=1 $(BIN)/python -m pytest -q tests/live/vsphere/test_ova.py

# Client tools and libraries of Java, Node, Go and Rust against a vchd; the first run downloads and builds them.
test-clients: setup
	@VCH_TEST_CLIENTS=1 $(BIN)/python -m pytest -q tests/clients tests/live/test_docker_py_suite.py

# Ten programs that people run, each in an image of Debian's packages: start, work, kill, start, stop.
test-apps: setup
	@$(BIN)/python -m pytest -q tests/apps

# Whole systems inside a container: Docker, containerd, podman and systemd of Debian; the first run makes their images.
test-nested: setup
	@VCH_TEST_NESTED=1 $(BIN)/python -m pytest -q tests/live/nested

# Builds: Dockerfiles of all kinds by buildx and by the classic API; most of them in a BuildKit that runs natively.
test-build: setup
	@VCH_TEST_BUILD=1 $(BIN)/python -m pytest -q tests/live/builds

bench: setup
	@$(BIN)/python -m tests.bench

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q . || { echo 'run `make format`'; exit 1; }
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --no-cache | tail -4
	@$(BIN)/python -m build.checks

format: setup
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

protos: setup
	@$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. protos/*/v1/*.proto

clean:
	rm -rf $(VENV)
