# Everything a person runs from a checkout. Each target leaves a working .venv behind.

PYTHON ?= python3
PY := .venv/bin/python
export OMP_NUM_THREADS ?= 1

SECONDS ?= 60
TARGET ?=

.PHONY: install lint format test test-long fuzz test-caffe test-gpu bench demo pictures clean

install: .venv/installed

.venv/installed: pyproject.toml setup.py constraints.txt proto/caffe.proto
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: install
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

test: install
	$(PY) -m pytest -q -n 2

test-long: install
	$(PY) -m pytest -q -n 2 -m long

fuzz: install  # SECONDS=600 in all, TARGET=log only what has this in its name
	$(PY) -m tests.fuzz --seconds $(SECONDS) --target '$(TARGET)'

test-caffe: install
	$(PY) -m pytest -q -rs --override-ini addopts= --timeout 3600 tests/real_caffe

test-gpu: install  # golden layers, runs, resume, precision, compile on CUDA, and a table of speeds; fails where there is none
	$(PY) -c "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'test-gpu: NOTHING was tested: torch finds no CUDA device here')"
	$(PY) -m pytest -q --override-ini addopts=--import-mode=importlib --timeout 600 tests/gpu
	$(PY) benchmarks/training.py --device cuda --rounds 3 --seconds 1

bench: install  # docs/results.md, "Speed of training"; a quiet machine tells more
	$(PY) benchmarks/training.py --threads 1 2

demo: install
	rm -rf demo
	$(PY) -m pysolver data digits demo
	$(PY) -m pysolver tune --solver=examples/digits/solver.prototxt --out demo/tuned --epochs 30
	-@test -z "$$DISPLAY$$WAYLAND_DISPLAY" || $(PY) -m webbrowser file://$(CURDIR)/demo/tuned/report.html

pictures: demo  # those of the README; of both backends: python tests/real_caffe/backends.py docs/images/two_backends.png
	mkdir -p docs/images
	$(PY) -m pysolver plot_range_test demo/tuned/trials/range/ramp*/train.log -o docs/images/range_test.png
	$(PY) -m pysolver plot_log demo/tuned/trials/final/*run1/train.log --rates --log-y -o docs/images/one_cycle.png
	$(PY) -m pysolver schedule --solver=examples/mnist/lenet_1cycle_solver.prototxt --plot docs/images/schedule.png

clean:
	rm -rf .venv demo build *.egg-info pysolver/proto/caffe.desc pysolver/proto/caffe_pb2.pyi
