# make faces: train on rendered avatars of few parts for ten minutes and generate 64 ranked faces
# make test:  formatting, lint, types and the whole test suite
# make faces TORCH=cpu: the same with PyTorch's build for CPUs; TORCH=auto chooses by the machine

PYTHON ?= python3
PY := .venv/bin/python
TORCH ?=

.PHONY: faces test clean web-kernels

faces: .venv/installed
	$(PY) main.py train --name=faces --data-path=simple-avatars --overwrite --max-minutes=10 --save-every=1
	$(PY) main.py generate --name=faces --gen-num=64 --gen-search-num=2048 --gen-img=imgs/faces/best.png

test: .venv/tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy config.py models.py main.py commands gan facegan benchmarks
	$(PY) -m pytest

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; give make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
ifeq ($(TORCH),)
	@echo "Installing into .venv. On Linux that is 6 GB, 4 of them CUDA; make faces TORCH=cpu leaves CUDA out."
	$(PY) -m pip install -r requirements.txt
else
	$(PY) -m pip install uv
	.venv/bin/uv pip install --python $(PY) --torch-backend=$(TORCH) -r requirements.txt
endif
	touch $@

.venv/tools: requirements-dev.txt .venv/installed
	$(PY) -m pip install --quiet -r requirements-dev.txt
	touch $@

# the kernels of the page that draws faces; needs clang and wasm-ld, and only after a change
WEB := gan/templates/web
web-kernels:
	clang --target=wasm32 -O3 -msimd128 -nostdlib -fno-builtin -Wl,--no-entry -Wl,--strip-all \
		-Wl,--import-memory $(WEB)/kernels.c -o $(WEB)/kernels.wasm
	chmod 644 $(WEB)/kernels.wasm
	cd $(WEB) && sha256sum kernels.c kernels.wasm > kernels.sha256

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
