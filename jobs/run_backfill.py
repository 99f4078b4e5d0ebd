"""spark-submit jobs/run_backfill.py --config conf/demo.yaml --start 2011-12-01 --end 2011-12-10"""

import sys
from collections.abc import Sequence

from learn_spark.cli.main import run_from_job_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; `--help` says what it reads, writes and returns."""
    return run_from_job_file("run_backfill", argv)


if __name__ == "__main__":
    sys.exit(main())
