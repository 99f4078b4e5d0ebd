"""spark-submit jobs/audit_join.py --config conf/demo.yaml --joined J"""

from learn_spark.cli.main import main_of

raise SystemExit(main_of("audit_join"))
