"""spark-submit jobs/maintain_tables.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("maintain_tables"))
