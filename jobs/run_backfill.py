"""spark-submit jobs/run_backfill.py --config conf/demo.yaml --start 2011-12-01 --end 2011-12-10"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("run_backfill"))
