# Each target first makes .venv, where it is missing or older than pyproject.toml or constraints.txt.
# pip alone decides where packages come from, so its configuration also chooses between CPU and CUDA builds of torch.
PYTHON ?= python3
READY := .venv/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: sample test lint clean

# Sixteen small networks for CIFAR-100, with pictures, and the first of them built.
sample: $(READY)
	.venv/bin/archgen sample nasbench201 --n 16 --seed 0 --where "params_m <= 0.4 and depth >= 2" \
		--maximize cifar100_test --out out/sample.jsonl --draw out/pictures
	head -n 1 out/sample.jsonl > out/first.json
	.venv/bin/archgen build out/first.json --draw out/first.png

test: $(READY)
	.venv/bin/pytest -q -n 2

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist archgen.egg-info
	rm -rf out/sample.jsonl out/first.json out/first.png out/pictures

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "archgen needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo missing);" \
			"name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt -e .[dev]
	@touch $@
