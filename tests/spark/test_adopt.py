"""An upgrade: one command takes over a lake with the tables and names of 0.1.0, which can then be used further.

Its tables are made by the SQL statements of 0.1.0 (tests/fixtures), and its days are recorded with the fingerprints of
0.1.0; rows and models are made by the current code.
"""

import json
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.config.load import Config, load_config
from learn_spark.errors import ConfigError
from learn_spark.features.job import write_features
from learn_spark.lake.schemas import INTERVALS, TABLES
from learn_spark.lake.tables import Tables
from learn_spark.pipeline import STEPS, as_plan, pipeline_days
from learn_spark.releases.join import join_features
from learn_spark.releases.lineage import shown
from learn_spark.releases.registry import CURRENT, find_release, releases
from learn_spark.runs.earlier import PACKAGE_VERSION
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Ledger
from learn_spark.runs.plan import Standing
from learn_spark.runs.progress import Progress
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import Context
from learn_spark.training.sequence_snapshots import sequences_fingerprint
from models.contract.result import write_result
from tests.builders.commands import CONFIG, ROOT, kill_process, run_here
from tests.builders.contexts import make_context
from tests.builders.lake import fill_tables, save_models

pytestmark = [pytest.mark.spark, pytest.mark.long]

STATEMENTS = ROOT / "tests" / "fixtures" / "lake_0_1_0" / "tables.sql"
ACCEPTED = ("--accept", "ingest_events")  # its version was raised for kinds of logs that do not occur here
KEPT = [name for name, step in STEPS.items() if step.version == 1 or name in ACCEPTED]
SETTINGS = [
    *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
    *("windows.ranker_train_end=2011-11-23", "windows.end=2011-11-25"),
    *("features.gates.min_users=1", "features.cold_events=3"),
]


def told(settings: list[str]) -> list[str]:
    """The settings as arguments of a command."""
    return [argument for setting in settings for argument in ("--set", setting)]


def config_of(folder: Path) -> Config:
    return load_config(CONFIG, [*SETTINGS, f"lake.root={folder}/lake", f"output.dir={folder}/output"])


@pytest.fixture(scope="module")
def old(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lake as 0.1.0 left it: two releases, the second one with the last day."""
    folder = tmp_path_factory.mktemp("old")
    config = config_of(folder)
    for statement in STATEMENTS.read_text().splitlines():
        spark.sql(statement.replace("{root}", str(config.lake.root)))
    context = under_0_1_0(spark, config)
    fill_tables(context)
    save_models(context)
    for model in (towers_path(context), cvr_path(context)):
        write_result(model, {})  # as a finished training does
    days = pipeline_days(config)["write_features"]
    write_features(context, days[:-1])
    write_features(context, days[-1:])
    record(context)
    return folder


def under_0_1_0(spark: SparkSession, config: Config) -> Context:
    """A context on the lake with the fingerprints of 0.1.0."""
    tables = Tables(spark, config.lake.root)
    ledger = Ledger(spark, tables)
    fingerprints = Fingerprints(config, STEPS, ledger.recorded, PACKAGE_VERSION)
    return Context(config, spark, tables, ledger, fingerprints, Progress(spark))


def record(context: Context) -> None:
    """Records the whole journey's days as 0.1.0 wrote them into its `intervals`."""
    old = [column for column in INTERVALS.columns if column.name != "made_as"]
    folders = {"train_towers": towers_path(context), "train_cvr": cvr_path(context)}
    rows = []
    for step, days in as_plan(pipeline_days(context.config)):
        told = {"model": str(folders.get(step.name)), "registered_model": step.name, "model_version": "3"}
        details = json.dumps(told if step.trains else {})
        for day in days:
            fingerprint, source = context.fingerprint(step.name, day), context.fingerprint.source_state(step, day)
            values = (step.name, day, fingerprint, "done", "r.1", {}, {}, 0, 0, 1.0, details, None, source)
            rows.append(values)
    ddl = ", ".join(f"{column.name} {column.type}" for column in old)
    frame = context.spark.createDataFrame(rows, ddl).withColumn("finished_at", F.current_timestamp())
    frame.coalesce(1).write.format("delta").mode("append").save(context.tables.path("intervals"))


@pytest.fixture
def lake(spark: SparkSession, old: Path, tmp_path: Path) -> Context:
    """A copy of the old lake, opened by the current code."""
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    return make_context(spark, config_of(tmp_path))


def todo(context: Context) -> list[str]:
    """Of the steps whose days are taken over, those that the current code would still run."""
    fresh = make_context(context.spark, context.config)
    plan = as_plan(pipeline_days(fresh.config), only=KEPT)
    return [step.name for step, _ in plan.missing(Standing.of(fresh))]


def adopt(folder: Path, *more: str):
    return run_here(folder, "adopt", *ACCEPTED, *more, *told(SETTINGS))


def joined(context: Context) -> list[str]:
    samples = (
        context.tables.read("samples").where("stage = 'ranker_test'").select("user_id", "item_id", "event_ts", "ds")
    )
    frame = join_features(samples, context.tables.root, find_release(context.tables).release_id, None, True).drop(
        "release_id"
    )
    return sorted(map(str, frame.select(sorted(frame.columns)).collect()))


def test_days_of_0_1_0_are_refused_until_they_are_adopted(lake: Context, tmp_path: Path) -> None:
    rows, version = joined(lake), lake.tables.version("intervals")
    snapshots = sequences_fingerprint(under_0_1_0(lake.spark, lake.config))
    with pytest.raises(ConfigError, match="learn-spark adopt"):
        todo(lake)

    alone = run_here(tmp_path, "adopt", "--dry-run", *told(SETTINGS))
    assert "refused  ingest_events" in alone.out and "adopted" not in alone.out.splitlines()[0]
    looked = adopt(tmp_path, "--dry-run")
    assert looked.code == 0 and "adopted  write_features: 5 days, 2011-11-21 .. 2011-11-25" in looked.out
    assert lake.tables.version("intervals") == version

    done = adopt(tmp_path)
    assert (done.code, done.summary["current"]) == (0, 0)
    assert done.summary["refused"] == len(STEPS) - len(KEPT), "their rows are others now"
    assert lake.tables.version("intervals") == version + 1, "one commit: all or nothing"
    assert todo(lake) == []
    assert joined(lake) == rows
    assert sequences_fingerprint(make_context(lake.spark, lake.config)) == snapshots, "a comparison finds its trainings"
    again = adopt(tmp_path)
    assert (again.summary["adopted"], again.summary["current"]) == (0, done.summary["adopted"])
    assert lake.tables.version("intervals") == version + 1


def test_an_adopted_lake_finds_its_models_and_goes_on(lake: Context, tmp_path: Path) -> None:
    adopt(tmp_path)
    fresh = make_context(lake.spark, lake.config)
    current = find_release(fresh.tables, CURRENT)
    assert towers_path(fresh).is_dir() and cvr_path(fresh).is_dir()
    assert current.models["towers"] in towers_path(fresh).name
    lineage = shown(current, fresh.tables, fresh.ledger)["lineage"]["models"]
    assert {name: Path(model["folder"]).name for name, model in lineage.items()} == {
        "towers": towers_path(fresh).name,
        "cvr": cvr_path(fresh).name,
    }

    rows = joined(fresh)
    back = run_here(tmp_path, "release", "rollback", *told(SETTINGS))
    assert back.code == 0, back.err
    (first,) = [release for release in releases(fresh.tables) if release.status == "published"]
    fresh = make_context(lake.spark, lake.config)
    assert todo(fresh) == ["write_features"]
    night = as_plan({"write_features": [lake.config.windows.end]})
    run_plan(night, fresh, RunOptions())
    made = find_release(fresh.tables, CURRENT)
    assert made.release_id not in (first.release_id, current.release_id)
    assert made.models.items() >= current.models.items(), "with MLflow's versions, which the ledger has"
    assert made.parts.keys() == current.parts.keys(), "it takes over the days of the release before it"
    assert joined(fresh) == rows
    assert todo(fresh) == []


def test_a_restated_model_gets_a_name_of_its_own(lake: Context, tmp_path: Path) -> None:
    """The adopted name is stored in the ledger's row, and no longer applies once the row is stale."""
    adopt(tmp_path)
    fresh, day = make_context(lake.spark, lake.config), lake.config.windows.towers_end
    adopted = fresh.made_as("train_towers", day)
    assert adopted != fresh.fingerprint("train_towers", day)
    fresh.ledger.mark_stale([("train_towers", day)])
    assert fresh.made_as("train_towers", day) == fresh.fingerprint("train_towers", day)


@pytest.mark.e2e
def test_killed_adoptions_are_finished_by_the_same_command(lake: Context, tmp_path: Path) -> None:
    folder = tmp_path / "lake" / "intervals"
    settings = [*SETTINGS, "spark.driver_memory=1g", f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/output"]
    command = ["learn-spark", "adopt", *ACCEPTED, "--config", str(CONFIG), *told(settings)]
    before, version = len(list(folder.glob("step=*/*.parquet"))), lake.tables.version("intervals")
    kill_process(tmp_path, command, when=lambda: len(list(folder.glob("step=*/*.parquet"))) > before)
    is_old = lake.tables.version("intervals") == version
    if is_old:
        with pytest.raises(ConfigError, match="learn-spark adopt"):
            todo(lake)
        kill_process(tmp_path, command, when=f"lake/intervals/_delta_log/{version + 1:020d}.json")
    assert todo(lake) == [], "what is committed is whole"
    assert is_old, "the first kill should come before the commit"
    assert adopt(tmp_path).summary["adopted"] == 0
    assert todo(lake) == []


def test_every_table_of_0_1_0_takes_rows_of_today(spark: SparkSession, lake: Context) -> None:
    names = {line.split("/")[1].split("`")[0] for line in STATEMENTS.read_text().splitlines()}
    assert names <= TABLES.keys(), "a table that is gone needs a word on what becomes of its rows"
    lake.tables.create_all()
    for name, spec in TABLES.items():
        before = lake.tables.read(name).count()
        rows = lake.tables.read(name).limit(1)
        rows = rows.withColumns({column: F.lit(None) for column in spec.names if column not in rows.columns})
        written = lake.tables.append(name, rows)
        after = lake.tables.read(name)
        assert after.columns and set(spec.names) <= set(after.columns) or not written
        assert after.count() == before + written
