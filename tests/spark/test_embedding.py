"""The embedding stage on real Delta tables: MiniLM once, a tiny Llama where the model does not matter."""

import json
import shutil
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from learn_spark.core import schemas
from learn_spark.core.config import Config, load_config
from learn_spark.core.errors import ConfigError, QualityError
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id, model_source
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.embedding.store import pinned_versions
from models.content import ContentMatrix
from models.encoder import Encoder
from tests.builders.encoders import save_tiny_llama
from tests.builders.items import add_items, item_row, matrix_bytes, step_context, with_embedding

pytestmark = pytest.mark.spark

END = date(2011, 11, 27)
LATER = date(2011, 12, 9)
CONF = Path(__file__).parents[2] / "conf" / "test.yaml"
ITEMS = [
    item_row("85123A", "2011-11-02", "WHITE HEART HOLDER"),
    item_row("71053", "2011-11-02", "RED LANTERN"),
    item_row("71053X", "2011-11-03", " red   Lantern"),
]
NEW_ITEM = item_row("22423", "2011-12-01", "BLUE MUG")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def embedded_lake(spark: SparkSession, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ITEMS, embedded with the tiny Llama."""
    root = tmp_path_factory.mktemp("embedded")
    config = load_config(CONF, [f"lake.root={root}", f"embedding.model={llama}"])
    context = step_context(spark, config)
    add_items(context, ITEMS)
    embed_items(context, [END])
    return root


@pytest.fixture
def embedded(spark: SparkSession, config: Config, embedded_lake: Path, llama: Path) -> Context:
    """A copy of the embedded lake for the test to change."""
    shutil.copytree(embedded_lake, config.lake.root)
    return step_context(spark, with_embedding(config, model=str(llama)))


@pytest.fixture
def empty(spark: SparkSession, config: Config, llama: Path) -> Context:
    return step_context(spark, with_embedding(config, model=str(llama)))


def versions(context: Context) -> dict[str, int]:
    return context.tables.versions(("item_text", "content_embeddings"))


def vectors(context: Context) -> np.ndarray:
    matrix = ContentMatrix(matrix_path(context))
    return matrix.gather(np.arange(matrix.rows)).numpy()


def test_embed_items_stores_minilms_own_vectors(spark: SparkSession, config: Config) -> None:
    context = step_context(spark, config)
    add_items(context, ITEMS)
    result = embed_items(context, [END])
    settings = config.embedding
    encoder = Encoder.load(model_source(settings.model), None, "mean", settings.max_tokens, "float32", "cpu")
    expected, tokens = encoder.encode(["white heart holder.", "red lantern."], 4096)
    texts = {r.item_id: r for r in context.tables.read("item_text").collect()}
    assert {item: row.prompt for item, row in texts.items()} == {
        "85123A": "white heart holder.",
        "71053": "red lantern.",
        "71053X": "red lantern.",
    }
    rows = {r.text_hash: r for r in context.tables.read("content_embeddings").collect()}
    for item, vector in zip(("85123A", "71053"), expected, strict=True):
        stored = rows[texts[item].text_hash]
        np.testing.assert_allclose(np.frombuffer(stored.embedding, "<f2"), vector, atol=2e-3)
        assert stored.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    np.testing.assert_allclose(vectors(context), [0 * expected[0], *expected[[0, 1, 1]]], atol=2e-3)
    figures = {key: result.details[key] for key in ("items", "texts", "texts_encoded", "tokens", "dim")}
    assert figures == {"items": 3, "texts": 2, "texts_encoded": 2, "tokens": tokens, "dim": 384}
    assert result.details["encoder_id"] == encoder_id(config)


def test_matrix_rows_are_the_items_and_row_zero_is_padding(embedded: Context) -> None:
    meta = json.loads((matrix_path(embedded) / "meta.json").read_text())
    wanted = {"rows": 4, "dim": 16, "dtype": "float16", "encoder_id": encoder_id(embedded.config)}
    assert {key: meta[key] for key in wanted} == wanted
    padding, holder, lantern, same = vectors(embedded)
    assert not padding.any()
    assert holder.any() and (holder != lantern).any()
    assert (lantern == same).all()


def test_second_run_encodes_and_writes_nothing(embedded: Context) -> None:
    before = versions(embedded)
    meta = (matrix_path(embedded) / "meta.json").stat().st_mtime_ns
    details = embed_items(embedded, [END]).details
    assert (details["items"], details["texts"]) == (3, 2)
    assert (details["texts_encoded"], details["tokens"]) == (0, 0)
    assert versions(embedded) == before
    assert (matrix_path(embedded) / "meta.json").stat().st_mtime_ns == meta


def test_new_item_extends_the_matrix_and_leaves_old_bytes(embedded: Context) -> None:
    folder = matrix_path(embedded)
    inode, old = (folder / "vectors.f16").stat().st_ino, matrix_bytes(folder)
    add_items(embedded, [NEW_ITEM])
    assert embed_items(embedded, [END]).details["items"] == 3, "the item comes after the last day"
    assert matrix_bytes(folder) == old
    assert embed_items(embedded, [END, LATER]).details["texts_encoded"] == 1
    assert (folder / "vectors.f16").stat().st_ino == inode
    new = matrix_bytes(folder)
    assert new[: len(old)] == old
    assert np.frombuffer(new[len(old) :], "<f2").any()
    before = versions(embedded)
    embed_items(embedded, [END])
    assert versions(embedded) == before, "an earlier day after a later one takes nothing away"
    assert matrix_bytes(folder) == new


def test_what_a_killed_run_left_after_the_rows_is_cut(embedded: Context) -> None:
    folder = matrix_path(embedded)
    valid = matrix_bytes(folder)
    for new_item in (None, item_row("B", "2011-11-05", "BLUE MUG")):
        with (folder / "vectors.f16").open("ab") as file:
            file.write(b"\x01" * 1000)
        if new_item:
            add_items(embedded, [new_item])
        embed_items(embedded, [END])
        assert matrix_bytes(folder)[: len(valid)] == valid
        assert ContentMatrix(folder).rows == (5 if new_item else 4)


def test_matrix_that_lost_bytes_is_made_anew(embedded: Context) -> None:
    folder = matrix_path(embedded)
    valid = matrix_bytes(folder)
    with (folder / "vectors.f16").open("r+b") as file:
        file.truncate(20)
    embed_items(embedded, [END])
    assert matrix_bytes(folder) == valid


def test_item_that_got_no_text_at_first_gets_its_row_later(embedded: Context) -> None:
    add_items(embedded, [NEW_ITEM, item_row("C", "2011-11-04", "GREEN LAMP")])
    embed_items(embedded, [END])
    assert not vectors(embedded)[4].any()
    embed_items(embedded, [LATER])
    assert vectors(embedded)[1:].any(axis=1).all()


def test_late_version_of_an_old_item_reaches_table_and_matrix(embedded: Context) -> None:
    folder = matrix_path(embedded)
    old, before = matrix_bytes(folder), vectors(embedded)
    add_items(embedded, [item_row("71053", "2011-11-10", "GREEN LANTERN")])
    with (folder / "vectors.f16").open("rb") as reader:
        assert embed_items(embedded, [END]).details["texts_encoded"] == 1
        assert reader.read() == old, "a reader of the old file keeps what it has"
    prompts = {r.item_id: r.prompt for r in embedded.tables.read("item_text").collect()}
    assert prompts == {
        "85123A": "white heart holder.",
        "71053": "green lantern.",
        "71053X": "red lantern.",
    }
    changed = (vectors(embedded) != before).any(axis=1)
    assert changed.tolist() == [False, False, True, False]


def test_pinned_versions_never_look_past_the_pin(spark: SparkSession) -> None:
    midnight = datetime.fromisoformat("2011-11-16T00:00:00+00:00")
    items_df = spark.createDataFrame(
        [
            item_row("A", "2011-11-01", "first"),
            item_row("A", "2011-11-05", "before the pin"),
            item_row("A", "2011-11-20", "after the pin"),
            item_row("B", "2011-11-20", "born after the pin", attributes={"colour": "red"}),
            item_row("B", "2011-11-22", "renamed"),
            item_row("C", "2011-12-01", "not yet there"),
            item_row("D", "2011-11-15", "last day"),
            ("D", midnight, *item_row("D", "2011-11-16", "the pin itself")[2:]),
        ],
        schemas.ITEMS.columns_ddl,
    )
    chosen = pinned_versions(items_df, pin=date(2011, 11, 16), before=END)
    titles = {"A": "before the pin", "B": "born after the pin", "D": "last day"}
    assert chosen.columns == items_df.columns
    assert {r.item_id: r.title for r in chosen.collect()} == titles


def test_another_template_renders_and_encodes_anew_in_a_matrix_of_its_own(embedded: Context) -> None:
    first, old = matrix_path(embedded), matrix_bytes(matrix_path(embedded))
    industrial = replace(embedded, config=with_embedding(embedded.config, template="industrial"))
    assert embed_items(industrial, [END]).details["texts_encoded"] == 3
    rows = embedded.tables.read("item_text").collect()
    assert [r.template_version for r in rows] == ["industrial-1"] * 3
    assert embedded.tables.read("content_embeddings").count() == 5
    assert matrix_path(industrial) != first
    assert matrix_bytes(first) == old


def test_thousand_equal_titles_meet_the_encoder_once(empty: Context) -> None:
    add_items(empty, [item_row(f"{n}", "2011-11-02", "RED LAMP" if n % 3 else "MUG") for n in range(1000)])
    details = embed_items(empty, [END]).details
    assert (details["items"], details["texts"], details["texts_encoded"]) == (1000, 2, 2)
    assert details["matrix_rows"] == 1001


def test_batches_and_workers_change_no_vector(empty: Context) -> None:
    titles = {f"{n}": " ".join(["red lamp mug"] * (n % 7) + ["blue"] * (n % 5) + ["0"]) for n in range(60)}
    add_items(empty, [item_row(item, "2011-11-02", title) for item, title in titles.items()])
    results = []
    for root, changes in (("a", {"workers": 1, "batch_tokens": 16}), ("b", {"workers": 3})):
        lake = empty.config.lake.root.with_name(root)
        shutil.copytree(empty.config.lake.root, lake)
        config = with_embedding(empty.config, **changes).model_copy(
            update={"lake": empty.config.lake.model_copy(update={"root": lake})}
        )
        context = step_context(empty.spark, config)
        embed_items(context, [END])
        results.append(vectors(context)[1:])
    left, right = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in results)
    assert (left * right).sum(axis=1).min() >= 0.9999


def test_vector_beyond_fp16_writes_nothing(empty: Context, tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "loud", scale=1e6)
    loud = replace(empty, config=with_embedding(empty.config, model=str(folder)))
    add_items(loud, ITEMS)
    with pytest.raises(QualityError, match=r"^embed_items: \d of \d texts got NaN, infinity or more") as error:
        embed_items(loud, [END])
    assert "\n" not in str(error.value)
    assert loud.tables.read("content_embeddings").count() == 0
    assert not matrix_path(loud).exists()


def test_gpu_that_is_not_there_is_said_in_one_line(empty: Context) -> None:
    cuda = replace(empty, config=with_embedding(empty.config, device="cuda"))
    add_items(cuda, ITEMS)
    with pytest.raises(ConfigError, match="^embed_items: device cuda is asked for, but torch") as error:
        embed_items(cuda, [END])
    assert "\n" not in str(error.value)


def test_no_items_is_said(empty: Context) -> None:
    with pytest.raises(ConfigError, match="no items before 2011-11-27"):
        embed_items(empty, [END])
