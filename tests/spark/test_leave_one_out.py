"""Leave-one-out on the whole of the shipped logs: UniSRec's counts, and every prefix with its next item."""

from collections import Counter

import pytest
from pyspark.sql import functions as F

from learn_spark.core.config import load_config
from learn_spark.core.runner import RunOptions, run_plan
from learn_spark.pipeline import as_plan, pipeline_days
from learn_spark.sequences.audit import audit_sequences
from tests.builders.contexts import make_context
from tests.conftest import CONF

pytestmark = pytest.mark.spark

# UniSRec's statistics of the data set (arXiv 2206.05941, table 1, "OR")
USERS, ITEMS, INTERACTIONS = 16_520, 3_469, 519_906


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
    _check_audit(context, rows)


def _check_audit(context, rows):
    """What was built has no leak; a target without its user's target before it breaks both rules."""
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
