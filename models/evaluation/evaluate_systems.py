"""Retrieval systems side by side: the same rows, candidates, ties and figures for all.

Shapes: B test rows, H history length, T target length, I items (padding, item 0, included), K embedding width,
P (row, item) pairs of targets, Q (row, item) pairs of history.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.baselines.history import Cooccurrence, block_ranks, last_item_bias, last_item_shares
from models.baselines.mean_content import item_vectors, user_means
from models.baselines.popularity import log_popularity, recent_log_popularity, training_counts
from models.contract.evaluation_specs import SystemConfig, SystemsSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import open_snapshot
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.data.stream import read_column
from models.evaluation.validation import distinct_targets
from models.metrics.ranks import target_ranks
from models.metrics.sampled_candidates import SampledCandidates
from models.metrics.segments import Figures, Segments
from models.saved import load_language, load_retriever
from models.towers.repeats import held_pairs

if TYPE_CHECKING:
    from models.baselines.prompt_ranker import PromptRanker

TRAIN_COLUMNS = ("user_id", "hist_items", "tar_items")
TEST_COLUMNS = ("user_id", "hist_items", "hist_ts", "hist_len", "tar_items")


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
                raise BadInput(f"snapshot {snapshot.path} holds no rows")
        self.train = {name: read_column(train, name) for name in TRAIN_COLUMNS}
        self.test = {name: read_column(test, name) for name in TEST_COLUMNS}
        items = self.content.rows
        largest = max(int(rows[name].max()) for rows in (self.train, self.test) for name in ("hist_items", "tar_items"))
        if largest >= items:
            raise BadInput(f"item_idx {largest} of the snapshots is outside the content matrix of {items} rows")
        self.count_I = training_counts(*(self.train[name] for name in TRAIN_COLUMNS), items)
        self.prior_I = recent_log_popularity(test, items, spec.prior_days)
        self.target_P2 = distinct_targets(self.test["hist_len"], self.test["tar_items"])
        self.num_dropped = 0
        self.hidden_Q2 = np.empty((0, 2), np.int64)
        if not spec.keep_seen:
            self._hide_seen()
        if not len(self.target_P2):
            raise BadInput(f"test_snapshot: no row of {test.path} has a history and a target to rank")
        self.segments = self._segments()
        self.sampled = SampledCandidates(self.test, items, spec.sampled) if spec.sampled else None

    def _hide_seen(self) -> None:
        self.hidden_Q2, _ = held_pairs(self.test["hist_items"])
        key_Q, key_P = (pair_2[:, 0] * self.content.rows + pair_2[:, 1] for pair_2 in (self.hidden_Q2, self.target_P2))
        is_seen_P = np.isin(key_P, key_Q)
        self.num_dropped, self.target_P2 = int(is_seen_P.sum()), self.target_P2[~is_seen_P]

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

    def ranked(self, system: SystemConfig) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Rank of every target, the sampled candidates' scores, and how many numbers the system has learned."""
        bias_I, num = system.prior_weight * self.prior_I.astype(np.float64), 0
        bias_I[0] = -np.inf  # padding is no candidate
        raised: Callable[[np.ndarray], np.ndarray] | None = None  # what the history's items get, from their last places
        hist_BH, hist_len_B = self.test["hist_items"], self.test["hist_len"].astype(np.int64)
        if system.kind == "cooccurrence":
            scores = self._cooccurrence(system)
            rank_P = block_ranks(scores, hist_BH, hist_len_B, self.target_P2, self.hidden_Q2, bias_I)
            return rank_P, self._sampled(lambda rows: scores(hist_BH[rows], hist_len_B[rows]) + bias_I), num
        if system.kind in ("popularity", "last_item"):
            user_BK, item_IK = np.zeros((len(hist_BH), 1), np.float32), np.zeros((len(bias_I), 1), np.float32)
            if system.kind == "popularity":
                bias_I = bias_I + log_popularity(self.count_I)
            else:
                bias_I, raised = bias_I + last_item_shares(self.count_I), last_item_bias
        else:
            content = self._content(system)
            item_I = np.arange(self.content.rows)
            if system.kind == "mean_content":
                user_BK = user_means(torch.from_numpy(hist_BH).long(), content).numpy()
                item_IK = item_vectors(torch.from_numpy(item_I), content).numpy()
            else:
                model = load_retriever(system.folder)
                num = num_trained(model)
                user_BK = model.embed_users(hist_BH, hist_len_B, content, hist_ts_BH=self.test["hist_ts"])
                item_IK = model.embed_items(item_I, content)
                if model.repeat_bias is not None and self.spec.keep_seen:
                    raised = partial(np.full_like, fill_value=model.repeat_bias.item(), dtype=np.float64)
        bias_I = bias_I.astype(np.float32)
        tensors = map(torch.from_numpy, (user_BK, item_IK, bias_I))
        held = self.hidden_Q2, -np.inf
        if raised and self.spec.keep_seen:
            pair_Q2, place_Q = held_pairs(hist_BH)
            held = pair_Q2, raised(place_Q)
        rank_P = target_ranks(*tensors, self.target_P2, *held)

        def scores(rows: np.ndarray) -> np.ndarray:
            score_sI = user_BK[rows] @ item_IK.T + bias_I
            if raised:
                pair_q2, place_q = held_pairs(hist_BH[rows])
                score_sI[pair_q2[:, 0], pair_q2[:, 1]] += raised(place_q)
            return score_sI

        return rank_P, self._sampled(scores), num

    def prompted(self, system: SystemConfig) -> Figures:
        """A language model's figures on the sampled candidates, and what it costs."""
        model = self._prompt_ranker(system)
        started = time.perf_counter()
        scores_SC, num_tokens = model.sampled_scores(self.test, self.sampled)
        rows, candidates = scores_SC.shape
        seconds = (time.perf_counter() - started) / rows
        return self.sampled.figures(scores_SC) | {
            "parameters": num_trained(model),
            "model_parameters": sum(weight.numel() for weight in model.parameters()),
            "seconds_per_user": seconds,
            "tokens_per_user": num_tokens / rows,
            "seconds_per_user_all_items": seconds * (self.content.rows - 1) / candidates,
        }

    def _sampled(self, scores: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        return self.sampled.of_all(scores) if self.sampled else None

    def _prompt_ranker(self, system: SystemConfig) -> "PromptRanker":
        from models.baselines.prompt_ranker import PromptRanker  # transformers: for this system alone
        from models.data.item_texts import ItemTexts

        if system.folder:
            return load_language(system.folder)
        return PromptRanker(system.prompt, ItemTexts(self.spec.item_texts), self.content.rows)

    def _cooccurrence(self, system: SystemConfig) -> Cooccurrence:
        return Cooccurrence(*(self.train[name] for name in TRAIN_COLUMNS), self.content.rows, system.recency_decay)

    def _content(self, system: SystemConfig) -> ContentMatrix:
        if system.content_matrix is None:
            return self.content
        content = ContentMatrix(require_folder(system.content_matrix, f"content_matrix of system {system.name}"))
        if content.rows != self.content.rows:
            raise BadInput(
                f"system {system.name}: {content.path} has {content.rows} rows, the candidates' matrix "
                f"{self.content.path} {self.content.rows}: both must hold the same items"
            )
        return content


def run(spec: SystemsSpec) -> dict[str, object]:
    """Figures of every system, as `Segments.figures`, with seconds (of loading, scoring and ranking) and parameters.

    A target's rank is 1 + the number of other candidates that score as high or higher: ties count against it.

    Raises:
        BadInput: snapshots, matrices or models do not fit together.
    """
    torch.set_num_threads(spec.threads)
    task = SystemsTask(spec)
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    result = {"data": task.about(), "systems": {system.name: _measured(task, system) for system in spec.systems}}
    write_result(spec.out_dir, result)
    return result


def _measured(task: SystemsTask, system: SystemConfig) -> Figures:
    started = time.perf_counter()
    if system.kind == "prompt":
        figures = {"sampled": task.prompted(system)}
        _say(system, f"mrr {figures['sampled']['mrr']:.4f} of sampled candidates", started)
        return figures
    rank_P, score_SC, num_parameters = task.ranked(system)
    seconds = time.perf_counter() - started
    figures = task.segments.figures(rank_P)
    row_P, item_P = task.target_P2.T
    user_P = task.test["user_id"][row_P]
    np.savez_compressed(task.spec.out_dir / f"{system.name}.npz", row=row_P, user=user_P, item=item_P, rank=rank_P)
    first = f"recall_at_{task.spec.ks[0]}"
    _say(system, f"{first} {figures[first]:.4f}", started)
    return figures | {
        "seconds": seconds,
        "seconds_per_user": seconds / len(np.unique(row_P)),
        "parameters": num_parameters,
        "sampled": task.sampled.figures(score_SC) if task.sampled else None,
    }


def num_trained(model: torch.nn.Module) -> int:
    """How many numbers the model has learned."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _say(system: SystemConfig, what: str, started: float) -> None:
    print(f"{system.name}: {what}, {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
