"""A publishing process that is really killed after staging its rows and before writing the release's row."""

import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from learn_spark.features.job import write_features
from learn_spark.lake.days import DayRange
from learn_spark.lake.schemas import TABLES
from learn_spark.releases.registry import find_release, releases, rows_of
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.runs.steps import Context
from tests.builders.commands import ROOT, kill_process
from tests.builders.lake import feature_lake, tiny_context

pytestmark = [pytest.mark.spark, pytest.mark.e2e]
CONF = ROOT / "conf" / "test.yaml"
WINDOWS = [
    *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
    *("windows.ranker_train_end=2011-11-23", "windows.end=2011-11-25"),
]
PUBLISHER = """
import sys
from datetime import date
from learn_spark.config.load import load_config
from learn_spark.lake.session import build_session
from learn_spark.features.job import write_features
from tests.builders.lake import tiny_context

config = load_config(sys.argv[1], sys.argv[2].split())
spark = build_session(config, "publisher")
context = tiny_context(spark, config)
print(write_features(context, [date.fromisoformat(day) for day in sys.argv[3:]]).details["release_id"])
"""


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Context:
    return feature_lake(spark, tmp_path, settings(tmp_path))


def settings(folder: Path) -> list[str]:
    return [*WINDOWS, f"lake.root={folder}/lake", f"output.dir={folder}/output", "spark.driver_memory=1g"]


def shown(lake: Context) -> dict[str, list[str]]:
    """What readers of the current release see."""
    release = find_release(lake.tables)
    return {name: sorted(map(str, rows_of(lake.tables, release, name).collect())) for name in FEATURE_TABLES}


def test_the_old_release_stays_until_the_same_days_are_published(lake: Context, tmp_path: Path) -> None:
    windows = lake.config.windows
    days = list(DayRange(windows.towers_end, windows.end + timedelta(days=1)))
    old = write_features(lake, days[:2]).details["release_id"]
    before, staged = shown(lake), lake.tables.version("pair_features") + 1
    command = [sys.executable, "-c", PUBLISHER, str(CONF), " ".join(settings(tmp_path)), *map(str, days[2:])]
    kill_process(tmp_path, command, when=f"lake/pair_features/_delta_log/{staged:020d}.json", seconds=900)

    ids = {row.release_id for row in lake.tables.read("user_features").select("release_id").distinct().collect()}
    (orphan,) = ids - {old}  # staged under the new release's id, which no row of `releases` has
    assert lake.tables.read("pair_features").where(f"release_id = '{orphan}'").count() > 0
    assert [release.release_id for release in releases(lake.tables)] == [old]
    assert shown(lake) == before

    assert write_features(tiny_context(lake.spark, lake.config), days[2:]).details["release_id"] == orphan
    assert find_release(lake.tables).release_id == orphan
    assert {release.status for release in releases(lake.tables)} == {"published"}
    after = shown(lake)
    for name, rows in before.items():
        assert set(rows) < set(after[name]), f"{name}: a release takes over the days of the one before it"
    keys = [tuple(row) for row in lake.tables.read("pair_features").select("user_id", "item_id", "event_ts").collect()]
    assert len(keys) == len(set(keys)), "what the killed process staged is written again, not beside it"
    for name in FEATURE_TABLES:
        files = DeltaTable(lake.tables.path(name)).file_uris()
        found = duckdb.sql(f"SELECT * FROM read_parquet({files}, hive_partitioning = true)")
        assert set(found.columns) == set(TABLES[name].names)
        assert len(found.fetchall()) == lake.tables.read(name).count()
