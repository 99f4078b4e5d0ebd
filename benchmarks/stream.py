"""Training through Petastorm against the same loop over tensors in memory: seconds for the same number of steps.

Sizes are layers: 2 as in the demo's towers, and 6. Both train on all rows three times by the trainer's own loop, which
prepares batches (sampling, content vectors) ahead in a thread; they differ only in where the rows come from. The clock
includes the opening of readers; evaluation is left out.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target
from models.contract.snapshot import Snapshot, open_snapshot
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.training.distributed import Ranks
from models.training.train_towers import COLUMNS, TowersSpec, TowersTask
from models.training.trainer import Batch, Trainer

BATCH, EPOCHS, ROWS, QUICK_ROWS = 128, 3, 12_800, 2_560
HIST, TAR, NUM_ITEMS, CONTENT_DIM = 50, 20, 3_700, 384  # as in the demo
ROWS_PER_FILE = 5_000
CHECKSUM = "checksum"

CHECK = "benchmarks.stream:check_rows"
BENCH = Benchmark(
    name="stream",
    sizes=(2, 6),
    quick_sizes=(2,),
    prepare="benchmarks.stream:prepare",
    contenders=(
        Contender("memory", "benchmarks.stream:from_memory", CHECK),
        Contender("petastorm", "benchmarks.stream:through_petastorm", CHECK),
    ),
    ratios=(Ratio("memory", "petastorm", Target(">=", 0.95)),),
)


class Counted(TowersTask):
    """Sums up the rows that it trains on; evaluates nothing."""

    total = 0

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, int]]:
        for batch, num_rows in super().batches(epoch, start):
            self.total += int(batch["tar_items"].sum()) + num_rows
            yield batch, num_rows

    def evaluate(self) -> dict[str, float]:
        return {self.metric: 0.0}


class FromMemory(Counted):
    """Batches of the same rows from tensors in memory, in another order."""

    def __init__(self, spec: TowersSpec, train: Snapshot, val: Snapshot, content: ContentMatrix) -> None:
        super().__init__(spec, train, val, content)
        self.rows = {name: torch.from_numpy(read_column(train, name)) for name in COLUMNS}

    def _reader(self, epoch: int) -> "MemoryReader":
        return MemoryReader(self.rows, epoch)


class MemoryReader:
    """Reads an epoch from tensors in memory."""

    def __init__(self, rows: dict[str, Tensor], epoch: int) -> None:
        self.rows, self.epoch = rows, epoch

    def __len__(self) -> int:
        return len(self.rows["hist_len"]) // BATCH

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.rows["hist_len"]), generator=torch.Generator().manual_seed(self.epoch))
        for rows in order.split(BATCH)[start:]:
            yield {name: values[rows] for name, values in self.rows.items()}


def prepare(task: Task) -> None:
    """Makes a training and a validation snapshot, and content vectors."""
    write_sequences(_inputs(task) / "train", QUICK_ROWS if task.quick else ROWS, seed=1)
    write_sequences(_inputs(task) / "val", BATCH, seed=2)
    matrix = _inputs(task) / "matrix"
    matrix.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(3).normal(size=(NUM_ITEMS + 1, CONTENT_DIM)).astype("<f2")
    vectors[0] = 0
    vectors.tofile(matrix / "vectors.f16")
    meta = {"rows": NUM_ITEMS + 1, "dim": CONTENT_DIM, "dtype": "float16", "encoder_id": "random"}
    (matrix / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def from_memory(task: Task) -> None:
    """Training on rows from tensors in memory."""
    _train(task, FromMemory)


def through_petastorm(task: Task) -> None:
    """Training on rows through Petastorm, as real trainings get them."""
    _train(task, Counted)


def check_rows(task: Task) -> None:
    """The sum over all rows that the contender has left."""
    task.figures["checksum"] = (task.output / CHECKSUM).read_text(encoding="utf-8")


def leave_checksum(task: Task, checksum: str) -> None:
    """Writes a contender's checksum into its output folder, for `check_rows`."""
    task.output.mkdir(parents=True, exist_ok=True)
    (task.output / CHECKSUM).write_text(checksum, encoding="utf-8")


def write_sequences(folder: Path, rows: int, seed: int) -> None:
    """Writes a snapshot as the export does; keeps an existing one."""
    if (folder / "manifest.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng, files = np.random.default_rng(seed), []
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        table = _sequences(rng, start, min(ROWS_PER_FILE, rows - start))
        file = folder / f"part-{number:05d}.parquet"
        pq.write_table(table, file, row_group_size=len(table))
        entry = {"path": file.name, "rows": len(table), "bytes": file.stat().st_size}
        files.append(entry | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    schema = {field.name: str(field.type) for field in table.schema}
    manifest = {"source_table": "random", "source_version": 0, "schema": schema, "rows": rows, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _sequences(rng: np.random.Generator, first: int, rows: int) -> pa.Table:
    columns = {"user_id": pa.array([f"user {first + row}" for row in range(rows)])}
    for side, width in (("hist", HIST), ("tar", TAR)):
        length = rng.integers(1, width + 1, rows).astype(np.int32)
        items = rng.integers(1, NUM_ITEMS + 1, (rows, width)).astype(np.int32)
        items[np.arange(width) >= length[:, None]] = 0
        columns |= {f"{side}_items": pa.array(list(items)), f"{side}_len": pa.array(length)}
        if side == "hist":
            columns["hist_ts"] = pa.array(list(np.where(items > 0, 1_300_000_000, 0)))
    return pa.table(columns)


def _train(task: Task, kind: type[Counted]) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(1)
    inputs, layers = _inputs(task), int(task.size)
    spec = TowersSpec(
        train_snapshot=inputs / "train",
        val_snapshot=inputs / "val",
        content_matrix=inputs / "matrix",
        out_dir=task.output,
        towers={"d_model": 64, "heads": 2, "layers": layers, "content_residual": True},
        loss={"mask_false_negatives": True},
        train={"batch_size": BATCH, "epochs": EPOCHS, "run": {"checkpoint_seconds": 1e9}, "patience": EPOCHS + 1},
    )
    snapshots = [open_snapshot(folder) for folder in (spec.train_snapshot, spec.val_snapshot)]
    trained = kind(spec, *snapshots, ContentMatrix(spec.content_matrix))
    trainer = Trainer(trained, spec.train, spec.out_dir, "benchmark", Ranks())
    with task.clock():
        result = trainer.run()
    task.figures = {"steps": result.steps}
    leave_checksum(task, f"{result.samples}:{trained.total}")


def _inputs(task: Task) -> Path:
    return task.folder / "stream_inputs" / ("quick" if task.quick else "full")


if __name__ == "__main__":
    sys.exit(main(BENCH))
