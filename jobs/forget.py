"""spark-submit jobs/forget.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("forget"))
