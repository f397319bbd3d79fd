# Every target sets up what it needs in .venv from Python >= 3.11, pip, a C++20 compiler and the package registries.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := $(shell find native tests/native -name "*.cpp" -o -name "*.h" -o -name "*.inc")
# Tests that share fixtures stay together, and a worker without work takes over some of another's.
ON_ALL_CORES := -n logical --dist worksteal

.PHONY: demo test test-native lint format bench tables peers native stub sanitize fuzz interrupt oldest lock aarch64 wheel clean

# Where everything is installed already, with that; otherwise with what it needs, while the kernels are compiled.
demo:
	@test -e $(VENV)/ready || echo "setting up $(VENV): packages, and beside them the kernels; a few minutes"
	@$(MAKE) --no-print-directory -j2 $(if $(wildcard $(VENV)/ready),$(VENV)/ready,$(VENV)/demo-packages $(VENV)/demo-native)
	$(BIN)/cutwork run recipes/demo.yaml

test: $(VENV)/ready lint
	$(BIN)/pytest $(ON_ALL_CORES)

test-native: $(VENV)/ready
	$(BIN)/pytest $(ON_ALL_CORES) tests/native --ignore tests/native/test_portable.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.engine.kernels

tables: $(VENV)/ready
	$(BIN)/python -m benchmarks.tables

peers: $(VENV)/ready
	$(BIN)/python -m benchmarks.peers --output build/peers/results.json

native: $(VENV)/ready

stub: $(VENV)/ready
	$(BIN)/python -m nanobind.stubgen -q -m cutwork._native -o src/cutwork/_native.pyi

sanitize: $(VENV)/ready
	sh tests/native/sanitize.sh $(BIN) -m pytest -p no:cacheprovider tests/native $(ON_ALL_CORES) --ignore tests/native/test_portable.py

# Damaged model files with the installed module and under sanitizers, and random requests; what it finds has a seed.
SECONDS ?= 60
fuzz: $(VENV)/ready
	rm -rf build/fuzz  # whole models, as an older packer made them
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)
	sh tests/native/sanitize.sh $(BIN) -m tests.fuzz --seconds $(SECONDS)
	$(BIN)/python -m benchmarks.serving.fuzz  # needs schemathesis; so many requests, whatever SECONDS says

# The commands that write: killed, twice at once and on full disks; by hand, as it takes a quarter of an hour.
interrupt: $(VENV)/ready
	$(BIN)/python -m tests.interrupted kills --count 500
	$(BIN)/python -m tests.interrupted pairs --count 60
	$(BIN)/python -m tests.interrupted disks --count 60

# The quick tests with the lowest versions of what the engine and the server need that pyproject.toml allows.
OLDEST := build/oldest/bin
oldest: build/oldest/ready
	$(OLDEST)/pip install --quiet --no-deps --force-reinstall .
	$(OLDEST)/python -m pytest -p no:cacheprovider -m "not slow" tests/pack tests/engine tests/serve

build/oldest/ready: pyproject.toml
	test -x $(OLDEST)/python || $(PYTHON) -m venv build/oldest
	$(OLDEST)/pip install --quiet uv
	$(OLDEST)/uv pip compile --quiet --resolution lowest-direct --extra serve --extra speech pyproject.toml -o build/oldest/packages.txt
	$(OLDEST)/pip install --quiet pytest hypothesis torch -r build/oldest/packages.txt
	touch $@

# Every version and its hashes: of the image, of what builds it, and of a development environment (make LOCKED=1), which
# leaves out torch and what comes with it, as that depends on the machine.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate
lock: $(VENV)/ready
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml --extra serve --extra speech --python-version 3.12 -o deploy/requirements.lock
	printf 'scikit-build-core\nnanobind\ncmake\nninja\n' | $(COMPILE) - --python-version 3.12 -o deploy/build.lock
	echo "torch; sys_platform == 'none'" > build/no-torch.txt
	$(COMPILE) pyproject.toml --all-extras --overrides build/no-torch.txt --no-emit-package torch -o deploy/development.lock

# 64-bit ARM under qemu: Cortex-A72, Neoverse N1 and V1, and qemu's `max`.
aarch64: $(VENV)/ready
	sh tests/native/aarch64.sh $(BIN)

# This platform's wheel, in dist/, and what a user without a compiler and torch does with it; PYTHON=python3.12 or newer
# makes the one of the stable ABI.
wheel:
	sh tests/wheel.sh $(PYTHON)

clean:
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache

# Dependencies of pyproject.toml, with those of extras, or of all of them.
REQUIREMENTS = import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; e = p["optional-dependencies"]; print("\n".join(p["dependencies"] + sum((e[n] for n in sys.argv[1:] or e), [])))
EDITABLE = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
# PyPI's torch for Linux comes with gigabytes for GPUs; PyTorch's own index has one without. Else PyPI's will do.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

$(VENV)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cutwork needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/packages: pyproject.toml $(VENV)/pip
	$(BIN)/python -c '$(REQUIREMENTS)' > $(VENV)/requirements.txt
	$(if $(LOCKED),$(BIN)/pip install --no-deps --require-hashes -r deploy/development.lock --progress-bar on)
	$(BIN)/pip install -r $(VENV)/requirements.txt --progress-bar on
	touch $@

$(VENV)/ready: $(VENV)/packages CMakeLists.txt $(SOURCES)
	$(EDITABLE)
	touch $@

$(VENV)/demo-packages: pyproject.toml $(VENV)/build-tools
	-$(BIN)/pip install --quiet --no-deps --retries 0 --timeout 10 --index-url $(TORCH_INDEX) "torch>=2.6"
	$(BIN)/python -c '$(REQUIREMENTS)' demo > $(VENV)/demo.txt
	$(BIN)/pip install -r $(VENV)/demo.txt --progress-bar on
	touch $@

$(VENV)/build-tools: pyproject.toml $(VENV)/pip
	$(BIN)/pip install --quiet cmake ninja nanobind scikit-build-core
	touch $@

$(VENV)/demo-native: $(VENV)/build-tools CMakeLists.txt $(SOURCES)
	$(EDITABLE)
	touch $@
