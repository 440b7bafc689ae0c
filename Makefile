# make demo, docs, test, campaign, lint, floor, clean. Everything is installed into .venv, and again when pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

# The demo's numbers, as in: make demo STUDENT=mlp:32x1
TEACHER ?= cnn:16-32
TEACHER_EPOCHS ?= 20
STUDENT ?= mlp:64x2
STUDENT_STEPS ?= 600
FRACTION ?= 0.1
SEEDS ?= 5
# How many processes run the tests.
JOBS ?= 2

.PHONY: demo docs test campaign lint floor format clean

# Three networks that saw all images teach one that sees a tenth of them, beside the same one without a teacher.
demo: $(STAMP)
	$(BIN)/understudy train digits --model "$(TEACHER)" --seeds 3 --epochs $(TEACHER_EPOCHS) --lr 0.005 --translate 1 --run runs/demo/teachers --overwrite
	$(BIN)/understudy distill digits --teacher runs/demo/teachers --student "$(STUDENT)" --fraction $(FRACTION) --translate 1 --seeds $(SEEDS) --steps $(STUDENT_STEPS) --batch-size 64 --lr 0.01 --run runs/demo --overwrite
	@echo
	@echo "The page: runs/demo/report.html. Next, the student as files that run without PyTorch:"
	@echo "  $(BIN)/understudy export runs/demo"
	@echo "and the same with photos of yours, a folder for each class:"
	@echo "  $(BIN)/understudy compress photos/ --backbone timm:efficientnet_lite0 --student timm:mobilenetv3_small_050 --budget 10m"

# The documentation site, build/site/index.html. A broken link is an error.
docs: $(STAMP)
	$(BIN)/python docs/_build/methods_table.py
	$(BIN)/python docs/_build/pages.py
	cd build && ../$(BIN)/zensical build --strict

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Every kill, bad input, hostile file and rank of tests/faults, with a table of what held.
campaign: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --campaign -n $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The tests with the oldest versions that pyproject.toml allows, in an environment of their own.
floor:
	$(PYTHON) tests/oldest_versions.py > .venv-floor.txt
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-floor.txt -e '.[test]'
	OMP_NUM_THREADS=1 .venv-floor/bin/python -m pytest -n $(JOBS) --dist loadfile

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-floor .venv-floor.txt runs/demo build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
