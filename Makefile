.DEFAULT_GOAL := help
.PHONY: help setup tour demo check spark test long faults bench format package lock rows-unchanged clean distclean

# make SPARK=4.0 …: with Spark 4.0 and Petastorm in the main environment, as constraints-4.0.txt has them.
SPARK ?= 4.1
ENVIRONMENT := .venv$(if $(filter-out 4.1,$(SPARK)),-$(SPARK))
LOCK := constraints$(if $(filter-out 4.1,$(SPARK)),-$(SPARK)).txt
VENV := $(ENVIRONMENT)/bin
IN_VENV := PATH="$(CURDIR)/$(VENV):$$PATH" scripts/java.sh run
# Two workers, a file at a time in the order of tests/costs.py.
PYTEST := $(IN_VENV) python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

BENCH ?= ingest sequences increment embed embed_spark embed_changed loss towers evaluate stream loader write join score night

# Another Spark or Python that the shell points at must not mix with the one in .venv.
unexport SPARK_HOME SPARK_CONF_DIR PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Every process would compile the project's own code anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## make .venv from constraints.txt and find or install Java (the targets below do so by themselves)
	@scripts/setup.sh $(ENVIRONMENT) $(LOCK)

tour: setup ## run the whole journey on two weeks of the logs, for a first look
	@$(IN_VENV) learn-spark run_pipeline --config conf/tour.yaml $(ARGS) || { rc=$$?; [ $$rc -eq 99 ] || exit $$rc; }

demo: setup ## run the whole journey on data/online_retail and print the headline figures (ARGS="--set lake.root=s3a://…")
	@$(IN_VENV) learn-spark run_pipeline --config conf/demo.yaml $(ARGS) || { rc=$$?; [ $$rc -eq 99 ] || exit $$rc; }

check: setup ## after every edit, two minutes: style, format, types, import rules, the tests without processes and Spark
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/basedpyright --level error -p pyproject.toml
	@$(PYTEST) -m "not (process or spark or e2e)"

spark: setup ## run the tests of the Spark side
	@$(PYTEST) -m "not long" tests/spark

test: setup ## run the tests, and record in build/tests/durations.txt what each file and test takes
	@$(PYTEST) -m "not long" --durations 10 --record-durations=build/tests/durations.txt

long: setup ## run the tests that `make test` leaves out: variants and faults that take long, clusters, both engines, public protocols, older lakes
	@$(PYTEST) -m long --durations 10 --record-durations=build/tests/long-durations.txt

faults: setup ## break lakes on purpose, for an hour or two: kills between all commits, files that are lost, and what it takes to come back
	@$(PYTEST) --hypothesis-profile default --durations 10 --record-durations=build/tests/faults-durations.txt tests/faults tests/spark/test_ingest_fuzz.py

bench: setup ## measure against peers and floors, one by name: make bench BENCH=sequences (ARGS=--quick: small)
	@for name in $(BENCH); do $(IN_VENV) python -m benchmarks.$$name $(ARGS) || exit $$?; done

format: setup ## format the code and mend what ruff can mend
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

package: setup ## build the wheel and learn_spark.zip for spark-submit --py-files, in build/dist
	@rm -rf build/dist build/setuptools
	@$(VENV)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w build/dist .
	@cp build/dist/learn_spark-*.whl build/dist/learn_spark.zip
	@ls build/dist/*

lock: ## resolve setup.py into the lock of SPARK (pins that fit are kept; all newest: make lock UPGRADE=1)
	@$(VENV)/uv pip compile setup.py $(if $(filter 4.0,$(SPARK)),--extra petastorm) --extra demo --extra bench --extra online --extra ann --extra llm --extra s3 --extra hdfs --extra test --universal --python-version 3.11 --quiet $(if $(UPGRADE),--upgrade) \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links -o $(LOCK)

rows-unchanged: setup ## record that changed code leaves rows as they are, or raised versions of steps: NOTE="why"
	@$(VENV)/python scripts/step_code.py record $(if $(NOTE),--note "$(NOTE)")

clean: ## remove build/ (tables, models, reports); .venv stays
	@rm -rf build

distclean: clean ## remove .venv and all caches too
	@rm -rf .venv .venv-* *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
