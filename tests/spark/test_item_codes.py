"""Item codes of releases: nights, gates, and codebooks that are lost, foreign or half done.

test_retrain.py tests retrains.
"""

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.config.model_sections import CodeSettings
from learn_spark.errors import ConfigError, ReleaseRefused
from learn_spark.features import job
from learn_spark.features.job import write_features
from learn_spark.features.mending import Hurt, require_codebook
from learn_spark.lake.days import ONE_DAY, DayRange
from learn_spark.releases.codebooks import CODES, DIGEST, codebook_file, codebook_of
from learn_spark.releases.join import join_features
from learn_spark.releases.lineage import shown
from learn_spark.releases.registry import FAILED, Release, find_release, releases
from learn_spark.releases.release import roll_back, visible
from learn_spark.releases.vectors import export_codes
from learn_spark.runs.steps import WRITE_FEATURES, Context
from models.contract.verified import file_digest
from tests.builders.lake import ITEMS, NEW_ITEM, NO_CONTENT_ITEM, feature_lake, item_id
from tests.oracles.codes import residual_codes

pytestmark = [pytest.mark.spark, pytest.mark.long]
SETTINGS = [
    "features.codes={levels: 2, size: 5}",
    "features.gates.max_code_collisions=1",
    "features.cold_events=3",
    *("windows.towers_end=2011-11-21", "windows.cvr_end=2011-11-22"),
    *("windows.ranker_train_end=2011-11-24", "windows.end=2011-11-25"),
]


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return feature_lake(spark, tmp_path_factory.mktemp("codes"), SETTINGS)


def days(lake: Context) -> list[date]:
    return list(DayRange(lake.config.windows.towers_end, lake.config.windows.end + ONE_DAY))


def with_codes(context: Context, settings: CodeSettings | None) -> Context:
    features = context.config.features.model_copy(update={"codes": settings})
    return replace(context, config=context.config.model_copy(update={"features": features}))


def codes_of_items(lake: Context, release: Release) -> dict[str, set[tuple[int, ...] | None]]:
    """By item, all its codes in the rows of a release."""
    found: dict[str, set] = {}
    for row in visible(lake, release, "item_features").collect():
        found.setdefault(row.item_id, set()).add(row.item_codes and tuple(row.item_codes))
    return found


@pytest.fixture(scope="module")
def first(lake: Context) -> Release:
    """The release of the first two days, after a run that gates stopped and one that was killed after the codebook."""
    gates = lake.config.features.gates.model_copy(update={"max_code_collisions": 0.0})
    features = lake.config.features.model_copy(update={"gates": gates})
    with pytest.raises(ReleaseRefused, match=r"failed: item_code_collisions is 0\.\d+, must be at most 0$"):
        write_features(replace(lake, config=lake.config.model_copy(update={"features": features})), days(lake)[:2])
    assert [*lake.tables.artifacts.path("codes").glob("*/*")] == [], "what was refused leaves no codebook"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            write_features(lake, days(lake)[:2])
    assert [release.status for release in releases(lake.tables)] == [FAILED]
    (file,) = lake.tables.artifacts.path("codes").glob("*/*")
    kept = file.read_bytes()
    write_features(lake, days(lake)[:2])
    release = find_release(lake.tables)
    assert file.read_bytes() == kept and file == codebook_file(lake.tables, release.models[CODES])
    assert release.models[DIGEST] == file_digest(file)
    return release


@pytest.fixture(scope="module")
def second(lake: Context, first: Release) -> Release:
    """The release with the night that has a new item."""
    write_features(lake, days(lake)[2:])
    return find_release(lake.tables)


def test_codes_are_those_of_the_nearest_centroids(lake: Context, first: Release) -> None:
    codebook = codebook_of(lake.tables, first)
    assert codebook.sizes == [5, 5]
    rows = visible(lake, first, "item_features").collect()
    assert len(rows) == ITEMS - 2, "one is sold later, one never"
    for row in rows:
        if row.item_id == item_id(NO_CONTENT_ITEM):
            assert row.item_codes is None
        else:
            assert row.item_codes == residual_codes(row.item_emb, codebook.levels)


def test_a_night_changes_no_code_and_gives_new_items_theirs(lake: Context, first: Release, second: Release) -> None:
    before, after = codes_of_items(lake, first), codes_of_items(lake, second)
    assert {item: after[item] for item in before} == before
    assert after.keys() - before.keys() >= {item_id(NEW_ITEM)}
    codebook = codebook_of(lake.tables, second)
    for row in visible(lake, second, "item_features").where(f"item_id = '{item_id(NEW_ITEM)}'").collect():
        assert row.item_codes == residual_codes(row.item_emb, codebook.levels)
    about = shown(second, lake.tables, lake.ledger)
    assert (about["codes"], about["codebook"]) == (first.models[CODES], first.models[DIGEST])


def test_figures_of_codes_are_gates(lake: Context, first: Release, second: Release) -> None:
    codes = [next(iter(its)) for its in codes_of_items(lake, first).values() if its != {None}]
    rows = [row for row in visible(lake, first, "item_features").collect() if row.item_codes]
    vector_NK = np.array([row.item_emb for row in rows])
    codebook = codebook_of(lake.tables, first)
    said_NK = codebook.decode(np.array([row.item_codes for row in rows]))
    spread = np.array([*{row.item_id: row.item_emb for row in rows}.values()]).var(0).sum()
    error = np.square(vector_NK - said_NK).sum(1).mean() / spread
    assert codebook.spread == pytest.approx(spread) and first.gate("item_code_error") == pytest.approx(error)
    assert first.gate("item_code_collisions") == sum(codes.count(one) > 1 for one in codes) / len(codes)
    for level in range(2):
        used = np.unique([one[level] for one in codes], return_counts=True)[1] / len(codes)
        assert first.gate(f"item_code_perplexity_{level + 1}") == pytest.approx(
            np.exp(-(used * np.log(used)).sum()) / 5
        )
    few = {name: value for name, value, *_ in second.gates if name.startswith("item_code_")}
    assert few == {name: value for name, value, *_ in first.gates if name.startswith("item_code_")}


def test_consumers_get_codes_joined_to_samples_and_as_tokens(lake: Context, second: Release, tmp_path: Path) -> None:
    known = {item: next(iter(its)) for item, its in codes_of_items(lake, second).items()}
    samples = lake.spark.createDataFrame(
        [(item, days(lake)[-1]) for item in (*known, "stranger")] + [(item_id(NEW_ITEM), days(lake)[0])],
        "item_id string, ds date",
    )
    joined = join_features(samples, lake.tables.root, second.release_id).collect()
    assert len(joined) == len(known) + 2
    for row in joined:
        code = known.get(row.item_id) if row.ds == days(lake)[-1] else None
        assert (row.item_codes and tuple(row.item_codes)) == code, row
    with pytest.raises(ConfigError, match=r"samples already have \['item_codes'\]"):
        join_features(samples.withColumn("item_codes", F.lit(1)), lake.tables.root, second.release_id)
    about = export_codes(lake, second, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert {row["item_id"]: tuple(row["item_codes"]) for row in rows} == {
        item: its for item, its in known.items() if its
    }
    assert all(row["tokens"] == [row["item_codes"][0], 5 + row["item_codes"][1]] for row in rows)
    assert about["items"] == len(rows) and about["vocabulary"] == 10
    with pytest.raises(ConfigError, match="is there already: remove it"):
        export_codes(lake, second, tmp_path / "out")


def test_a_codebook_that_is_lost_or_another_stops_the_night(lake: Context, second: Release, tmp_path: Path) -> None:
    file, version = codebook_file(lake.tables, second.models[CODES]), lake.tables.version("item_features")
    shutil.copy(file, tmp_path / "kept")
    for hurt, why in (
        (lambda: file.write_text(file.read_text().replace("0.", "1.", 1)), "has changed since it was written"),
        (lambda: file.write_text('{"levels": [[[1.0]]], "spread": 1}'), "is another one than that of the releases"),
        (lambda: file.write_text("{"), "is not JSON"),
        (file.unlink, "No such file"),
    ):
        hurt()
        with pytest.raises(
            ConfigError, match=f"codebook of the item codes .* cannot be used .*{why}.*features.codes.seed"
        ):
            write_features(lake, days(lake)[2:])
        with pytest.raises(ConfigError, match=why):
            export_codes(lake, second, tmp_path / "out")
        with pytest.raises(ConfigError, match=why):
            require_codebook(lake, Hurt())
    assert not (tmp_path / "out").exists()
    assert lake.tables.version("item_features") == version
    assert find_release(lake.tables).release_id == second.release_id
    shutil.copy(tmp_path / "kept", file)
    require_codebook(lake, Hurt())


def test_one_night_cannot_begin_codes(lake: Context, second: Release) -> None:
    other = with_codes(lake, CodeSettings(levels=2, size=5, seed=8))
    with pytest.raises(ConfigError, match=f"{second.release_id} has not the item codes .* run_pipeline --restate once"):
        write_features(other, days(lake)[2:])
    assert find_release(lake.tables).release_id == second.release_id


def test_without_the_switch_rows_have_no_codes(lake: Context, second: Release) -> None:
    """Even if the release takes over days with codes: it names no codebook, so no one reads codes of its rows."""

    def remade(step: str, day: date) -> str:
        return lake.fingerprint(step, day) + "d" * (step == WRITE_FEATURES)

    off = with_codes(lake, None)
    write_features(replace(off, fingerprint=remade), days(lake)[-1:])
    release = find_release(lake.tables)
    assert CODES not in release.models
    last = visible(lake, release, "item_features").where(f"ds = DATE'{days(lake)[-1]}'")
    assert {row.item_codes for row in last.collect()} <= {None}
    with pytest.raises(ConfigError, match=f"release {release.release_id} has no item codes"):
        codebook_of(lake.tables, release)
    roll_back(lake)
    assert find_release(lake.tables).release_id == second.release_id


def test_two_codebooks_live_side_by_side_and_outlive_a_rollback(lake: Context, second: Release) -> None:
    """Rolls back to a release before the second codebook, and then makes the days of the second one again."""
    other = with_codes(lake, CodeSettings(levels=2, size=5, seed=8))
    write_features(other, days(lake))
    third = find_release(lake.tables)
    files = [codebook_file(lake.tables, release.models[CODES]) for release in (second, third)]
    kept, codes = [file.read_bytes() for file in files], codes_of_items(other, third)
    assert kept[0] != kept[1] and codes != codes_of_items(lake, second)
    roll_back(lake, second.release_id)
    assert find_release(lake.tables).release_id == second.release_id
    write_features(other, days(lake))
    again = find_release(lake.tables)
    assert again.release_id == third.release_id and again.models == third.models
    assert codes_of_items(other, again) == codes
    assert [file.read_bytes() for file in files] == kept
