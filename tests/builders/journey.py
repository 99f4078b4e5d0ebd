"""The lake that a whole pipeline run on the shipped logs makes, once per test run; and comparisons of lakes."""

import csv
import gzip
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from zlib import crc32

import duckdb
import numpy as np
import pytest
from pyspark.sql import SparkSession

from learn_spark.lake.schemas import TABLES
from tests.builders.commands import ROOT, Done, run_job
from tests.builders.hostile import CONF, SECRETS, hostile_folder
from tests.builders.logs import write_day
from tests.builders.reading import relation, rows
from tests.builders.shared import shared

VECTORS = {"content_embeddings": {"embedding", "norm"}}  # the last bits depend on the batches
LEARNED = {
    "user_features": ("user_id, ds", "user_emb"),
    "item_features": ("item_id, ds", "item_emb"),
    "pair_features": ("user_id, item_id, event_ts", "mid_emb, cvr_score"),
}


def finished_journey() -> tuple[Path, Done]:
    """The folder and the outcome of a finished run in a process of its own. The folder is shared: copy it to write."""
    folder = shared("journey", _make)
    return folder, Done(**json.loads((folder / "done.json").read_text()))


@pytest.fixture(scope="module")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the journey's folder for the tests of one file, whose commands run in this process, on `spark`."""
    return Path(shutil.copytree(finished_journey()[0], tmp_path_factory.mktemp("finished") / "copy"))


def _make(folder: Path) -> None:
    """Runs the journey with secrets in its config, in a working directory whose modules have the names it imports."""
    folder.mkdir()
    done = run_job(folder, "run_pipeline", "--set", CONF, cwd=hostile_folder(folder / "cwd"), also=SECRETS)
    assert done.code == 0, done.err[-5000:]
    (folder / "done.json").write_text(json.dumps(asdict(done)))


def thinned_logs(folder: Path, one_of: int = 5) -> Path:
    """Writes the shipped lines of every fifth customer in the weeks of conf/test.yaml, some thousands of lines."""
    for file in sorted((ROOT / "data" / "online_retail").glob("2011-11-*.csv.gz")):
        with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.DictReader(stream) if _number(line) % one_of == 0]
        write_day(folder, file.name.partition(".")[0], lines)
    return folder


def _number(line: dict[str, str]) -> int:
    """A hash of the line's customer, or of its invoice if it names no customer."""
    return crc32((line["CustomerID"] or line["InvoiceNo"]).encode())


def assert_equal_tables(one: Path, other: Path, but: frozenset[str] = frozenset()) -> None:
    """Asserts equal rows in all tables that are not filled by models."""
    for name in sorted(set(TABLES) - set(LEARNED) - {"releases", "intervals"} - but):
        without = frozenset(VECTORS.get(name, ()))
        assert rows(one, name, without) == rows(other, name, without), name


def assert_equal_vectors(one: Path, other: Path) -> None:
    """Asserts equal keys and learned vectors in the current releases; vectors of length 3.8 may differ by 5e-5."""
    for name, (keys, vectors) in LEARNED.items():
        columns = f"{keys}, {vectors}"
        ours, theirs = (published(lake, name).order(keys).project(columns).fetchnumpy() for lake in (one, other))
        for key in keys.split(", "):
            assert ours[key].tolist() == theirs[key].tolist(), (name, key)
        for vector in vectors.split(", "):
            left, right = (np.array(table[vector].tolist(), dtype=np.float64) for table in (ours, theirs))
            np.testing.assert_allclose(left, right, atol=5e-5, err_msg=f"{name} {vector}")


def assert_equal_lakes(one: Path, other: Path, when: str = "") -> None:
    """Asserts equal tables and vectors, equal ledgers, and current releases with equal numbers of rows per day."""
    try:
        assert_equal_tables(one, other, but=frozenset({"item_life"}))
        assert_equal_vectors(one, other)
        done, expected = (
            sorted(relation(lake, "intervals").project("step, day, fingerprint, status").fetchall())
            for lake in (one, other)
        )
        assert done == expected
        assert current_parts(one) == current_parts(other)
    except AssertionError as error:
        raise AssertionError(f"{when}: {error}") from error


def current_parts(lake: Path) -> list[tuple]:
    """The days of the current release, and their numbers of rows."""
    newest = relation(lake, "releases").filter("status = 'published'").order("published_at DESC").limit(1)
    parts = newest.project("unnest(parts, recursive := true)")
    return parts.project("ds, users, items, pairs").order("ds").fetchall()


def published(lake: Path, name: str) -> duckdb.DuckDBPyRelation:
    """The current release's rows of a feature table."""
    newest = relation(lake, "releases").filter("status = 'published'").order("published_at DESC").limit(1)
    newest.project("unnest(parts, recursive := true)").create_view("current_parts", replace=True)
    return relation(lake, name).filter("(ds, release_id) IN (SELECT (ds, release_id) FROM current_parts)")
