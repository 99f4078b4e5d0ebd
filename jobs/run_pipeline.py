"""spark-submit jobs/run_pipeline.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("run_pipeline"))
