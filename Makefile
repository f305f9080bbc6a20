# make demo   set up, build, and compress the two shipped models
# make test   set up, build, lint, and run the tests
# make lint   ruff and pyright alone

PYTHON ?= python3
BIN := .venv/bin
LIBRARY := build/cpu/libaquatint_cpu.so
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) csrc/CMakeLists.txt

.PHONY: demo test lint setup clean

demo: setup
	PYTHONPATH=. $(BIN)/python -m aquatint demo

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pyright --level error

setup: .venv/ready $(LIBRARY)

# torch first and alone: the range keeps pip from the newest, which brings gigabytes of CUDA.
.venv/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(LIBRARY): .venv/ready $(SOURCES)
	$(BIN)/cmake -S csrc -B build/cpu -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/cpu --parallel

clean:
	rm -rf build/cpu .venv
