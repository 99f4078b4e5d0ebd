"""Scoring users: the towers inside Spark, by torch and by ONNX Runtime, against one process of torch on two threads.

All read the same histories (up to 100 items) and write (user_id, user_emb); sizes are users.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from benchmarks.spark import start_session
from learn_spark.bridge.scoring import padded, score_users, vectors
from learn_spark.lake.arrow_rows import write_rows
from learn_spark.lake.schemas import USER_FEATURES, TableSpec
from models.contract.trained_model import CONFIG

ITEMS, CONTENT_DIM, LONGEST, BATCH = 50_000, 384, 100, 2048
SEED = 7
COLUMNS = tuple(column for column in USER_FEATURES.columns if column.name in ("user_id", "user_emb"))
SCORED = TableSpec("scored", "what all write", COLUMNS, key=("user_id",), checks=USER_FEATURES.checks)

CHECK = "benchmarks.score:check"
BENCH = Benchmark(
    name="score",
    sizes=(100e3, 400e3),
    quick_sizes=(5e3, 20e3),
    prepare="benchmarks.score:prepare",
    contenders=(
        Contender("ours", "benchmarks.score:ours", CHECK),
        Contender("onnx", "benchmarks.score:ours_in_onnx", CHECK),
        Contender("torch", "benchmarks.score:with_torch", CHECK),
    ),
    ratios=(Ratio("torch", "ours", Target(">=", 0.85)), Ratio("ours", "onnx")),
)


def prepare(task: Task) -> None:
    """Makes histories of all sizes, a content matrix, and towers of width 64 with random weights."""
    import json

    import torch

    from models.contract.export_specs import ONNX, OnlineSpec
    from models.contract.settings import TowersConfig
    from models.export.online_programs import run
    from models.saved import save_towers
    from models.towers.towers import Towers

    rng = np.random.default_rng(SEED)
    matrix = _matrix(task)
    matrix.mkdir(parents=True, exist_ok=True)
    (matrix / "vectors.f16").write_bytes(rng.normal(size=(ITEMS + 1, CONTENT_DIM)).astype("<f2").tobytes())
    meta = {"rows": ITEMS + 1, "dim": CONTENT_DIM, "dtype": "float16", "encoder_id": "benchmark"}
    (matrix / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    torch.manual_seed(SEED)
    if not _towers(task).exists():
        save_towers(
            _towers(task),
            Towers(TowersConfig(d_model=64, layers=2, heads=2, embedding_dim=64, max_len=LONGEST), CONTENT_DIM),
        )
    if not _programs(task).exists():
        run(OnlineSpec(towers=_towers(task), formats=(ONNX,), out_dir=_programs(task)))
        shutil.copy(_towers(task) / CONFIG, _programs(task))
    for size in task.sizes:
        lengths = rng.integers(1, LONGEST + 1, int(size))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        items = pa.array(rng.integers(1, ITEMS + 1, int(lengths.sum())).astype(np.int32))
        users = pa.array([f"u{number}" for number in range(int(size))])
        table = pa.table({"user_id": users, "item_idx": pa.ListArray.from_arrays(offsets, items)})
        _histories(task, size).mkdir(parents=True, exist_ok=True)
        for part in range(4):
            rows = table.slice(part * len(table) // 4, len(table) // 4)
            pq.write_table(rows, _histories(task, size) / f"part-{part}.parquet")


def ours(task: Task) -> None:
    """As `write_features` scores."""
    _score(task, _towers(task))


def ours_in_onnx(task: Task) -> None:
    """The same with `features.run.runtime: onnx`."""
    _score(task, _programs(task))


def _score(task: Task, towers: Path) -> None:
    spark = start_session(task, task.size)
    task.output.mkdir(parents=True)
    with task.clock():
        histories = spark.read.parquet(str(_histories(task, task.size)))
        scored = score_users(histories, towers, _matrix(task), BATCH)
        write_rows(scored, task.output, SCORED)


def with_torch(task: Task) -> None:
    """Only the model and Arrow, with histories in batches of the size that Spark makes."""
    import torch

    from models.data.content import ContentMatrix
    from models.saved import load_towers

    torch.set_num_threads(2)
    task.output.mkdir(parents=True)
    schema = pa.schema([("user_id", pa.string()), ("user_emb", pa.list_(pa.float32()))])
    with task.clock(), pq.ParquetWriter(task.output / "part.parquet", schema) as writer:
        towers, content = load_towers(_towers(task)), ContentMatrix(_matrix(task))
        for batch in ds.dataset(_histories(task, task.size)).to_batches(batch_size=10_000):
            hist_BH, hist_len_B = padded(batch.column("item_idx"))
            emb_BK = towers.embed_users(hist_BH, hist_len_B, content, batch_size=BATCH)
            writer.write_batch(pa.RecordBatch.from_arrays([batch.column("user_id"), vectors(emb_BK)], schema=schema))


def check(task: Task) -> None:
    """The number of users and the mean of all numbers to three digits; batch sizes change the last bits."""
    import duckdb

    query = f"SELECT count(*), round(avg(list_avg(user_emb::FLOAT[])), 3) FROM read_parquet('{task.output}/*.parquet')"
    users, mean = duckdb.connect(config={"threads": 2}).execute(query).fetchone()
    task.figures["checksum"] = f"{users}:{mean}"


def _matrix(task: Task) -> Path:
    return task.folder / "score_inputs" / "matrix"


def _towers(task: Task) -> Path:
    return task.folder / "score_inputs" / "towers"


def _programs(task: Task) -> Path:
    return task.folder / "score_inputs" / "programs"


def _histories(task: Task, size: float) -> Path:
    return task.folder / "score_inputs" / f"histories_{int(size)}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
