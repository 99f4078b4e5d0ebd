"""The lake's tables by name, in a Hive metastore that processes use one after the other."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.builders.commands import Done, as_settings, environment, run_job
from tests.builders.reading import relation, versions

pytestmark = [pytest.mark.e2e, pytest.mark.long]

READ = """
import sys
import learn_spark as ls

spark = ls.session(dict(each.split("=", 1) for each in sys.argv[1:]))
lake = ls.open_lake(spark, catalog="shop")
shown = spark.table("shop.current_user_features").drop("until")
expected = lake.table("user_features")
assert shown.count() == expected.count() > 0 == shown.exceptAll(expected).count()
"""


def test_other_processes_find_them(finished: Path, tmp_path: Path) -> None:
    derby = f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true"
    conf = {"spark.sql.catalogImplementation": "hive", "spark.hadoop.javax.jdo.option.ConnectionURL": derby}
    listed = ", ".join(f"{key}: '{value}'" for key, value in conf.items())
    settings = as_settings("lake.catalog=shop", f"spark.conf={{{listed}}}")
    before = versions(finished / "lake")

    def command(*arguments: str) -> Done:
        return run_job(finished, *arguments, *settings)

    named = command("run_pipeline")
    assert named.code == 99, named.err[-3000:]
    joining = ("join_features", "--samples", "table:shop.samples", "--out", "table:shop.joined")
    joined = command(*joining)
    assert joined.code == 0, joined.err[-3000:]
    again = command(*joining)
    assert again.code == 2
    assert "joined" in again.err and "Traceback" not in again.err
    (samples,) = relation(finished / "lake", "samples").count("*").fetchall()
    assert duckdb.sql(f"SELECT count(*) FROM '{finished}/lake/_warehouse/joined/*.parquet'").fetchall() == [samples]
    told = [f"{key}={value}" for key, value in conf.items()]
    subprocess.run([sys.executable, "-c", READ, *told], env=environment(), cwd=tmp_path, check=True)
    assert versions(finished / "lake") == before
