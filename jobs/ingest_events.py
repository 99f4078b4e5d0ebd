"""spark-submit jobs/ingest_events.py --config conf/demo.yaml"""

import sys
from collections.abc import Sequence

from learn_spark.cli.main import run_from_job_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; `--help` says what it reads, writes and returns."""
    return run_from_job_file("ingest_events", argv)


if __name__ == "__main__":
    sys.exit(main())
