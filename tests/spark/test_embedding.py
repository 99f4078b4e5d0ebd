"""The embedding stage on real Delta tables with the real MiniLM, and with a tiny Llama where size matters."""

import json
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from learn_spark.core.config import Config
from learn_spark.core.errors import ConfigError, QualityError
from learn_spark.core.steps import Context
from learn_spark.embedding.encoders import encoder_id, model_source
from learn_spark.embedding.job import embed_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.embedding.store import pinned_versions
from models.content import ContentMatrix
from models.encoder import Encoder
from tests.builders.encoders import save_tiny_llama
from tests.builders.items import ITEM_COLUMNS, add_items, item_row, matrix_bytes, step_context, with_embedding

pytestmark = pytest.mark.spark

END = date(2011, 11, 27)
LATER = date(2011, 12, 9)
LAMPS = [
    item_row("85123A", "2011-11-02", "WHITE HANGING HEART T-LIGHT HOLDER"),
    item_row("71053", "2011-11-02", "WHITE METAL LANTERN"),
    item_row("71053X", "2011-11-03", "White  metal lantern "),
]


@pytest.fixture
def lamps(spark: SparkSession, config: Config) -> Context:
    context = step_context(spark, config)
    add_items(context, LAMPS)
    return context


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def versions(context: Context) -> dict[str, int]:
    return context.tables.versions(("item_text", "content_embeddings"))


def test_embed_items_stores_the_encoders_own_vectors(lamps: Context) -> None:
    result = embed_items(lamps, [END])
    settings = lamps.config.embedding
    encoder = Encoder.load(model_source(settings.model), None, "mean", settings.max_tokens, "float32", "cpu")
    expected, tokens = encoder.encode(["white hanging heart t-light holder.", "white metal lantern."], 4096)
    rows = {r.text_hash: r for r in lamps.tables.read("content_embeddings").collect()}
    texts = {r.item_id: r for r in lamps.tables.read("item_text").collect()}
    assert {item: row.prompt for item, row in texts.items()} == {
        "85123A": "white hanging heart t-light holder.",
        "71053": "white metal lantern.",
        "71053X": "white metal lantern.",
    }
    for item, vector in zip(("85123A", "71053"), expected, strict=True):
        stored = rows[texts[item].text_hash]
        np.testing.assert_allclose(np.frombuffer(stored.embedding, "<f2"), vector, atol=2e-3)
        assert stored.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)
    figures = {key: result.details[key] for key in ("items", "texts", "texts_encoded", "tokens", "dim")}
    assert figures == {"items": 3, "texts": 2, "texts_encoded": 2, "tokens": tokens, "dim": 384}
    assert result.details["encoder_id"] == encoder_id(lamps.config)


def test_matrix_rows_are_the_items_and_row_zero_is_padding(lamps: Context) -> None:
    embed_items(lamps, [END])
    matrix = ContentMatrix(matrix_path(lamps))
    vectors = matrix.gather(np.arange(4)).numpy()
    assert (matrix.rows, matrix.dim, matrix.encoder_id) == (4, 384, encoder_id(lamps.config))
    assert not vectors[0].any()
    assert (vectors[2] == vectors[3]).all()
    assert np.linalg.norm(vectors[1] - vectors[2]) > 1


def test_second_run_encodes_and_writes_nothing(lamps: Context) -> None:
    embed_items(lamps, [END])
    before = versions(lamps)
    meta = (matrix_path(lamps) / "meta.json").stat().st_mtime_ns
    result = embed_items(lamps, [END])
    assert (result.details["texts_encoded"], result.details["tokens"]) == (0, 0)
    assert versions(lamps) == before
    assert (matrix_path(lamps) / "meta.json").stat().st_mtime_ns == meta


def test_new_item_extends_the_matrix_and_leaves_old_bytes(lamps: Context) -> None:
    embed_items(lamps, [END])
    folder = matrix_path(lamps)
    inode, old = (folder / "vectors.f16").stat().st_ino, matrix_bytes(folder)
    add_items(lamps, [item_row("22423", "2011-12-01", "REGENCY CAKESTAND 3 TIER")])
    assert embed_items(lamps, [END, LATER]).details["texts_encoded"] == 1
    new = matrix_bytes(folder)
    assert (folder / "vectors.f16").stat().st_ino == inode
    assert new[: len(old)] == old
    assert np.frombuffer(new[len(old) :], "<f2").any()
    assert ContentMatrix(folder).rows == 5


def test_item_after_the_last_day_gets_no_text(lamps: Context) -> None:
    add_items(lamps, [item_row("22423", "2011-12-01", "REGENCY CAKESTAND 3 TIER")])
    assert embed_items(lamps, [END]).details["items"] == 3
    assert ContentMatrix(matrix_path(lamps)).rows == 4


def test_earlier_days_after_later_ones_take_nothing_away(lamps: Context) -> None:
    add_items(lamps, [item_row("22423", "2011-12-01", "REGENCY CAKESTAND 3 TIER")])
    embed_items(lamps, [LATER])
    before = versions(lamps)
    embed_items(lamps, [END])
    assert versions(lamps) == before
    assert ContentMatrix(matrix_path(lamps)).rows == 5


def test_what_a_killed_run_left_after_the_rows_is_cut(lamps: Context) -> None:
    embed_items(lamps, [END])
    folder = matrix_path(lamps)
    valid = matrix_bytes(folder)
    with (folder / "vectors.f16").open("ab") as vectors:
        vectors.write(b"\x01" * 1000)
    embed_items(lamps, [END])
    assert matrix_bytes(folder) == valid
    with (folder / "vectors.f16").open("ab") as vectors:
        vectors.write(b"\x01" * 1000)
    add_items(lamps, [item_row("A", "2011-11-05", "X"), item_row("B", "2011-11-05", "RED MUG")])
    embed_items(lamps, [END])
    assert matrix_bytes(folder)[: len(valid)] == valid
    assert ContentMatrix(folder).rows == 6


def test_matrix_that_lost_bytes_is_made_anew(lamps: Context) -> None:
    embed_items(lamps, [END])
    folder = matrix_path(lamps)
    valid = matrix_bytes(folder)
    with (folder / "vectors.f16").open("r+b") as vectors:
        vectors.truncate(100)
    embed_items(lamps, [END])
    assert matrix_bytes(folder) == valid


def test_changed_text_of_an_old_item_reaches_table_and_matrix(lamps: Context) -> None:
    embed_items(lamps, [END])
    folder = matrix_path(lamps)
    with (folder / "vectors.f16").open("rb") as reader:
        old = matrix_bytes(folder)
        add_items(lamps, [item_row("71053", "2011-11-10", "RED METAL LANTERN")])
        assert embed_items(lamps, [END]).details["texts_encoded"] == 1
        assert reader.read() == old, "a reader of the old file keeps what it has"
    prompts = {r.item_id: r.prompt for r in lamps.tables.read("item_text").collect()}
    assert prompts["71053"] == "red metal lantern."
    vectors = ContentMatrix(folder).gather(np.arange(4)).numpy()
    assert (vectors[2] != vectors[3]).any()
    assert vectors[1].astype("<f2").tobytes() == old[768:1536]


def test_pinned_versions_never_look_past_the_pin(spark: SparkSession) -> None:
    items_df = spark.createDataFrame(
        [
            item_row("A", "2011-11-01", "first"),
            item_row("A", "2011-11-05", "before the pin"),
            item_row("A", "2011-11-20", "after the pin"),
            item_row("B", "2011-11-20", "born after the pin", attributes={"colour": "red"}),
            item_row("B", "2011-11-22", "renamed"),
            item_row("C", "2011-12-01", "not yet there"),
        ],
        ITEM_COLUMNS,
    )
    chosen = pinned_versions(items_df, pin=date(2011, 11, 16), before=date(2011, 11, 27))
    assert chosen.columns == items_df.columns
    assert {r.item_id: r.title for r in chosen.collect()} == {
        "A": "before the pin",
        "B": "born after the pin",
    }


def test_pin_is_midnight_and_exclusive(spark: SparkSession) -> None:
    early, late = item_row("A", "2011-11-15", "old"), item_row("A", "2011-11-16", "new")
    rows = [early, ("A", datetime.fromisoformat("2011-11-16T00:00:00+00:00"), *late[2:])]
    chosen = pinned_versions(spark.createDataFrame(rows, ITEM_COLUMNS), date(2011, 11, 16), END)
    assert [r.title for r in chosen.collect()] == ["old"]


def test_another_encoder_adds_vectors_and_a_matrix_of_its_own(lamps: Context, llama_folder: Path) -> None:
    embed_items(lamps, [END])
    first = matrix_path(lamps)
    tiny = with_embedding(lamps.config, model=str(llama_folder))
    other = Context(tiny, lamps.spark, lamps.tables, lamps.ledger, lamps.mark, lamps.progress)
    assert embed_items(other, [END]).details["texts_encoded"] == 2
    assert matrix_path(other) != first
    assert (ContentMatrix(first).dim, ContentMatrix(matrix_path(other)).dim) == (384, 16)
    assert lamps.tables.read("content_embeddings").count() == 4


def test_another_template_renders_and_encodes_anew(
    spark: SparkSession, config: Config, llama_folder: Path
) -> None:
    title = step_context(spark, with_embedding(config, model=str(llama_folder)))
    add_items(title, [item_row("A", "2011-11-02", "RED MUG", price=2.5), item_row("B", "2011-11-02", "LAMP")])
    embed_items(title, [END])
    industrial = with_embedding(title.config, template="industrial")
    context = Context(industrial, spark, title.tables, title.ledger, title.mark, title.progress)
    assert embed_items(context, [END]).details["texts_encoded"] == 2
    rows = context.tables.read("item_text").collect()
    assert {r.template_version for r in rows} == {"industrial-1"}
    assert len(rows) == 2


def test_thousand_equal_titles_meet_the_encoder_once(
    spark: SparkSession, config: Config, llama_folder: Path
) -> None:
    context = step_context(spark, with_embedding(config, model=str(llama_folder)))
    add_items(context, [item_row(f"{n}", "2011-11-02", "RED LAMP" if n % 3 else "MUG") for n in range(1000)])
    details = embed_items(context, [END]).details
    assert (details["items"], details["texts"], details["texts_encoded"]) == (1000, 2, 2)
    assert details["matrix_rows"] == 1001


def test_batches_and_workers_change_no_vector(
    spark: SparkSession, config: Config, llama_folder: Path
) -> None:
    rows = [
        item_row(f"{n}", "2011-11-02", " ".join(["red lamp mug"] * (n % 7) + [str(n % 5)])) for n in range(60)
    ]
    matrices = []
    for place, changes in enumerate(
        ({"workers": 1, "batch_tokens": 64}, {"workers": 3, "batch_tokens": 512})
    ):
        lake = config.lake.model_copy(update={"root": config.lake.root / str(place)})
        settings = with_embedding(config, model=str(llama_folder), **changes).model_copy(
            update={"lake": lake}
        )
        context = step_context(spark, settings)
        add_items(context, rows)
        embed_items(context, [END])
        matrices.append(ContentMatrix(matrix_path(context)).gather(np.arange(1, 61)).numpy())
    left, right = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in matrices)
    assert (left * right).sum(axis=1).min() >= 0.9999


def test_vector_beyond_fp16_writes_nothing(spark: SparkSession, config: Config, tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "loud", scale=1e6)
    context = step_context(spark, with_embedding(config, model=str(folder)))
    add_items(context, LAMPS)
    with pytest.raises(
        QualityError, match=r"^embed_items: \d of \d texts got NaN, infinity or more"
    ) as error:
        embed_items(context, [END])
    assert "\n" not in str(error.value)
    assert context.tables.read("content_embeddings").count() == 0
    assert not matrix_path(context).exists()


def test_gpu_that_is_not_there_is_said_in_one_line(lamps: Context) -> None:
    config = with_embedding(lamps.config, device="cuda")
    context = Context(config, lamps.spark, lamps.tables, lamps.ledger, lamps.mark, lamps.progress)
    with pytest.raises(
        ConfigError, match="^embed_items: device cuda is asked for, but torch .* sees no"
    ) as error:
        embed_items(context, [END])
    assert "\n" not in str(error.value)


def test_no_items_is_said(spark: SparkSession, config: Config) -> None:
    with pytest.raises(ConfigError, match="no items before 2011-11-27"):
        embed_items(step_context(spark, config), [END])


def test_meta_says_what_the_contract_wants(lamps: Context) -> None:
    embed_items(lamps, [END])
    meta = json.loads((matrix_path(lamps) / "meta.json").read_text())
    wanted = {"rows": 4, "dim": 384, "dtype": "float16", "encoder_id": encoder_id(lamps.config)}
    assert {key: meta[key] for key in wanted} == wanted
