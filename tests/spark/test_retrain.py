"""A retrain on a tiny lake: new models in the space of the release before, so that its consumers stay valid."""

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.config.load import Config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError, ReleaseRefused
from learn_spark.evaluation.job import evaluate_features
from learn_spark.evaluation.ranking import VECTORS, ranker_rows
from learn_spark.features import checks
from learn_spark.features.canaries import FILE, GOLDEN
from learn_spark.features.job import write_features
from learn_spark.lake.days import DayRange
from learn_spark.releases.codebooks import CODES, DIGEST
from learn_spark.releases.lineage import compared
from learn_spark.releases.registry import Release, find_release
from learn_spark.releases.release import visible
from learn_spark.releases.spaces import ReleaseModels, before_towers, models_of
from learn_spark.runs.steps import EVALUATE_FEATURES, WRITE_FEATURES, Context
from learn_spark.training.job import train_cvr, train_towers
from models.contract.content_matrix import META
from models.contract.trained_model import CONFIG, read_about, write_about
from tests.builders.lake import ITEMS, feature_lake, tiny_context

pytestmark = [pytest.mark.spark, pytest.mark.long]
SMALL = "{d_model: 16, layers: 1, heads: 2, embedding_dim: 8, max_len: 20}"


def retrained(context: Context, salt: str, **towers: object) -> Context:
    """A context on the same lake, with a config that gives other models."""
    settings = context.config.towers.model_copy(update=towers)
    config = context.config.model_copy(update={"towers": settings})
    other = tiny_context(context.spark, config, salt)
    return replace(other, tables=context.tables, ledger=context.ledger)


def remade(context: Context) -> Context:
    """A context with the same models that makes the features again, under another id."""
    return replace(
        context, fingerprint=lambda step, day: context.fingerprint(step, day) + "d" * (step == WRITE_FEATURES)
    )


def with_gate(context: Context, least: float) -> Context:
    """A context with another `min_cosine_after_retrain`, because the tiny towers learn almost nothing."""
    gates = context.config.features.gates.model_copy(update={"min_cosine_after_retrain": least})
    features = context.config.features.model_copy(update={"gates": gates})
    return replace(context, config=context.config.model_copy(update={"features": features}))


def assert_equal_codes(context: Context, *shown: Release) -> None:
    """Asserts that items have the same codes by one codebook in both releases, although their vectors differ."""
    first, second = (visible(context, release, "item_features").toPandas() for release in shown)
    vectors = first.merge(second, on=["item_id", "ds"])
    assert len(vectors) == len(first) == len(second) >= ITEMS - 1
    assert not np.allclose(np.stack(vectors.item_emb_x), np.stack(vectors.item_emb_y), atol=0.01)
    codes = [rows.set_index(["item_id", "ds"]).item_codes.map(str).to_dict() for rows in (first, second)]
    assert codes[0] == codes[1] and len({*codes[0].values()}) > 5
    names = [{name: release.models[name] for name in (CODES, DIGEST)} for release in shown]
    assert names[0] == names[1]


def let_workers_load_anew(context: Context) -> None:
    """Makes Spark's workers reload models, which they cache by folder and by the matrix's modification time."""
    (matrix_path(context) / META).touch()


def feature_days(config: Config) -> list[date]:
    return list(DayRange(config.windows.towers_end, config.windows.end + timedelta(days=1)))


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    settings = [
        f"towers.model={SMALL}",
        "cvr.train={batch_size: 16}",
        "stream.rows_per_file=50",
        "features.codes={levels: 2, size: 5}",
        "features.gates={max_code_collisions: 1, max_code_error: 100}",
        *("windows.towers_end=2011-11-19", "windows.cvr_end=2011-11-23"),
        *("windows.ranker_train_end=2011-11-25", "windows.end=2011-11-27"),
    ]
    return feature_lake(spark, tmp_path_factory.mktemp("retrain"), settings)


@pytest.fixture(scope="module")
def first(lake: Context) -> Release:
    """The first release, whose models have a space of their own because there is no earlier release."""
    own = retrained(lake, "first")
    assert before_towers(own) is None
    assert train_towers(own, [own.config.windows.towers_end]).details["result"]["space"] == {}
    assert train_cvr(own, [own.config.windows.cvr_end]).details["result"]["space"] == {}
    write_features(own, feature_days(own.config))
    return find_release(own.tables)


@pytest.fixture(scope="module")
def second(lake: Context, first: Release) -> Context:
    """The context of new models, which are trained with another seed and mapped into the first release's space."""
    other = retrained(lake, "second", train=lake.config.towers.train.model_copy(update={"seed": 99}))
    towers = train_towers(other, [other.config.windows.towers_end]).details["result"]["space"]
    assert (towers["release"], towers["id"]) == (first.release_id, first.models["towers"])
    assert towers["items"] == ITEMS - 2  # one without content, one that is sold later
    assert towers["item_cosine"][1] > towers["item_cosine"][0]
    cvr = train_cvr(other, [other.config.windows.cvr_end]).details["result"]["space"]
    assert (cvr["release"], cvr["id"]) == (first.release_id, first.models["cvr"]) and cvr["mid_explained"] < 1
    return other


def test_the_pairs_of_the_map_are_embedded_by_both_models(second: Context, first: Release) -> None:
    from models.data.content import ContentMatrix
    from models.saved import load_towers

    (folder,) = second.tables.artifacts.path("snapshots").glob("cvr-space-*")
    pairs = pq.read_table(list(folder.glob("*.parquet"))).to_pandas()
    assert len(pairs) == second.tables.read("samples").where("stage = 'cvr'").count()
    models = ReleaseModels.of(second.tables, first)
    assert models.lacking == []
    numbers = {row.item_id: row.item_idx for row in second.tables.read("item_index").collect()}
    for prefix, folder in (("", towers_path(second)), ("earlier_", models.towers)):
        towers = load_towers(folder)
        known = towers.embed_items(pairs.item_id.map(numbers).to_numpy(), ContentMatrix(models.matrix))
        found = np.stack(pairs[f"{prefix}item_emb"])
        is_known = np.abs(found).max(1) > 0
        assert is_known.any()
        np.testing.assert_allclose(found[is_known], known[is_known], atol=1e-5)


def test_a_release_that_left_the_space_is_stopped(
    second: Context, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The towers are rotated by hand, as a wrong map would do."""
    import torch

    from models.saved import load_towers, save_towers
    from models.towers.space import rotate

    monkeypatch.setattr(checks, "ENOUGH", ITEMS // 2)
    folder = towers_path(second)
    towers = load_towers(folder)
    turn_KK, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    rotate(towers, torch.from_numpy(turn_KK))
    save_towers(folder, towers)
    let_workers_load_anew(second)
    with pytest.raises(ReleaseRefused, match=r"item_cosine_after_retrain is -?0\.[01]\d*, must be at least 0\.2"):
        write_features(with_gate(second, 0.2), feature_days(second.config))
    assert find_release(second.tables).release_id == first.release_id
    rotate(towers, torch.from_numpy(turn_KK.T))
    save_towers(folder, towers)
    let_workers_load_anew(second)


def test_a_retrain_is_published_in_the_space_of_the_release_before(
    second: Context, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ENOUGH", ITEMS // 2)
    details = write_features(with_gate(second, 0.2), feature_days(second.config)).details
    gates = {gate["name"]: gate["value"] for gate in details["gates"]}
    assert {"user_cosine_after_retrain", "item_cosine_after_retrain"} <= gates.keys()
    release = find_release(second.tables)
    assert release.release_id == details["release_id"] and release.models["towers"] != first.models["towers"]
    assert release.space == first.space == (first.models["towers"], first.models["cvr"])
    assert_equal_codes(second, first, release)
    result = evaluate_features(second, [second.config.windows.end])
    assert {"item_codes", "item_code_prefixes", "item_emb_and_codes"} <= result.details["ranker"]["alone"].keys()
    kept = result.details["ranker"]["kept"]
    assert kept["release"] == first.release_id
    assert kept["towers"] == [first.models["towers"], release.models["towers"]]
    assert {"auc_gain_earlier", "auc_gain_kept", "share", "share_ci90"} <= kept.keys()
    retrieval = result.details["retrieval"]
    assert retrieval["earlier_release"] == first.release_id
    assert all(0 <= retrieval[f"{name}_recall_at_50"] <= 1 for name in ("earlier", "earlier_users", "earlier_items"))
    second.ledger.record(EVALUATE_FEATURES, {second.config.windows.end: "f"}, "run", result, {}, {}, 1.0)
    diff = compared(first, release, second.ledger.recorded().values())
    assert diff["same_space"] and diff["kept"] == kept
    assert "kept" not in compared(release, first, second.ledger.recorded().values())


def test_models_that_say_something_else_than_before_are_stopped(second: Context) -> None:
    """A night with changed libraries: the towers pool in another way, which only the canaries' gate notices."""
    release = find_release(second.tables)
    kept = second.tables.artifacts.path("canaries", f"{release.models['towers']}-{release.models['cvr']}") / FILE
    golden = json.loads(kept.read_text())
    assert len(golden["histories"]) == len(golden["user_emb"]) == GOLDEN
    gates = {name: value for name, value, *_ in release.gates if name.startswith("canary_")}
    assert gates.keys() == {"canary_user_emb", "canary_item_emb", "canary_pair"}
    assert max(gates.values()) < 1e-4, "one by one is as all at once"
    folder = towers_path(second)
    before = (folder / CONFIG).read_bytes()
    about = read_about(folder)
    write_about(folder, {**about, "config": {**about["config"], "pooling": "mean"}})
    let_workers_load_anew(second)
    with pytest.raises(ReleaseRefused, match=r"gates failed: canary_user_emb is \d\.\d+, must be at most 0\.03$"):
        write_features(remade(second), feature_days(second.config))
    assert find_release(second.tables).release_id == release.release_id
    (folder / CONFIG).write_bytes(before)
    let_workers_load_anew(second)


def test_what_the_earlier_models_say_of_their_own_rows_is_what_their_release_shows(
    lake: Context, second: Context, first: Release
) -> None:
    rows = ranker_rows(retrained(lake, "first"), first, ReleaseModels.of(lake.tables, first)).toPandas()
    assert len(rows) > 20
    for name in VECTORS:
        published, again = (np.stack(rows[column].map(np.atleast_1d)) for column in (name, f"earlier_{name}"))
        np.testing.assert_allclose(again, published, atol=1e-5, err_msg=name)


def test_models_of_their_own_space_and_models_that_are_gone(second: Context, first: Release, tmp_path: Path) -> None:
    assert before_towers(retrained(second, "third", compatible_with="none")) is None
    named = retrained(second, "third", compatible_with=first.release_id)
    found = before_towers(named)
    assert found == (first, ReleaseModels.of(second.tables, first))
    with pytest.raises(ConfigError, match="unknown release '20000101-00000000'"):
        before_towers(retrained(second, "third", compatible_with="20000101-00000000"))
    cvr = ReleaseModels.of(second.tables, first).cvr
    cvr.rename(tmp_path / "aside")
    with pytest.raises(
        ConfigError, match=f"space of release {first.release_id}, but {cvr} is gone.*compatible_with: none"
    ):
        before_towers(named)
    (tmp_path / "aside").rename(cvr)


def test_the_space_of_models_is_that_of_the_models_before_them(second: Context, first: Release) -> None:
    made = models_of(second)
    assert made["space"] == "-".join(first.space) and cvr_path(second).name == f"cvr-{made['cvr']}"
