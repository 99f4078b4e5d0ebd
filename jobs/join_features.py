"""spark-submit jobs/join_features.py --config conf/demo.yaml --samples S --out O"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("join_features"))
