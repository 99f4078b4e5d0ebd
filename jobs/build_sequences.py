"""spark-submit jobs/build_sequences.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("build_sequences"))
