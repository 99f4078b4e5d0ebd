"""Variants of content, with a tiny BERT: each is evaluated on the vectors that its encoder gives."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.__main__ import main
from models.contract.content_spec import ContentSpec, ContentVariant
from models.contract.evaluation_specs import RankerSpec
from models.contract.result import write_spec
from models.contract.settings import RankerConfig
from models.data.content import ContentMatrix
from models.encoder.encoder import Encoder
from models.evaluation.measure_content import _mark_front, run
from models.metrics.segments import Segments
from tests.builders.encoders import WORDS, save_tiny_bert
from tests.builders.tensors import write_snapshot

ITEMS, USERS, HIST, TAR = 40, 30, 4, 2
BASE = ContentVariant(template="title", layer=2, pooling="mean")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def texts() -> pa.Table:
    """Texts by template: two items share a text, one has none; the template `silent` gives only empty texts."""
    rng = np.random.default_rng(3)
    titles = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(ITEMS)]
    titles[1], titles[2] = titles[0], ""
    briefs = [f"title: {title}" if title else "" for title in titles]
    return pa.table({"item_idx": range(1, ITEMS + 1), "title": titles, "brief": briefs, "silent": [""] * ITEMS})


@pytest.fixture(scope="module")
def spec(bert: Path, texts: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> ContentSpec:
    folder, rng = tmp_path_factory.mktemp("content"), np.random.default_rng(4)
    hist, tar = (rng.integers(1, ITEMS + 1, (USERS, width)).astype(np.int32) for width in (HIST, TAR))
    rows = pa.table(
        {
            "user_id": [f"u{user:02d}" for user in range(USERS)],
            "hist_items": pa.array(hist.tolist(), pa.list_(pa.int32())),
            "hist_ts": pa.array([[1_300_000_000] * HIST] * USERS, pa.list_(pa.int64())),
            "hist_len": pa.array([HIST] * USERS, pa.int32()),
            "tar_items": pa.array(tar.tolist(), pa.list_(pa.int32())),
        }
    )
    return ContentSpec(
        texts=write_snapshot(folder / "texts", texts),
        templates=("title", "brief"),
        layers=(1, 2),
        poolings=("mean", "cls"),
        base=BASE,
        model=bert,
        max_tokens=32,
        rows=write_snapshot(folder / "rows", rows),
        candidates="catalogue",
        metric="recall_at_5",
        ks=(5,),
        resamples=50,
        out_dir=folder / "measured",
    )


def test_each_variant_retrieves_by_what_its_encoder_gives(spec: ContentSpec, texts: pa.Table) -> None:
    found = run(spec)
    assert found == json.loads((spec.out_dir / "result.json").read_text()) | {"templates": found["templates"]}
    assert found["layers"] == 2
    rows = {f"{row['template']}-{row['layer']}-{row['pooling']}": row for row in found["variants"]}
    assert list(rows) == [variant.name for variant in spec.variants]
    assert len(rows) == 8
    assert rows[BASE.name]["gain"] == {
        "recall_at_5": 0,
        "ndcg_at_5": 0,
        "ci90": {"recall_at_5": [0, 0], "ndcg_at_5": [0, 0]},
    }
    for variant in spec.variants:
        encoder = Encoder.load(spec.model, None, variant.pooling, 32, "float32", "cpu", variant.layer)
        vectors, _ = encoder.encode(texts[variant.template].to_pylist(), 4096)
        vectors[[text == "" for text in texts[variant.template].to_pylist()]] = 0
        content = ContentMatrix(spec.matrix(variant))
        np.testing.assert_allclose(content.gather(np.arange(1, ITEMS + 1)), vectors, atol=2e-3)
        row = rows[variant.name]
        assert row["gain"]["recall_at_5"] == pytest.approx(row["recall_at_5"] - rows[BASE.name]["recall_at_5"])
        low, high = row["gain"]["ci90"]["recall_at_5"]
        assert low <= row["gain"]["recall_at_5"] <= high
        assert row["bad"] == 0
    assert rows["brief-1-mean"]["seconds"] < rows["brief-2-mean"]["seconds"]
    assert found["templates"]["title"]["texts"] < ITEMS - 1
    assert found["templates"]["title"]["items_without"] == 1
    assert rows["brief-1-cls"]["tokens"] > rows["title-1-cls"]["tokens"]
    assert any(row["is_front"] for row in rows.values())


def test_a_ranker_gains_by_content_that_tells_the_label(spec: ContentSpec, texts: pa.Table, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    item_N, is_red = (
        rng.integers(1, ITEMS + 1, 6000),
        np.array([False, *("red" in t for t in texts["title"].to_pylist())]),
    )
    label_N = np.where(rng.random(6000) < 0.1, rng.random(6000) < 0.5, is_red[item_N]).astype(np.int32)
    day_N = np.arange(6000) * 9 // 6000
    users = [f"u{user:02d}" for user in rng.integers(USERS + 5, size=6000)]
    samples = pa.table(
        {
            "user_id": users,
            "item_idx": item_N.astype(np.int32),
            "label": label_N,
            "weight": np.ones(6000),
            "is_test": (day_N >= 6).astype(np.int32),
            "day": day_N.astype(np.int32),
            "noise": rng.random(6000).astype(np.float32),
        }
    )
    ranker = RankerSpec(
        rows=write_snapshot(tmp_path / "samples", samples),
        content_matrix=tmp_path,
        base=("noise",),
        ranker=RankerConfig(max_iter=20),
        resamples=20,
        num_seeds=1,
        out_dir=tmp_path,
    )
    only = {
        "templates": ("title",),
        "layers": (2,),
        "poolings": ("mean",),
        "ranker": ranker,
        "out_dir": tmp_path / "out",
    }
    (row,) = run(spec.model_copy(update=only))["variants"]
    assert row["ranker"]["auc_without"] == pytest.approx(0.5, abs=0.05)
    assert row["ranker"]["auc_gain_ci90"][0] > 0.2
    assert row["ranker"]["rows"] == 2000


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers": (1, 3)}, "layer 3: the model has 2 layers, from 1, the first, to 2, the last"),
        ({"templates": ("silent",)}, "template silent: no item of the sample has any of its fields"),
    ],
)
def test_what_cannot_be_measured_is_named(
    spec: ContentSpec, tmp_path: Path, capsys: pytest.CaptureFixture, changes: dict, complaint: str
) -> None:
    wrong = spec.model_copy(update=changes | {"out_dir": tmp_path / "out"})
    assert main(["measure-content", "--spec", str(write_spec(wrong))]) == 2
    assert complaint in capsys.readouterr().err


def test_the_front_is_what_nothing_beats_in_both() -> None:
    rows = [
        {"m": quality, "seconds": seconds, "bad": bad}
        for quality, seconds, bad in (
            (0.3, 6.0, 0),
            (0.3, 4.0, 0),
            (0.2, 4.0, 0),
            (0.1, 1.0, 0),
            (0.1, 2.0, 0),
            (0.9, 1.0, 3),
        )
    ]
    _mark_front(rows, "m")
    assert [row["is_front"] for row in rows] == [False, True, False, True, False, False]


def test_the_interval_of_a_gain_is_over_pairs() -> None:
    """If two rankings differ equally for every user, the gain's interval has no width, however the users differ."""
    rank_P = np.arange(1, 41)
    segments = Segments(np.arange(40), np.arange(40), {"all": np.ones(40, bool)}, (20,), 100, 1)
    assert segments.gains(rank_P, rank_P)["ci90"]["recall_at_20"] == [0, 0]
    better = segments.gains(np.ones(40, int), np.full(40, 99))
    assert better["recall_at_20"] == 1
    assert better["ci90"]["recall_at_20"] == [1, 1]
    first, second = segments.figures(rank_P), segments.figures(rank_P[::-1] + 5)
    assert segments.gains(rank_P, rank_P[::-1] + 5)["recall_at_20"] == pytest.approx(
        first["recall_at_20"] - second["recall_at_20"]
    )
