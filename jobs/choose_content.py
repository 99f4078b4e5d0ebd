"""spark-submit jobs/choose_content.py --config conf/demo.yaml"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("choose_content"))
