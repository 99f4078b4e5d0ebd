"""Leave-one-out on all shipped logs: UniSRec's counts, and a row for every prefix with its next item."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.pipeline import as_plan, pipeline_days
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.sequences.audit import audit_sequences
from learn_spark.systems.trainings import write_trainings
from learn_spark.training.sequence_snapshots import sequence_snapshot
from tests.builders.contexts import make_context
from tests.builders.tensors import random_vectors, write_matrix
from tests.conftest import CONF

pytestmark = [pytest.mark.spark, pytest.mark.long]

# UniSRec's statistics of the data set (arXiv 2206.05941, table 1, "OR")
USERS, ITEMS, INTERACTIONS = 16_520, 3_469, 519_906


@pytest.fixture
def compiled(spark):
    """Compiles plans: the tests' session interprets them, which is faster only for small data, not for these lines."""
    settings = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
    before = {key: spark.conf.get(key) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    yield
    for key, value in before.items():
        spark.conf.set(key, value)


@pytest.mark.usefixtures("compiled")
def test_counts_are_unisrecs(spark, tmp_path):
    settings = [f"lake.root={tmp_path}/lake", f"output.dir={tmp_path}/out", "sequences.history_length=5"]
    context = make_context(spark, load_config(CONF / "online_retail_baskets.yaml", settings))
    plan = as_plan(pipeline_days(context.config), only=["ingest_events", "build_sequences"])
    run_plan(plan, context, RunOptions())
    rows = context.tables.read("sequences")
    assert rows.agg(F.count_distinct("user_id")).first()[0] == USERS
    assert rows.count() == INTERACTIONS - USERS  # every event but a user's first is once a target
    targets = rows.select(F.col("tar_items")[0].alias("item_idx"))
    firsts = rows.where("position = 1").select(F.col("hist_items")[0].alias("item_idx"))
    assert targets.unionByName(firsts).distinct().count() == ITEMS
    assert Counter(r.split for r in rows.groupBy("user_id", "split").count().collect())["test"] == USERS
    _check_a_user(rows)
    few = rows.where(F.xxhash64("user_id") % 20 == 0)
    context.tables.overwrite_where("sequences", few, "as_of IS NOT NULL")
    few = context.tables.read("sequences")
    _check_every_event_follows_once(spark, context, few)
    _check_snapshots_by_system(context)
    _check_audit(context, few)


def _check_every_event_follows_once(spark, context, rows):
    """Models that train on every position read fewer rows, which contain each event of the training rows once."""
    folder = sequence_snapshot(context, "train", context.tables.version("sequences"), "check", each_once=True)
    once = spark.read.parquet(*(str(path) for path in folder.glob("*.parquet")))
    train = rows.where("split = 'train'")
    assert once.count() < train.count() / 4
    followers = once.select("user_id", F.explode(F.expr("sequence(position - hist_len + 1, position)")).alias("place"))
    assert followers.count() == followers.distinct().count() == train.count()


def _check_snapshots_by_system(context):
    write_matrix(matrix_path(context), random_vectors(ITEMS))
    file = context.config.output.dir / "trainings.txt"
    assert write_trainings(context, ["leader", "paper", "sasrec"], [1], file) == 3
    specs = [json.loads(Path(line.split()[-1]).read_text()) for line in file.read_text().splitlines()]
    assert [Path(spec["train_snapshot"]).name.rsplit("-", 1)[0] for spec in specs] == [
        "towers-train-once",
        "towers-train",
        "towers-train-once",
    ]
    assert {Path(spec["val_snapshot"]).name.rsplit("-", 1)[0] for spec in specs} == {"towers-val"}


def _check_audit(context, rows):
    """The built rows have no leak; a row without the user's row before it breaks both rules."""
    built = context.ledger.recorded()["build_sequences", context.config.windows.end]
    assert [figure["leaks"] for figure in built.details["audit"]] == [0, 0]
    alone = rows.where("position = 2 AND split = 'train'").limit(1).withColumn("user_id", F.lit("leaky"))
    context.tables.append("sequences", alone)
    assert [figure.leaks for figure in audit_sequences(context.tables, context.config)] == [1, 1]


def _check_a_user(rows):
    name = rows.groupBy("user_id").count().orderBy(F.desc("count"), "user_id").first()["user_id"]
    own = rows.where(F.col("user_id") == name).orderBy("position").collect()
    events = [own[0].hist_items[0], *(row.tar_items[0] for row in own)]
    assert [row.position for row in own] == list(range(1, len(events)))
    for row in own:
        before = events[: row.position][-5:]
        assert row.hist_items[: row.hist_len] == before
        assert row.tar_len == 1
    assert [row.split for row in own[-3:]] == ["train", "val", "test"]
    assert {row.split for row in own[:-2]} == {"train"}
