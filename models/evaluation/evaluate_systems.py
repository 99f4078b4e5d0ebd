"""Measures retrieval systems side by side: with the same rows, candidates, ties and figures for all.

Shapes: I items (including padding, item 0), P (row, item) pairs of targets.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.baselines.history import Cooccurrence, last_item_bias, last_item_shares
from models.baselines.mean_content import item_vectors, user_means
from models.baselines.scorer import HistoryScorer, Scorer
from models.contract.evaluation_specs import SystemConfig, SystemsSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import Snapshot
from models.contract.whole_files import require_folder
from models.data.content import ContentMatrix
from models.evaluation.fitted import Fitted, Weights, fit_weights
from models.evaluation.retrieval_rows import TRAIN_COLUMNS, RetrievalRows, opened
from models.evaluation.validation import Validation
from models.metrics.sampled_candidates import SampledCandidates
from models.metrics.segments import Figures
from models.saved import Retriever, load_language, load_retriever, load_towers
from models.towers.typed_events import model_types

if TYPE_CHECKING:
    from models.baselines.prompt_ranker import PromptRanker

NEVER = np.iinfo(np.int32).max  # rank of a target that is no candidate


class SystemsTask:
    """Ranks and figures of any system on the same rows."""

    def __init__(self, spec: SystemsSpec) -> None:
        self.spec, self.rows = spec, RetrievalRows(spec)
        self.segments, self.new_to_user = self.rows.segments(), self.rows.new_to_user()
        drawn_D = np.flatnonzero(self.rows.is_candidate_I)
        self.fitted: dict[str, Fitted] = {}
        self.sampled = SampledCandidates(self.rows.test, drawn_D, spec.sampled) if spec.sampled else None

    def scorer(self, system: SystemConfig) -> Scorer | HistoryScorer:
        """How the system scores every item for every row."""
        if system.kind == "model":
            return self._mixed_scorer(system) if system.items_of else self._model_scorer(system)
        rows, test = self.rows, self.rows.test
        bias_I = self._bias(system.popularity_prior)
        hist_BH, hist_len_B = test["hist_items"], test["hist_len"].astype(np.int64)
        if system.kind == "cooccurrence":
            train = (rows.train[name] for name in TRAIN_COLUMNS)
            counts = Cooccurrence(*train, num_items=len(bias_I), decay=system.recency_decay)
            return HistoryScorer(counts, hist_BH, hist_len_B, bias_I)
        if system.kind == "popularity":
            return Scorer(hist_BH, bias_I + rows.popularity_I)
        if system.kind == "last_item":
            return Scorer(hist_BH, bias_I + last_item_shares(rows.popularity_I), raised=last_item_bias)
        content, item_I = self._content(system), np.arange(len(bias_I))
        scale = load_towers(system.folder).scale.item() if system.folder else 1.0
        user_BK = scale * user_means(torch.from_numpy(hist_BH).long(), content)
        return Scorer(hist_BH, bias_I, user_BK.numpy(), item_vectors(torch.from_numpy(item_I), content).numpy())

    def _mixed_scorer(self, system: SystemConfig) -> Scorer:
        """User vectors of one model, item vectors of another."""
        assert system.folder and system.items_of and system.content_matrix and system.items_matrix, "SystemConfig"
        test, rows = self.rows.test, self.rows.content.rows
        users, items = load_retriever(system.folder), load_retriever(system.items_of)
        read_by_users, read_by_items = ContentMatrix(system.content_matrix), ContentMatrix(system.items_matrix)
        item_IK = items.embed_items(read_by_items.known(np.arange(rows)), read_by_items)
        known = {**test, "hist_items": read_by_users.known(test["hist_items"])}
        user_BK = _users(users, known, read_by_users, self.rows.event_types)
        return Scorer(
            test["hist_items"], self._bias(system.popularity_prior), user_BK, item_IK, parameters=num_trained(users)
        )

    def _model_scorer(self, system: SystemConfig) -> Scorer:
        assert system.folder is not None, "SystemConfig asks for it"
        test, content, model = self.rows.test, self._content(system), load_retriever(system.folder)
        item_IK = model.embed_items(np.arange(content.rows), content)
        repeat_bias, prior = (
            model.repeat_bias.item() if model.repeat_bias is not None else None,
            system.popularity_prior,
        )
        if system.fitted:
            weights = self._fitted(system, model, item_IK, Weights(repeat_bias or 0.0, prior))
            repeat_bias, prior = weights.repeat_bias, weights.popularity_prior
        raised = None
        if repeat_bias is not None:
            raised = partial(np.full_like, fill_value=repeat_bias, dtype=np.float64)
        user_BK = _users(model, test, content, self.rows.event_types)
        return Scorer(test["hist_items"], self._bias(prior), user_BK, item_IK, raised, num_trained(model))

    def _fitted(self, system: SystemConfig, model: Retriever, item_IK: np.ndarray, first: Weights) -> Weights:
        rows, types = self.validation.rows, self._validation_snapshot.event_types
        user_BK = _users(model, rows, self._content(system), types)
        self.fitted[system.name] = fit_weights(user_BK, item_IK, self.validation, first)
        return self.fitted[system.name].weights

    @cached_property
    def validation(self) -> Validation:
        """The rows on which the weights of `fitted` systems are chosen."""
        val = self._validation_snapshot
        columns = ("hist_ts", *(["hist_types"] if val.event_types else []))
        return Validation(val, self.rows.content.rows, self.spec.validation, columns)

    @cached_property
    def _validation_snapshot(self) -> Snapshot:
        assert self.spec.val_snapshot is not None, "SystemsSpec asks for it"
        return opened(self.spec.val_snapshot, "val_snapshot")

    def _bias(self, popularity_prior: float) -> np.ndarray:
        prior_I = popularity_prior * self.rows.prior_I.astype(np.float64)
        return np.where(self.rows.is_candidate_I, prior_I, -np.inf)

    def ranks(self, scorer: Scorer | HistoryScorer, of_new: bool = False) -> np.ndarray:
        """Rank of every target; with `of_new`, of those new to the user, with items he or she had hidden."""
        target_P2, hidden_Q2 = self.rows.target_P2, self.rows.seen_Q2
        if of_new:
            target_P2 = target_P2[self.rows.is_new_P]
        elif not self.spec.filter_seen:
            hidden_Q2 = hidden_Q2[:0]
        is_candidate_P = self.rows.is_candidate_I[target_P2[:, 1]]
        rank_P = np.full(len(target_P2), NEVER, np.int64)
        rank_P[is_candidate_P] = scorer.ranks(target_P2[is_candidate_P], hidden_Q2)
        return rank_P

    def figures(self, scorer: Scorer | HistoryScorer, rank_P: np.ndarray) -> Figures:
        """As `Segments.figures`. If seen items are candidates, segment `new_to_user` has the figures without them."""
        found = self.segments.figures(rank_P)
        if not self.spec.filter_seen:
            new: Figures = {"targets": 0}
            if self.rows.is_new_P.any():
                new = self.new_to_user.figures(self.ranks(scorer, of_new=True))
                del new["segments"]
            found["segments"]["new_to_user"] = new
        return found

    def prompted(self, system: SystemConfig) -> Figures:
        """A language model's figures on the sampled candidates, and its cost."""
        assert self.sampled is not None, "SystemsSpec asks for it"
        model = self._prompt_ranker(system)
        started = time.perf_counter()
        scores_SC, num_tokens = model.sampled_scores(self.rows.test, self.sampled)
        rows, candidates = scores_SC.shape
        seconds = (time.perf_counter() - started) / rows
        return self.sampled.figures(scores_SC) | {
            "parameters": num_trained(model),
            "model_parameters": sum(weight.numel() for weight in model.parameters()),
            "seconds_per_user": seconds,
            "tokens_per_user": num_tokens / rows,
            "seconds_per_user_all_items": seconds * int(self.rows.is_candidate_I.sum()) / candidates,
        }

    def _prompt_ranker(self, system: SystemConfig) -> "PromptRanker":
        from models.baselines.prompt_ranker import PromptRanker  # imports transformers, which only this system needs
        from models.data.item_texts import ItemTexts

        if system.folder:
            model = load_language(system.folder)
            if not isinstance(model, PromptRanker):
                raise BadInput(f"system {system.name}: {system.folder} holds no prompt ranker")
            return model
        assert system.prompt is not None and self.spec.item_texts is not None, "the specs ask for them"
        return PromptRanker(system.prompt, ItemTexts(self.spec.item_texts), self.rows.content.rows)

    def _content(self, system: SystemConfig) -> ContentMatrix:
        if system.content_matrix is None:
            return self.rows.content
        content = ContentMatrix(require_folder(system.content_matrix, f"content_matrix of system {system.name}"))
        if content.rows != self.rows.content.rows:
            raise BadInput(
                f"system {system.name}: {content.path} has {content.rows} rows, the candidates' matrix "
                f"{self.rows.content.path} {self.rows.content.rows}: both must hold the same items"
            )
        return content


def run(spec: SystemsSpec) -> dict[str, object]:
    """Measures every system; writes the figures to result.json.

    A target's rank is 1 + the number of other candidates that score as high or higher: ties count against it.
    If seen items are candidates, segment `new_to_user` is a ranking of its own without them.

    Returns:
        `data`, counts, and `systems`: by name the figures of `Segments.figures`, seconds (of loading, scoring and
        ranking) and parameters; those of kind prompt have figures on the sampled candidates only.

    Raises:
        BadInput: snapshots, matrices or models do not fit together.
    """
    torch.set_num_threads(spec.threads)
    task = SystemsTask(spec)
    spec.out_dir.mkdir(parents=True, exist_ok=True)
    result = {"data": task.rows.about(), "systems": {system.name: _measured(task, system) for system in spec.systems}}
    write_result(spec.out_dir, result)
    return result


def _measured(task: SystemsTask, system: SystemConfig) -> Figures:
    started = time.perf_counter()
    if system.kind == "prompt":
        figures: Figures = {"sampled": task.prompted(system)}
        _say(system, f"mrr {figures['sampled']['mrr']:.4f} of sampled candidates", started)
        return figures
    scorer = task.scorer(system)
    rank_P = task.ranks(scorer)
    seconds = time.perf_counter() - started
    figures = task.figures(scorer, rank_P)
    row_P, item_P = task.rows.target_P2.T
    user_P = task.rows.test["user_id"][row_P]
    np.savez_compressed(task.spec.out_dir / f"{system.name}.npz", row=row_P, user=user_P, item=item_P, rank=rank_P)
    first = f"recall_at_{task.spec.ks[0]}"
    _say(system, f"{first} {figures[first]:.4f}", started)
    return figures | {
        "seconds": seconds,
        "seconds_per_user": seconds / len(np.unique(row_P)),
        "parameters": scorer.parameters,
        "sampled": task.sampled.figures(task.sampled.of_all(scorer.scores)) if task.sampled else None,
        "fitted": task.fitted[system.name].as_json() if system.fitted else None,
    }


def _users(
    model: Retriever, rows: Mapping[str, np.ndarray], content: ContentMatrix, types: Sequence[str]
) -> np.ndarray:
    lengths_B = rows["hist_len"].astype(np.int64)
    types_BH = model_types(model, types, rows.get("hist_types"), "a model")
    return model.embed_users(rows["hist_items"], lengths_B, content, hist_ts_BH=rows["hist_ts"], hist_types_BH=types_BH)


def num_trained(model: Retriever | torch.nn.Module) -> int:
    """The model's number of trainable parameters."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _say(system: SystemConfig, what: str, started: float) -> None:
    print(f"{system.name}: {what}, {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
