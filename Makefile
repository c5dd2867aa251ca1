# Two commands set everything up on a fresh machine:
#     make demo     train a tokenizer, pretrain, tune on instructions, answer; writes runs/demo/report.md
#     make test     the default test suite
# PYTHON= chooses the interpreter (3.11 or newer), VENV= the folder of the environment.

PYTHON ?= python3
VENV ?= .venv
IN = $(VENV)/bin/python

.PHONY: demo test clean

demo: $(VENV)/zhiling-demo
	$(IN) -m train.demo

test: $(VENV)/zhiling-test
	$(IN) -m ruff check .
	$(IN) -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: zhiling needs Python 3.11 or newer; give one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp file for each set of packages: installed anew only when setup.py changes.
$(VENV)/zhiling-demo: setup.py | $(VENV)/bin/python
	$(IN) -m pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/zhiling-test: setup.py | $(VENV)/bin/python
	$(IN) -m pip install --quiet --editable '.[plot,test]'
	touch $@
