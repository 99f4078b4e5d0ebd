"""spark-submit jobs/compare_towers.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("compare_towers"))
