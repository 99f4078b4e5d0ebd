"""spark-submit jobs/release.py list --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("release"))
