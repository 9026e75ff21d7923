# Two commands are enough: `make demo` and `make test`. As root on Debian 12 they install what
# they need; without root they say which packages are missing.

# Debian's Python, whatever else is first in PATH: a demo on another one would prove little.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
GUEST ?= trixie
# At the same time: these tests wait most of their time, for a picture or its absence.
E2E ?= 3
UNIT ?= 2
# Parts of an agent of commands: they start many processes, and come with the whole ones.
COMMANDS := tests/agent/qrexec tests/agent/terminal
SMALL := $(COMMANDS:%=--ignore %) tests/sessiond tests/agent tests/bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit parts e2e test-commands test-codecs test-screens fuzz bench \
    bench-check deb images test-debian test-deb test-system test-vm docs constraints clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: packages-base $(VENV)/.done ## Debian packages and the virtual environment

packages-%:
	@tests/setup/packages.sh $*

# --clear: what an interrupted run left behind is not trusted.
$(VENV)/.done: pyproject.toml constraints.txt | packages-base
	$(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --use-pep517 \
	    --disable-pip-version-check --editable '.[test,lint,fuzz]'
	touch $@

demo: setup ## the main job on an embedded example; leaves pictures in demo/ (KEEP=1: stays up)
	$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

test: lint unit parts e2e ## everything that needs neither a container nor a guest

lint: setup ## style, types, import contract, data directories
	$(PYTEST) -q tests/lint

# Which of the two a test is in, its marker says; tests/unit.py sees to that.
unit: setup ## what starts no program and waits for nothing: half a minute
	$(PYTEST) -q -n $(UNIT) --dist loadfile -p tests.unit -m 'not parts' $(SMALL)

parts: setup ## the parts beside real programs: X servers, message buses, each other
	$(PYTEST) -q -n $(UNIT) --dist loadfile -m parts $(SMALL)

e2e: setup ## agent and daemon between real X servers and a real SPICE host and client
	$(PYTEST) -q -n $(E2E) --dist loadfile tests/host tests/stream tests/daemon

test-commands: setup ## agents of commands, in parts and whole: hundreds at once; terminals
	$(PYTEST) -q -n $(E2E) --dist loadfile tests/commands tests/terminals $(COMMANDS)

test-codecs: setup ## video codecs, from an X server to a real SPICE client's decoders
	$(PYTEST) -q -n $(E2E) --dist load tests/codecs

test-screens: setup packages-screens ## Wayland compositors and a graphics card, to a real SPICE client
	$(PYTEST) -q -n $(E2E) --dist loadfile tests/screens

fuzz: setup ## any bytes at all for the decoders of what strangers send (FUZZ="qga --runs 100000")
	$(BIN)/python -m tests.fuzz $(FUZZ)

bench: setup packages-bench packages-screens ## speed and memory beside floor and goals (BENCH=--short, PEER=PROGRAM)
	$(BIN)/python -m tests.bench $(BENCH) $(if $(PEER),--peer '$(PEER)')

bench-check: setup packages-bench ## has a cost grown by a fifth? (CHECK=--keep: this is the measure now)
	$(BIN)/python -m tests.bench.check $(CHECK)

test-debian: packages-base packages-debian ## unit and parts on Debian's own Python packages
	/usr/bin/python3 -m pytest -q -n $(UNIT) --dist loadfile --hypothesis-profile thorough \
	    tests/sessiond tests/agent

deb: packages-deb ## the Debian package, for Debian 12 and 13: dist/spice-sessiond_VERSION_all.deb
	packaging/deb.sh build/deb
	mkdir -p dist
	rm -f dist/spice-sessiond_*_all.deb
	cp build/deb/*.deb dist/

test-deb: setup packages-debian packages-deb ## the Debian package and pip's: built, installed, removed
	$(PYTEST) -q tests/packaging

images: setup packages-system packages-vm ## what the next two boot, into the cache: minutes, and once
	$(BIN)/python -m tests.system.root
	GUEST=trixie $(BIN)/python -m tests.vm.image
	GUEST=bookworm $(BIN)/python -m tests.vm.image

test-system: setup packages-system ## a real logind with real sessions on real VTs, in a container
	$(PYTEST) -q tests/system

test-vm: setup packages-vm deb ## a whole guest with a real virtio port (GUEST=trixie or bookworm)
	GUEST=$(GUEST) $(PYTEST) -q tests/vm

docs: setup ## the D-Bus reference, from the contract; the configuration's example, from its keys
	$(BIN)/python -m tests.lint.dbus_reference
	$(BIN)/python -m tests.lint.example_config

constraints: ## the newest versions into constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --editable '.[test,lint,fuzz]' setuptools
	sed -i '/==/d' constraints.txt
	$(BIN)/pip freeze --all --exclude-editable --exclude pip >> constraints.txt

clean: ## all that was built here
	rm -rf $(VENV) build dist demo *.egg-info tests/bench/build tests/host/build
