"""A reduced content matrix on real Delta tables: MiniLM's vectors of real product names, and models that read it."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from safetensors.numpy import load_file

from learn_spark.config.load import Config, load_config
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.embedding.vector_health import SAMPLE
from learn_spark.errors import ConfigError, QualityError
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from models.contract.result import write_result
from models.contract.settings import TowersConfig
from models.data.content import ContentMatrix
from models.towers.towers import Towers
from tests.builders.commands import CONFIG
from tests.builders.items import add_items, item_row, matrix_bytes, product_titles, step_context, with_embedding

pytestmark = pytest.mark.spark

END, LATER = date(2011, 11, 27), date(2011, 12, 9)
TEXTS, WIDTH = 150, 32
NAMES = product_titles(TEXTS + 2)


@pytest.fixture(scope="module")
def reduced_lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 product names and an item without a name, embedded with MiniLM and reduced to 32 numbers."""
    root = tmp_path_factory.mktemp("reduced")
    config = load_config(CONFIG, [f"lake.root={root}", f"embedding.reduce_to={WIDTH}"])
    context = step_context(spark, config)
    add_items(context, [item_row(f"i{n}", "2011-11-02", name) for n, name in enumerate(NAMES[:TEXTS])])
    add_items(context, [item_row("nothing", "2011-11-02", " ")])
    embed_items(context, [END])
    return root


@pytest.fixture
def reduced(spark: SparkSession, config: Config, reduced_lake: Path) -> Context:
    """A copy of the reduced lake for the test to change."""
    shutil.copytree(reduced_lake, config.lake.root)
    return step_context(spark, with_embedding(config, reduce_to=WIDTH))


def meta(context: Context) -> dict:
    return json.loads((matrix_path(context) / "meta.json").read_text())


def matrix(context: Context) -> np.ndarray:
    opened = ContentMatrix(matrix_path(context))
    return opened.gather(np.arange(opened.rows)).numpy()


def full_vectors(context: Context) -> np.ndarray:
    """The encoder's own vectors by item_idx, read from the tables; row 0 is padding."""
    text_df, index_df = (context.tables.read(name) for name in ("item_text", "item_index"))
    vectors_df = context.tables.read("content_embeddings").select("text_hash", "embedding")
    rows = text_df.join(index_df, "item_id").join(vectors_df, "text_hash").select("item_idx", "embedding").collect()
    found = np.zeros((1 + max(row.item_idx for row in rows), 384))
    for row in rows:
        found[row.item_idx] = np.frombuffer(row.embedding, "<f2")
    return found


def components(context: Context) -> np.ndarray:
    return load_file(matrix_path(context) / "reduction.safetensors")["components"]


def brute_overlap(left_ND: np.ndarray, right_NK: np.ndarray) -> float:
    """The share of each row's ten nearest neighbours by cosine that both have, from fully sorted lists."""
    lists = []
    for vectors in (left_ND, right_NK):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        lists.append([[i for i in np.argsort(-(unit @ one)) if i != n][:10] for n, one in enumerate(unit)])
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)]))


def test_matrix_is_the_projection_of_the_stored_vectors_and_says_what_it_costs(reduced: Context) -> None:
    full, narrow, said = full_vectors(reduced), matrix(reduced), meta(reduced)
    assert narrow.shape == (TEXTS + 2, WIDTH)
    np.testing.assert_allclose(narrow, full @ components(reduced).T, atol=2e-3)
    assert narrow.any(axis=1).tolist() == [False, *[True] * TEXTS, False], "padding, and the item without a text"
    reduction = said.pop("reduction")
    assert (said["dim"], reduction["full_dim"]) == (WIDTH, 384)
    assert (reduction["fitted"], reduction["measured"]) == (TEXTS, TEXTS)
    has_text = slice(1, TEXTS + 1)
    overlap = brute_overlap(full[has_text], narrow[has_text])
    assert reduction["neighbour_overlap"] == pytest.approx(overlap, abs=2e-3)
    assert 0.4 < overlap < 1
    kept = narrow[has_text].var(axis=0).sum() / full[has_text].var(axis=0).sum()
    assert reduction["explained_variance"] == pytest.approx(kept, abs=1e-4)


def test_new_items_join_the_space_and_old_bytes_stay(reduced: Context) -> None:
    old, map_before, said = matrix_bytes(matrix_path(reduced)), components(reduced), meta(reduced)["reduction"]
    add_items(reduced, [item_row(f"new{n}", "2011-12-01", name) for n, name in enumerate(NAMES[TEXTS:])])
    details = embed_items(reduced, [END, LATER]).details
    assert (details["texts_encoded"], details["matrix_rows"], details["dim"]) == (2, TEXTS + 4, WIDTH)
    assert details["reduction"] == said == meta(reduced)["reduction"]
    assert (components(reduced) == map_before).all()
    assert matrix_bytes(matrix_path(reduced))[: len(old)] == old
    np.testing.assert_allclose(matrix(reduced), full_vectors(reduced) @ map_before.T, atol=2e-3)
    assert matrix(reduced)[-2:].any(axis=1).all()


def test_changed_text_takes_a_new_file_in_the_same_space(reduced: Context) -> None:
    before, map_before = matrix(reduced), components(reduced)
    add_items(reduced, [item_row("i7", "2011-11-05", NAMES[-1])])
    embed_items(reduced, [END])
    assert meta(reduced)["vectors"] == "vectors-2.f16"
    assert (components(reduced) == map_before).all(), "models that were trained on it still read it"
    assert np.flatnonzero((matrix(reduced) != before).any(axis=1)).tolist() == [8]


def test_another_width_or_encoder_has_a_matrix_of_its_own(reduced: Context) -> None:
    first, old = matrix_path(reduced), matrix_bytes(matrix_path(reduced))
    for changes, width in (({"reduce_to": 64}, 64), ({"reduce_to": None}, 384), ({"pooling": "cls"}, WIDTH)):
        other = replace(reduced, config=with_embedding(reduced.config, **changes))
        details = embed_items(other, [END]).details
        assert details["texts_encoded"] == (TEXTS if "pooling" in changes else 0), "the store has whole vectors"
        assert matrix_path(other) != first
        assert matrix(other).shape[1] == width == details["dim"]
        overlaps = [gate["value"] for gate in details["gates"] if gate["name"] == "content_neighbour_overlap"]
        assert len(overlaps) == 1 and 0.3 < overlaps[0] < 1, "health compares matrices of unequal width"
    assert matrix_bytes(first) == old


def test_health_looks_at_the_reduced_vectors(reduced: Context) -> None:
    assert TEXTS < SAMPLE
    strict = replace(reduced, config=with_embedding(reduced.config, reduce_to=8, min_effective_rank=9))
    with pytest.raises(QualityError, match=r"content_effective_rank is [5-8][\d.]*, must be at least 9$"):
        embed_items(strict, [END])
    assert not matrix_path(strict).exists()


def test_lost_map_stops_the_run_before_rows_of_another_space(reduced: Context) -> None:
    folder = matrix_path(reduced)
    old = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "reduction.safetensors"}
    (folder / "reduction.safetensors").write_bytes(b"\x80\x04\x95 not this one")
    add_items(reduced, [item_row("new", "2011-11-05", NAMES[-1])])
    with pytest.raises(QualityError, match=r"reduction\.safetensors is lost .*, so new items cannot join: restore"):
        embed_items(reduced, [END])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in old} == old
    (folder / "meta.json").write_text('{"rows": 5')
    with pytest.raises(QualityError, match=r"meta\.json is damaged, so new items cannot join what reduction"):
        embed_items(reduced, [END])
    assert (folder / "meta.json").read_text() == '{"rows": 5'


def test_the_ledger_knows_the_map_of_a_lost_meta(reduced: Context) -> None:
    """New items are mapped by the map that models were trained with; if the map is lost, none are added."""
    folder = matrix_path(reduced)
    old, said = matrix_bytes(folder), meta(reduced)["reduction"]
    result = StepResult(1, 1, {"reduction": said, "matrix": f"{folder}/vectors-1.f16"})
    reduced.ledger.record("embed_items", {END: "x"}, "run", result, {}, {}, 1.0)
    write_result(reduced.tables.artifacts.path("models", "towers-x"), {})
    (folder / "meta.json").unlink()
    add_items(reduced, [item_row("new", "2011-11-05", NAMES[-1])])
    embed_items(reduced, [END])
    assert meta(reduced)["reduction"] == said
    assert matrix_bytes(folder)[: len(old)] == old
    shutil.rmtree(folder)
    with pytest.raises(QualityError, match=r"reduction\.safetensors is lost .*No such file.* to train anew"):
        embed_items(reduced, [END])
    assert not folder.exists()
    shutil.rmtree(reduced.tables.artifacts.path("models"))
    embed_items(reduced, [END])
    assert meta(reduced)["reduction"]["fitted"] == TEXTS + 1


@pytest.mark.parametrize(
    ("width", "complaint"),
    [(384, "reduce_to is 384, but the encoder's vectors have only 384"), (200, f"is 200, but only {TEXTS} texts")],
)
def test_width_that_cannot_be_had_is_named(reduced: Context, width: int, complaint: str) -> None:
    wide = replace(reduced, config=with_embedding(reduced.config, reduce_to=width))
    with pytest.raises(ConfigError, match=complaint):
        embed_items(wide, [END])
    assert not matrix_path(wide).exists()


def test_towers_read_a_narrower_matrix(reduced: Context) -> None:
    content = ContentMatrix(matrix_path(reduced))
    towers = Towers(TowersConfig(d_model=16, layers=1, heads=2, embedding_dim=8, max_len=20), content.dim).eval()
    item_emb = towers.embed_items(np.arange(1, content.rows), content, batch_size=64)
    assert item_emb.shape == (TEXTS + 1, 8)
    assert np.isfinite(item_emb).all() and len(np.unique(item_emb.round(5), axis=0)) > TEXTS / 2
