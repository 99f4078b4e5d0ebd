"""`choose-content` on a finished lake: the setting that it prints gives the measured figures; the lake is unchanged."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from learn_spark.config.load import load_config
from learn_spark.embedding.encoders import model_source
from learn_spark.embedding.golden_texts import FILE, FOLDER
from models.contract.verified import read_sealed, sealed
from models.data.content import ContentMatrix
from models.encoder.encoder import Encoder
from tests.builders.commands import CONFIG, run_here
from tests.builders.reading import relation

pytestmark = [pytest.mark.e2e, pytest.mark.long]
VARIANTS = ("--layers", "3,6", "--pooling", "mean", "--templates", "title")
CHOOSE = ("choose-content", *VARIANTS, "--set", "comparison.resamples=20")


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_line_that_it_names_gives_what_it_measured(spark: SparkSession, finished: Path) -> None:
    before = contents(finished / "lake")
    done = run_here(finished, *CHOOSE, "--ranker")
    assert done.code == 0, done.err[-3000:]
    assert contents(finished / "lake") == before
    told = done.summary["content"]
    assert len(told["variants"]) == 2
    assert "all in history and targets of" in told["sample"]
    best = next(row for row in told["variants"] if row["is_front"])
    assert best["name"] == told["taken"]
    assert all(row["ranker"]["auc_gain_ci90"] for row in told["variants"] if row["is_front"] or row["is_base"])
    assert best["line"] in done.out
    assert not (finished / "output" / "choose_content" / "snapshots").exists(), "users' rows do not stay behind"

    pasted = finished / "pasted.yaml"
    pasted.write_text(f"extends: {CONFIG}\n{best['line']}\n")
    settings = load_config(pasted).embedding
    assert yaml.safe_load(best["line"])["embedding"] == settings.model_dump(include={"template", "layer", "pooling"})
    asked = (settings.pooling, settings.max_tokens, settings.dtype, "cpu", settings.layer)
    encoder = Encoder.load(model_source(settings.model), settings.revision, *asked)
    texts = pq.read_table(next(Path(told["texts"]).glob("*.parquet"))).to_pandas()
    assert len(texts) == told["data"]["items"] > 1000
    some = texts.iloc[::20]
    measured = ContentMatrix(Path(told["vectors"])).gather(some["item_idx"].to_numpy()).numpy()
    np.testing.assert_allclose(encoder.encode(some[settings.template].tolist(), 4096)[0], measured, atol=1e-3)
    stored = dict(relation(finished / "lake", "item_text").project("item_id, prompt").fetchall())
    assert [stored[item] for item in texts["item_id"]] == texts["title"].tolist(), "as embed_items has encoded them"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--layers", "3,7"), "--layers: layer 7: the model has 6 layers, from 1, the first, to 6, the last"),
        (("--set", "embedding.layer=9"), "embedding.layer 9: the model has 6 layers"),
        (("--items", "60"), "--items 60: the sample has"),
        (
            ("--set", "sequences.target_days=3"),
            "the lake has no sequences of 2011-11-13 by this config: run run_pipeline",
        ),
    ],
)
def test_what_cannot_be_chosen_from_is_named(spark: SparkSession, finished: Path, arguments, complaint: str) -> None:
    done = run_here(finished, *CHOOSE, *arguments)
    assert done.code == 2
    assert complaint in done.err.splitlines()[-1]


def test_an_encoder_that_makes_other_vectors_than_it_made_is_told_first(spark: SparkSession, finished: Path) -> None:
    (file,) = (finished / "lake" / "_artifacts" / FOLDER).glob(f"*/{FILE}")
    kept = read_sealed(file, "golden texts")
    kept["vectors"][3] = kept["vectors"][4]
    file.write_text(json.dumps(sealed({"vectors": kept["vectors"]})))
    done = run_here(finished, *CHOOSE)
    assert done.code == 3
    assert "makes another vector of a golden text" in done.err.splitlines()[-1]
