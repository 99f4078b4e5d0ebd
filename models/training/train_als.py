"""Trains alternating least squares by iterations over all pairs, and keeps the iteration that validates best."""

import json
import sys
import time
from dataclasses import asdict

import torch

from models.baselines.als import ALS
from models.baselines.history import incidence
from models.contract.failures import BadInput
from models.contract.result import METRICS, write_result
from models.contract.training_specs import ALSSpec
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.retrieval_rows import TRAIN_COLUMNS
from models.evaluation.validation import Validation
from models.saved import save_als
from models.training.device import device_of
from models.training.snapshot_training import opened_snapshots
from models.training.trainer import TrainResult


def run(spec: ALSSpec) -> TrainResult:
    """Train as the spec says, in one process. A killed training starts from the beginning.

    Raises:
        BadInput: a snapshot is missing, damaged or empty.
    """
    started = time.monotonic()
    train, val = opened_snapshots(spec)
    num_items = ContentMatrix(require_folder(spec.content_matrix, "content_matrix")).rows
    if spec.train.run.threads:
        torch.set_num_threads(spec.train.run.threads)
    has_UI = incidence(*(read_column(train, name) for name in TRAIN_COLUMNS), num_items=num_items)
    if not has_UI.nnz:
        raise BadInput(f"train_snapshot: no row of {train.path} holds an item")
    has_IU, validation = has_UI.T.tocsr(), Validation(val, num_items, spec.validation)
    rows, metric = validation.rows, validation.metric
    model = ALS(spec.model, num_items).to(device_of(spec.train))
    model.begin(has_IU, spec.train.seed)
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    result = TrainResult({}, 0, 0, 0, 0.0, model.item_table.numel(), "epochs")
    with (spec.out_dir / METRICS).open("w", encoding="utf-8") as log:
        for iteration in range(1, spec.model.iterations + 1):
            model.iterate(has_UI, has_IU)
            user_BK = model.embed_users(rows["hist_items"], rows["hist_len"])
            figures = validation.figures(user_BK, model.item_table.cpu().numpy())
            if not result.best or figures[metric] > result.best[metric]:
                result.best, result.best_step = figures, iteration
                save_als(spec.out_dir, model)
            result.steps, result.samples = iteration, iteration * has_UI.nnz
            result.seconds = time.monotonic() - started
            log.write(json.dumps({"step": iteration, **figures, "seconds": round(result.seconds, 3)}) + "\n")
            line = f"als: iteration {iteration} of {spec.model.iterations}, {metric} {figures[metric]:.4f}"
            print(f"{line}, best at {result.best_step}", file=sys.stderr, flush=True)
    write_result(spec.out_dir, asdict(result))
    return result
