# Everything runs in .venv, which is made when it is missing or pyproject.toml changed.
PYTHON ?= python3.11
MODEL ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Test processes share few cores: one thread each, several processes.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test lint bench accept gpu clean

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[samples]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt plugins/napari/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable '.[samples,dicom,ray,server,baselines,train,test]'
	$(PIP) --constraint constraints.txt --editable 'plugins/napari[qt]'
	$(PIP) --constraint constraints.txt setuptools wheel
	# Meta's own SAM 2, the oracle of the parity tests, builds from source against the torch that is there.
	SAM2_BUILD_CUDA=0 $(PIP) --constraint constraints.txt --no-build-isolation sam2==1.1.0
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/volseg demo $(if $(MODEL),--model $(MODEL)) -o demo

test: $(VENV)/.test
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not accept and not gpu"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(THREADS) $(BIN)/python benchmarks/sam2.py

accept: $(VENV)/.test
	$(BIN)/python -m pytest -m accept

gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf $(VENV) build dist demo
