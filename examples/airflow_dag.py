"""Airflow: every night the day that ended; `airflow dags backfill learn_spark -s … -e …` for a range.

Needs Airflow 2.6 or later, and learn-spark's environment on the workers (or replace `COMMAND` by a spark-submit).
"""

import subprocess
from datetime import UTC, datetime, timedelta

from airflow.decorators import dag, task
from airflow.exceptions import AirflowFailException, AirflowSkipException

COMMAND = (
    "learn-spark run_backfill --config /etc/learn-spark/shop.yaml --start {start} --end {end} --json-out {summary}"
)
NOTHING_TO_DO, DO_NOT_RETRY = 99, {2: "wrong config, argument or input", 3: "stopped by a quality gate"}


@dag(
    schedule="30 1 * * *",
    start_date=datetime(2024, 10, 1, tzinfo=UTC),
    catchup=True,
    max_active_runs=1,  # one driver a lake: a second one would exit 75
    default_args={"retries": 5, "retry_delay": timedelta(minutes=10)},
)
def learn_spark() -> None:
    @task
    def run_backfill(data_interval_start: datetime, data_interval_end: datetime) -> None:
        start, end = data_interval_start.date(), data_interval_end.date()
        command = COMMAND.format(start=start, end=end, summary=f"/var/log/learn-spark/{start}.json")
        code = subprocess.run(command.split(), check=False).returncode
        if code == NOTHING_TO_DO:
            raise AirflowSkipException(f"the ledger has {start} already")
        if code in DO_NOT_RETRY:
            raise AirflowFailException(DO_NOT_RETRY[code])
        if code:
            raise RuntimeError(f"exit code {code}: Airflow tries again")

    run_backfill()


learn_spark()
