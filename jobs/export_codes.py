"""spark-submit jobs/export_codes.py --config conf/demo.yaml --out O"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("export_codes"))
