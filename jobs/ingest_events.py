"""spark-submit jobs/ingest_events.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("ingest_events"))
