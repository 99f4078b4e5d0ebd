"""Retrieval systems side by side: the same rows, candidates, ties and figures for all.

Shapes: B test rows, H history length, T target length, I items (padding, item 0, included), K embedding width,
P (row, item) pairs of targets, Q (row, item) pairs of history.
"""

import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from models.baselines.history import Cooccurrence, LastItems, block_ranks
from models.baselines.mean_content import item_vectors, user_means
from models.baselines.popularity import log_popularity, recent_log_popularity, training_counts
from models.checkpoint import load_retriever
from models.content import ContentMatrix
from models.metrics import target_ranks
from models.result import write_result
from models.segments import Figures, Segments
from models.snapshot import open_snapshot
from models.spec import Settings, require_folder
from models.stream import read_column
from models.validation import distinct_targets

TRAIN_COLUMNS = ("user_id", "hist_items", "tar_items")
TEST_COLUMNS = ("user_id", "hist_items", "hist_ts", "hist_len", "tar_items")


class SystemConfig(Settings):
    """A system.

    Attributes:
        name: names its figures and its file of ranks.
        kind: `model` (towers, SASRec, HSTU in `folder`), `popularity` (training occurrences), `last_item`,
            `cooccurrence` (models/baselines/history.py), `mean_content` (models/baselines/mean_content.py).
        folder: of the trained model.
        prior_weight: weight of log(1 + recent purchases) beside the score; not for popularity and last_item.
        content_matrix: another encoder's matrix of the same items, for `model` and `mean_content`.
        recency_decay: cooccurrence's weight of an event relative to the one after it.
    """

    name: str = Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=100)
    kind: Literal["model", "popularity", "last_item", "cooccurrence", "mean_content"]
    folder: Path | None = None
    prior_weight: float = Field(0.0, ge=0)
    content_matrix: Path | None = None
    recency_decay: float = Field(0.9, gt=0, le=1)

    @model_validator(mode="after")
    def _check_kind(self) -> "SystemConfig":
        if (self.folder is None) == (self.kind == "model"):
            raise ValueError(f"system {self.name}: kind model needs a folder, no other kind has one")
        if self.content_matrix and self.kind not in ("model", "mean_content"):
            raise ValueError(f"system {self.name}: kind {self.kind} uses no content_matrix")
        if self.prior_weight and self.kind in ("popularity", "last_item"):
            raise ValueError(f"system {self.name}: kind {self.kind} takes no prior_weight")
        return self


class SystemsSpec(Settings):
    """The spec of `evaluate-systems`.

    Attributes:
        train_snapshot: `sequences` rows that the systems were trained on (user_id, hist_items, tar_items).
        test_snapshot: rows whose targets are asked for (user_id, hist_items, hist_ts, hist_len, tar_items); those
            without a history or a target are left out and counted.
        content_matrix: folder of the content matrix; its items are the candidates.
        out_dir: gets result.json, and <name>.npz a system: row, user (a hash), item and rank of every target,
            in the same order in all files.
        systems: what is measured.
        ks: lengths of the lists.
        keep_seen: whether items of the history are candidates; if not, targets that the history holds are left
            out and counted.
        prior_days: the prior counts purchases in the last so many days of the test rows' histories.
        cold_item_max: an item with at most so many training occurrences is cold.
        long_tail_max: one with at most so many, and not cold, is of the long tail.
        cold_user_max: a row with at most so many history items is a cold user's.
        resamples, seed: of the bootstrap over users.
        threads: torch threads.
    """

    train_snapshot: Path
    test_snapshot: Path
    content_matrix: Path
    out_dir: Path
    systems: tuple[SystemConfig, ...] = Field(min_length=1)
    ks: tuple[int, ...] = Field((10, 50), min_length=1)
    keep_seen: bool = True
    prior_days: int = Field(28, gt=0)
    cold_item_max: int = Field(0, ge=0)
    long_tail_max: int = Field(10, ge=0)
    cold_user_max: int = Field(5, ge=0)
    resamples: int = Field(1000, gt=0)
    seed: int = Field(1, ge=0)
    threads: int = Field(2, gt=0)

    @field_validator("systems")
    @classmethod
    def _check_names(cls, systems: tuple[SystemConfig, ...]) -> tuple[SystemConfig, ...]:
        names = [system.name for system in systems]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"systems of one name: {', '.join(twice)}")
        return systems


class SystemsTask:
    """Rows, candidates and segments, and any system's ranks over them."""

    def __init__(self, spec: SystemsSpec) -> None:
        self.spec = spec
        self.content = ContentMatrix(require_folder(spec.content_matrix, "content_matrix"))
        train, test = (
            open_snapshot(require_folder(getattr(spec, key), key)) for key in ("train_snapshot", "test_snapshot")
        )
        for snapshot in (train, test):
            if not snapshot.rows:
                raise ValueError(f"snapshot {snapshot.path} holds no rows")
        self.train = {name: read_column(train, name) for name in TRAIN_COLUMNS}
        self.test = {name: read_column(test, name) for name in TEST_COLUMNS}
        items = self.content.rows
        largest = max(int(rows[name].max()) for rows in (self.train, self.test) for name in ("hist_items", "tar_items"))
        if largest >= items:
            raise ValueError(f"item_idx {largest} of the snapshots is outside the content matrix of {items} rows")
        self.count_I = training_counts(*(self.train[name] for name in TRAIN_COLUMNS), items)
        self.prior_I = recent_log_popularity(test, items, spec.prior_days)
        self.target_P2 = distinct_targets(self.test["hist_len"], self.test["tar_items"])
        self.num_dropped = 0
        self.hidden_Q2 = np.empty((0, 2), np.int64)
        if not spec.keep_seen:
            self._hide_seen()
        if not len(self.target_P2):
            raise ValueError(f"test_snapshot: no row of {test.path} has a history and a target to rank")
        self.segments = self._segments()

    def _hide_seen(self) -> None:
        row_Q, place_Q = np.nonzero(self.test["hist_items"] > 0)
        pair_Q2 = np.stack([row_Q, self.test["hist_items"][row_Q, place_Q]], axis=1).astype(np.int64)
        key_Q, key_P = (pair_2[:, 0] * self.content.rows + pair_2[:, 1] for pair_2 in (pair_Q2, self.target_P2))
        is_seen_P = np.isin(key_P, key_Q)
        self.num_dropped, self.target_P2 = int(is_seen_P.sum()), self.target_P2[~is_seen_P]
        self.hidden_Q2 = np.stack(np.divmod(np.unique(key_Q), self.content.rows), axis=1)

    def _segments(self) -> Segments:
        spec, (row_P, item_P) = self.spec, self.target_P2.T
        count_P, length_P = self.count_I[item_P], self.test["hist_len"][row_P]
        is_cold_P, is_tail_P = count_P <= spec.cold_item_max, count_P <= spec.long_tail_max
        is_in = {
            "all": np.ones(len(row_P), bool),
            "cold_items": is_cold_P,
            "long_tail_items": is_tail_P & ~is_cold_P,
            "other_items": ~is_tail_P & ~is_cold_P,
            "cold_users": length_P <= spec.cold_user_max,
            "other_users": length_P > spec.cold_user_max,
        }
        user_P = np.unique(self.test["user_id"][row_P], return_inverse=True)[1]
        return Segments(row_P, user_P, is_in, spec.ks, spec.resamples, spec.seed)

    def about(self) -> dict[str, int]:
        """Counts of the data."""
        is_item_I = np.arange(self.content.rows) > 0
        is_cold_I, is_tail_I = (self.count_I <= most for most in (self.spec.cold_item_max, self.spec.long_tail_max))
        return {
            "rows": len(np.unique(self.target_P2[:, 0])),
            "users": int(self.segments.user_P.max()) + 1,
            "targets": len(self.target_P2),
            "items": self.content.rows - 1,
            "cold_items": int((is_cold_I & is_item_I).sum()),
            "long_tail_items": int((is_tail_I & ~is_cold_I & is_item_I).sum()),
            "rows_without_history": int((self.test["hist_len"] == 0).sum()),
            "targets_seen_left_out": self.num_dropped,
            "train_rows": len(self.train["user_id"]),
            "train_users": len(np.unique(self.train["user_id"])),
        }

    def ranks(self, system: SystemConfig) -> tuple[np.ndarray, int]:
        """Rank of every target, and how many numbers the system has learned."""
        bias_I, num = system.prior_weight * self.prior_I.astype(np.float64), 0
        bias_I[0] = -np.inf  # padding is no candidate
        hist_BH, hist_len_B = self.test["hist_items"], self.test["hist_len"].astype(np.int64)
        if system.kind in ("last_item", "cooccurrence"):
            scores = LastItems(self.count_I) if system.kind == "last_item" else self._cooccurrence(system)
            return block_ranks(scores, hist_BH, hist_len_B, self.target_P2, self.hidden_Q2, bias_I), num
        if system.kind == "popularity":
            user_BK, item_IK = np.zeros((len(hist_BH), 1), np.float32), np.zeros((len(bias_I), 1), np.float32)
            bias_I = bias_I + log_popularity(self.count_I)
        else:
            content = self._content(system)
            item_I = np.arange(self.content.rows)
            if system.kind == "mean_content":
                user_BK = user_means(torch.from_numpy(hist_BH).long(), content).numpy()
                item_IK = item_vectors(torch.from_numpy(item_I), content).numpy()
            else:
                model = load_retriever(system.folder)
                num = sum(p.numel() for p in model.parameters() if p.requires_grad)
                user_BK = model.embed_users(hist_BH, hist_len_B, content, hist_ts_BH=self.test["hist_ts"])
                item_IK = model.embed_items(item_I, content)
        tensors = (torch.from_numpy(array) for array in (user_BK, item_IK, bias_I.astype(np.float32)))
        return target_ranks(*tensors, self.target_P2, self.hidden_Q2), num

    def _cooccurrence(self, system: SystemConfig) -> Cooccurrence:
        return Cooccurrence(*(self.train[name] for name in TRAIN_COLUMNS), self.content.rows, system.recency_decay)

    def _content(self, system: SystemConfig) -> ContentMatrix:
        if system.content_matrix is None:
            return self.content
        content = ContentMatrix(require_folder(system.content_matrix, f"content_matrix of system {system.name}"))
        if content.rows != self.content.rows:
            raise ValueError(
                f"system {system.name}: {content.path} has {content.rows} rows, the candidates' matrix "
                f"{self.content.path} {self.content.rows}: both must hold the same items"
            )
        return content


def run(spec: SystemsSpec) -> dict[str, object]:
    """Figures of every system, as `Segments.figures`, with seconds (of loading, scoring and ranking) and parameters.

    A target's rank is 1 + the number of other candidates that score as high or higher: ties count against it.

    Raises:
        ValueError: snapshots, matrices or models do not fit together.
    """
    torch.set_num_threads(spec.threads)
    task = SystemsTask(spec)
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    result = {"data": task.about(), "systems": {system.name: _measured(task, system) for system in spec.systems}}
    write_result(spec.out_dir, result)
    return result


def _measured(task: SystemsTask, system: SystemConfig) -> Figures:
    started = time.perf_counter()
    rank_P, num_parameters = task.ranks(system)
    seconds = time.perf_counter() - started
    figures = task.segments.figures(rank_P)
    row_P, item_P = task.target_P2.T
    user_P = task.test["user_id"][row_P]
    np.savez_compressed(task.spec.out_dir / f"{system.name}.npz", row=row_P, user=user_P, item=item_P, rank=rank_P)
    first = f"recall_at_{task.spec.ks[0]}"
    print(f"{system.name}: {first} {figures[first]:.4f}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return figures | {
        "seconds": seconds,
        "seconds_per_user": seconds / len(np.unique(row_P)),
        "parameters": num_parameters,
    }
