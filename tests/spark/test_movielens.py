"""MovieLens 100k by its ready configs. Skipped without the data, whose license does not allow shipping it."""

import gzip
import shutil
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from learn_spark.config.load import load_config
from learn_spark.pipeline import as_plan, pipeline_days
from learn_spark.runs.runner import RunOptions, run_plan
from learn_spark.runs.steps import Context
from tests.builders.commands import ROOT
from tests.builders.contexts import make_context
from tests.conftest import CONF

pytestmark = [pytest.mark.spark, pytest.mark.long]

RATINGS, USERS, FILMS = 100_000, 943, 1_682  # as its README counts them
CORE = 99_287, 1_349  # ratings and films of its 5-core
PLACES = (ROOT / "data", *sorted(ROOT.parent.glob("*/data")))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with u.data and u.item as GroupLens ships them, from copies that may be gzipped or have a header."""
    found = next((place / "ml-100k" for place in PLACES if (place / "ml-100k").is_dir()), None)
    if found is None:
        pytest.skip("no ml-100k in data/ or in a data/ beside this folder: fetch it from grouplens.org")
    folder = tmp_path_factory.mktemp("ml-100k")
    for name, delimiter in (("u.data", "\t"), ("u.item", "|")):
        packed, plain = found / f"{name}.gz", found / name
        text = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
        lines = [line.replace(b"|", delimiter.encode()) for line in text.splitlines() if line[:1].isdigit()]
        (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return folder


@pytest.fixture(scope="module")
def ratings(films):
    """(user, film, rating, seconds)"""
    return [tuple(line.split("\t")) for line in (films / "u.data").read_text().splitlines()]


@pytest.fixture(scope="module")
def lake(spark, tmp_path_factory, films):
    """A lake with ingest and sequences, all days run at once."""
    return built(spark, tmp_path_factory.mktemp("time"), films, "movielens_100k", "ingest_events", "build_sequences")


def built(spark, folder: Path, films: Path, name: str, *steps: str) -> Context:
    places = [f"lake.root={folder}/lake", f"output.dir={folder}/out"]
    places += [f"ingest.path={films}", f"ingest.items.path={films}"]
    context = make_context(spark, load_config(CONF / f"{name}.yaml", places))
    run_plan(as_plan(pipeline_days(context.config), steps, restate=True), context, RunOptions())
    return context


def test_every_rating_is_an_event_and_an_observed_label(lake, ratings):
    events = lake.tables.read("interactions")
    kinds = {row["event_type"]: row["count"] for row in events.groupBy("event_type").count().collect()}
    likes = sum(int(rating) >= 4 for _, _, rating, _ in ratings)
    assert kinds == {"like": likes, "rate": RATINGS - likes}
    assert events.agg(F.count_distinct("user_id"), F.count_distinct("item_id")).first()[:] == (USERS, FILMS)
    expected = Counter()
    for _, _, rating, seconds in ratings:
        day = datetime.fromtimestamp(int(seconds), UTC).date()
        expected[stage(lake.config.windows, day), float(int(rating) >= 4)] += 1
    found = lake.tables.read("samples").groupBy("stage", "label").count().collect()
    assert {(row.stage, float(row.label)): row["count"] for row in found} == {
        key: count for key, count in expected.items() if key[0]
    }


def test_the_last_rating_is_held_out(spark, tmp_path, films, lake, ratings):
    shutil.copytree(lake.tables.root, tmp_path / "lake")
    context = built(spark, tmp_path, films, "movielens_100k_leave_one_out", "build_sequences")
    rows = context.tables.read("sequences").where("position > 0")  # other rows belong to the other protocol
    core = core_of(ratings, context.config.sequences.k_core)
    assert (len(core), len({film for _, film, _, _ in core})) == CORE
    assert rows.count() == len(core) - USERS  # but for a user's first, each is once a target
    last = {}
    for user, _, _, seconds in core:
        last[user] = max(last.get(user, 0), int(seconds))
    tested = rows.where("split = 'test'").select("user_id", F.col("tar_ts")[0].alias("seconds")).collect()
    assert {row.user_id: row.seconds for row in tested} == last
    assert len(tested) == USERS


def core_of(ratings: list[tuple], least: int) -> list[tuple]:
    """Removes users and films with fewer than `least` ratings until none are left (the k-core)."""
    while True:
        users, films = (Counter(row[place] for row in ratings) for place in (0, 1))
        kept = [row for row in ratings if users[row[0]] >= least and films[row[1]] >= least]
        if len(kept) == len(ratings):
            return kept
        ratings = kept


def stage(windows, day: date) -> str | None:
    """The window that a day's samples belong to."""
    ends = {"cvr": windows.cvr_end, "ranker_train": windows.ranker_train_end, "ranker_test": windows.end}
    return next((name for name, end in ends.items() if windows.towers_end <= day < end), None)
