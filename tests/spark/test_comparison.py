"""`compare` on a tiny lake: real trainings, real rankings, a rerun that trains nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.comparison import job
from learn_spark.comparison.job import compare
from learn_spark.config.comparison import TestRowsSettings
from learn_spark.config.load import load_config
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import write_item_text
from learn_spark.errors import ConfigError, QualityError, TemporaryError
from learn_spark.lake.lock import lake_lock
from learn_spark.runs.steps import Context
from learn_spark.sequences.windows import validation_day
from learn_spark.systems.test_day import known_items, purchases
from learn_spark.systems.test_rows import numbered_rows
from learn_spark.systems.trainings import write_trainings
from learn_spark.training.mlflow_runs import tracking_uri
from models.contract.settings import TrainRunConfig
from models.contract.spec import Spec
from models.data.item_texts import ItemTexts
from tests.builders.encoders import save_tiny_llama
from tests.builders.lake import ITEMS, fill_lake, tiny_context

pytestmark = pytest.mark.spark
CONF = Path(__file__).parents[2] / "conf"
SETTINGS = (
    "towers.model={d_model: 16, layers: 1, heads: 2, embedding_dim: 8}",
    "stream.rows_per_file=50",
    "comparison.resamples=20",
    "comparison.ks=[5]",
)


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("comparison")
    settings = [f"lake.root={folder}/lake", f"output.dir={folder}/output", *SETTINGS]
    context = tiny_context(spark, load_config(CONF / "test.yaml", settings))
    fill_lake(context)
    return context


def compared_on(context: Context, systems: list[str], seeds: list[int], is_final: bool = True) -> dict:
    """Runs `compare` under the lake's lock, as the command does."""
    with lake_lock(context.tables.root) as release_lake:
        return compare(context, "compare", systems, seeds, release_lake, is_final)


def test_systems_stand_side_by_side_and_a_rerun_trains_nothing(lake: Context, capsys) -> None:
    names = ["learn", "id", "sasrec", "popularity", "mean_content"]
    output = lake.config.output.dir / "comparison"
    chosen = compared_on(lake, names, [3], is_final=False)
    assert not (output / "compare.json").exists() and "test" not in chosen["protocol"]["rows"], "kept back"
    assert chosen["protocol"]["rows_measured"] == "validation"
    day = validation_day(lake.config)
    asked = purchases(lake, day).where("is_target = 1").select("user_id").distinct().count()
    assert 0 < chosen["data"]["rows"] <= asked and chosen["protocol"]["test_from"] == str(day)
    assert chosen["data"]["candidates"] == known_items(lake, day).count()
    first = compared_on(lake, names, [3])
    assert json.loads((output / "compare_validation.json").read_text()) == chosen
    told = capsys.readouterr().out.split("test rows:")
    assert len(told) == 2 and told[0].count("validation rows:") == 2, "the validation table stands first"
    assert "SASRec, full cross-entropy" in told[1]
    assert list(first["systems"]) == names
    test_rows = lake.tables.read("sequences").where("split = 'test'").count()
    bought = purchases(lake).where("is_target = 1").select("user_id").distinct().count()
    assert 10 < first["data"]["rows"] == bought < test_rows, "the tiny lake's histories do not know its events"
    assert first["protocol"]["rows"]["test"] == test_rows
    known = known_items(lake).count()
    assert first["data"]["candidates"] == known < first["data"]["items"] == ITEMS
    assert first["protocol"]["candidates"] == f"{known} items known on the test day; none is drawn"
    for name, row in first["systems"].items():
        assert row["seeds"] == ([3] if name in ("learn", "id", "sasrec") else [])
        assert all(0 <= value <= 1 for value in row["metrics"]["recall_at_5"]["values"])
    assert first["systems"]["id"]["parameters"] > first["systems"]["learn"]["parameters"] > 0

    models = lake.tables.artifacts.path("models")
    before = {path: path.stat().st_mtime_ns for path in sorted(models.glob("compare-*/result.json"))}
    assert len(before) == 3
    threads = TrainRunConfig(threads=1, checkpoint_seconds=9.0)
    train = lake.config.towers.train.model_copy(update={"run": threads})
    towers = lake.config.towers.model_copy(update={"train": train})
    faster = replace(lake, config=lake.config.model_copy(update={"towers": towers}))
    assert write_trainings(faster, names, [3], faster.config.output.dir / "none.txt") == 0
    assert write_trainings(faster, names, [3, 4], faster.config.output.dir / "three.txt") == 3
    lines = (faster.config.output.dir / "three.txt").read_text().splitlines()
    assert [line.split()[3] for line in lines] == ["train-towers", "train-towers", "train-sequential"]
    assert all(json.loads(Path(line.split()[-1]).read_text())["train"]["seed"] == 4 for line in lines)
    second = compared_on(lake, names, [3])
    assert {path: path.stat().st_mtime_ns for path in sorted(models.glob("compare-*/result.json"))} == before
    assert second == first
    _check_runs(lake, before)
    assert json.loads((output / "compare.json").read_text())["data"] == first["data"]
    assert "Popularity" in (output / "compare.html").read_text()
    assert {Path(file).parent for file in first["ranks"]} == {output / "compare_ranks"}
    assert {Path(file).stem.split(".")[0] for file in first["ranks"]} == set(first["systems"])
    with np.load(first["ranks"][0]) as ranks:
        assert len(ranks["row"]) == len(ranks["rank"]) > 0


def _check_runs(lake: Context, results: dict[Path, int]) -> None:
    """Asserts one MLflow run per training, with its curve and no weights, one per comparison, no registered model."""
    client = MlflowClient(tracking_uri(lake.config))
    experiment = client.get_experiment_by_name(lake.config.mlflow.experiment).experiment_id
    runs = {run.data.tags["model"]: run for run in client.search_runs([experiment])}
    trained = {name: runs.pop(name) for name in ("compare-learn", "compare-id", "compare-sasrec")}
    assert set(runs) == {"compare", "compare_validation"}
    assert not client.search_registered_models()
    for file in results:
        run = trained[file.parent.name.rsplit("-", 2)[0]]
        assert run.data.params["train.seed"] == "3"
        assert run.data.metrics["result.best_step"] == json.loads(file.read_text())["best_step"]
        assert client.get_metric_history(run.info.run_id, "recall_at_50")
        kept = {Path(one.path).name for one in client.list_artifacts(run.info.run_id, "model")}
        assert kept == {"config.json", "metrics.jsonl", "result.json", "spec.json"}


@pytest.mark.long
def test_nights_go_on_beside_a_comparisons_trainings(lake: Context, monkeypatch) -> None:
    train, seen = job.run_trainer, []

    def beside(spec: Spec, *rest: object) -> dict:
        if not seen:
            with lake_lock(lake.tables.root):
                seen.append(spec.command)
            with pytest.raises(TemporaryError, match="another comparison trains on this lake"):
                compared_on(lake, ["popularity"], [5])
        return train(spec, *rest)

    monkeypatch.setattr(job, "run_trainer", beside)
    compared_on(lake, ["learn", "popularity"], [5])
    assert seen == ["train-towers"]


def test_random_content_has_a_row_an_item(lake: Context) -> None:
    folder = next(lake.tables.artifacts.path("matrix").glob("random-*"))
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["rows"], meta["dim"]) == (ITEMS + 1, 16)


@pytest.mark.long
def test_another_encoders_vectors_are_made_once(lake: Context) -> None:
    define = "comparison.define={bert: {title: B, kind: mean_content, embedding: {template: brief, pooling: cls}}}"
    settings = [f"lake.root={lake.config.lake.root}", f"output.dir={lake.config.output.dir}", *SETTINGS, define]
    other = replace(lake, config=load_config(CONF / "test.yaml", settings))
    metrics = compared_on(other, ["bert", "mean_content"], [1])["systems"]
    assert metrics["bert"]["metrics"] != metrics["mean_content"]["metrics"]
    vectors = other.tables.read("content_embeddings").where("encoder_id LIKE 'bert-%'")
    assert vectors.select("text_hash").distinct().count() == vectors.count() == ITEMS
    version = other.tables.version("content_embeddings")
    compared_on(other, ["bert"], [1])
    assert other.tables.version("content_embeddings") == version


@pytest.mark.long
def test_a_training_that_diverges_does_not_cost_the_others(lake: Context, capsys) -> None:
    define = "comparison.define={wild: {title: Wild, kind: sequential, train: {learning_rate: 1.0e+30}}}"
    settings = [f"lake.root={lake.config.lake.root}", f"output.dir={lake.config.output.dir}", *SETTINGS, define]
    other = replace(lake, config=load_config(CONF / "test.yaml", settings))
    compared = compared_on(other, ["wild", "popularity"], [1])
    assert list(compared["systems"]) == ["popularity"]
    assert list(compared["diverged"]) == ["wild with seed 1"]
    assert "wild with seed 1 has no model: train-sequential: " in capsys.readouterr().out
    with pytest.raises(QualityError, match="train-sequential: "):
        compared_on(other, ["wild"], [1])


@pytest.mark.long
def test_language_models_are_trained_and_asked(lake: Context, tmp_path: Path, capsys) -> None:
    """Uses a tiny random checkpoint, so it tests the mechanics, not the figures."""
    llm = f"llm: {{model: {save_tiny_llama(tmp_path / 'llama')}, lora: {{rank: 2}}}}"
    short = "history: 1, max_tokens: 8, heading: red, question: blue, train_rows: 40, validation_rows: 9, candidates: 4"
    define = [
        f"pch: {{title: P, kind: towers, model: {{user_tower: llm, item_tower: mlp, max_len: 20, {llm}}}}}",
        f"pairs: {{title: N, kind: notellm, model: {{{llm}, max_tokens: 8, instruction: red}}}}",
        f"tuned: {{title: T, kind: prompt, model: {{{llm}, {short}}}, train: {{batch_size: 4}}}}",
        f"zero: {{title: Z, kind: prompt, model: {{{llm.replace('lora: {rank: 2}', 'lora: null')}, {short}}}}}",
    ]
    settings = [f"lake.root={lake.config.lake.root}", f"output.dir={lake.config.output.dir}", *SETTINGS]
    settings += [f"comparison.define={{{', '.join(define)}}}", "comparison.sampled={rows: 7, candidates: 4, seed: 1}"]
    other = replace(lake, config=load_config(CONF / "test.yaml", settings))
    write_item_text(other, template(other.config.embedding.template), before=other.config.windows.end)
    names = ["pch", "pairs", "tuned", "zero", "popularity"]
    compared = compared_on(other, names, [1])
    assert list(compared["systems"]) == ["pch", "pairs", "popularity"]
    assert list(compared["sampled"]["systems"]) == names
    for name, row in compared["sampled"]["systems"].items():
        assert 0 < row["metrics"]["mrr"]["mean"] <= 1, name
        assert ("tokens_per_user" in row) == (name in ("tuned", "zero"))
    assert "7 rows, 4 sampled candidates each" in capsys.readouterr().out
    assert "mechanics and cost" in (other.config.output.dir / "comparison" / "compare.html").read_text()
    (texts,) = lake.tables.artifacts.path("snapshots").glob("item-texts-*")
    prompts = {row.prompt for row in lake.tables.read("item_text").collect()}
    assert set(ItemTexts(texts).of(np.arange(1, ITEMS + 1))) == prompts


OWN = [  # user, history, targets
    ("user01", ["item03", "gone", "item05", "item05"], ["item09"]),
    ("user02", [], ["item10"]),
    ("stranger", ["item02"], ["item04", "new", "newer", "item04"]),
    ("user07", None, ["item07", "item08"]),
]


@pytest.mark.parametrize("form", ["parquet", "json", "csv"])
def test_rows_of_an_own_table_are_ranked_as_they_stand(lake: Context, tmp_path: Path, form: str) -> None:
    settings = TestRowsSettings(path=own_table(tmp_path, form), where="split = 'test'", history="past", separator="|")
    found = {row.user_id: row for row in numbered_rows(lake, settings).collect()}
    length = lake.config.sequences.history_length
    events = lake.tables.read("interactions").where(F.col("ds") < F.lit(lake.config.windows.end)).orderBy("event_ts")
    own = [(row.user_id, row.item_idx) for row in events.select("user_id", "item_idx").collect()]
    for user, past, _ in OWN:
        row, from_lake = found.pop(user), past is None or (form == "csv" and not past)
        given = [int(item[4:]) for item in past or [] if item != "gone"]
        expected = [item for who, item in own if who == user] if from_lake else given
        assert row.hist_items == expected + [0] * (length - row.hist_len) and row.hist_len == len(expected)
        assert len(row.hist_ts) == length
        assert row.tar_len == sum(number > 0 for number in row.tar_items)
        targets = {"stranger": ([4, 0], 2), "user01": ([9, 0], 0), "user02": ([10, 0], 0), "user07": ([7, 8], 0)}
        assert (row.tar_items, row.tar_unknown) == targets[user]
    assert not found


def own_table(folder: Path, form: str) -> Path:
    """Writes a user's own test rows in a format; a missing history becomes an empty cell in csv."""
    rows = [{"user_id": user, "past": past, "item_id": tar, "split": "test"} for user, past, tar in OWN]
    rows.append({"user_id": "user09", "past": ["item01"], "item_id": ["item02"], "split": "train"})
    file = folder / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif form == "json":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [[row["user_id"], "|".join(row["past"] or []), "|".join(row["item_id"]), row["split"]] for row in rows]
        file.write_text("\n".join(map(",".join, [["user_id", "past", "item_id", "split"], *lines])))
    return file


def test_systems_are_compared_on_an_own_table(lake: Context, tmp_path: Path, caplog) -> None:
    target = lake.tables.read("sequences").where("split = 'train'").first()
    assert target is not None
    rows = [
        {"user_id": target.user_id, "past": ["item01"], "item_id": f"item{target.tar_items[0]:02d}", "split": "test"},
        {"user_id": "stranger", "past": ["item02"], "item_id": "new", "split": "test"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    settings = TestRowsSettings(path=tmp_path / "rows.parquet", history="past")
    found = compared_on(with_test_rows(lake, settings), ["popularity"], [1])
    counts = {"rows": 2, "targets": 2, "targets_no_candidate": 1, "targets_trained": 1, "candidates": ITEMS}
    assert {name: found["data"][name] for name in counts} == counts
    assert found["protocol"]["split"] == f"rows of {tmp_path}/rows.parquet"
    assert "1 of 2 test targets are targets of the same user in training" in caplog.text
    with np.load(found["ranks"][0]) as ranks:
        assert sorted(ranks["item"].tolist()) == [0, target.tar_items[0]]
    for changes, message in [
        ({"path": tmp_path / "none.csv"}, "none.csv is not there"),
        ({"target": "wanted"}, "has no column wanted; it has user_id, past, item_id, split"),
        ({"where": "label = 1"}, "'label = 1' fits no row"),
        ({"where": "split = 'val'"}, "no row of .* has a history"),
    ]:
        with pytest.raises(ConfigError, match=message):
            compared_on(with_test_rows(lake, settings.model_copy(update=changes)), ["popularity"], [1])


def with_test_rows(lake: Context, settings: TestRowsSettings) -> Context:
    comparison = lake.config.comparison.model_copy(update={"test_rows": settings})
    return replace(lake, config=lake.config.model_copy(update={"comparison": comparison}))
