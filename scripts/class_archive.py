"""Makes the archive of classes that JVMs map when they start (learn_spark/lake/class_archive.py).

A session does for three days of the shipped logs what nights do, and its JVM writes what it has loaded when it ends.
Where that cannot be done, everything starts as before, some seconds slower.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from pyspark import SparkContext

from learn_spark.config.load import Config, load_config
from learn_spark.lake import class_archive
from learn_spark.lake.arrow_rows import ArrowRows, Batches
from learn_spark.lake.days import DayRange
from learn_spark.lake.schemas import USER_HISTORY
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.plan import Plan, Planned
from learn_spark.runs.progress import Progress
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import INGEST_EVENTS, Context

CONF = Path(__file__).resolve().parents[1] / "conf" / "test.yaml"
SECONDS = 120  # for the JVM to write 180 MB
DAYS = DayRange(date(2011, 11, 22), date(2011, 11, 25))


def main() -> None:
    """Runs the session and waits for its JVM."""
    shutil.rmtree(class_archive.FOLDER, ignore_errors=True)
    class_archive.EMPTY.mkdir(parents=True)
    class_archive.JAVA_HOME.write_text(os.environ["JAVA_HOME"], encoding="utf-8")
    with TemporaryDirectory() as folder:
        config = load_config(CONF, [f"lake.root={folder}/lake", f"output.dir={folder}"])
        as_conf = class_archive.with_archive(config.spark.conf, "ArchiveClassesAtExit")
        spark = config.spark.model_copy(update={"conf": as_conf})
        with class_archive.without_conf():
            _work(config.model_copy(update={"spark": spark}))
    if not class_archive.ARCHIVE.is_file():
        sys.exit("Java wrote no archive")


def _work(config: Config) -> None:
    spark = build_session(config, "class archive")
    process = SparkContext._gateway.proc  # pyright: ignore[reportOptionalMemberAccess]
    tables = Tables(spark, config.lake.root)
    tables.create_all()
    ledger = Ledger(spark, tables)
    with Progress(spark) as progress:
        context = Context(config, spark, tables, ledger, Fingerprints(config, STEPS, ledger.recorded), progress)
        run_plan(Plan([Planned(STEPS[INGEST_EVENTS], list(DAYS))]), context, RunOptions())
    lists = {"item_idx": "array(item_idx)", "event_ts": "array(1L)", "event_types": "array(1Y)"}
    columns = ("user_id", "ds", *(f"{values} AS {name}" for name, values in lists.items()))
    rows = ArrowRows(tables.read("interactions").selectExpr(*columns), _same, USER_HISTORY.columns_ddl)
    tables.append("user_history", rows)
    tables.update("interactions", "user_id = '17850'", {"value": "1.0"})
    tables.delete("interactions", "user_id = '17850'")
    tables.delete_matching("interactions", spark.sql("SELECT '13047' AS user_id"), "ds IS NOT NULL")
    tables.compact("interactions")
    spark.stop()
    process.stdin.close()  # ends it
    process.wait(SECONDS)


def _same(batches: Batches) -> Iterator[pa.RecordBatch]:
    yield from batches


if __name__ == "__main__":
    main()
