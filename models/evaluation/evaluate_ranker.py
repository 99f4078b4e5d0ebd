"""What the embeddings bring a ranker: the same trees with and without, on samples that no model has seen.

Shapes: N rows, T test rows, F features, S seeds, I items, K, C embedding widths.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from threadpoolctl import threadpool_limits

from models.contract.content_matrix import open_matrix
from models.contract.evaluation_specs import HISTORY_DAY, RankerSpec
from models.contract.failures import BadInput
from models.contract.result import write_result
from models.contract.snapshot import Snapshot, open_snapshot
from models.evaluation.code_features import MOST, code_features, codes_in
from models.evaluation.ranker import Ranker, binned
from models.metrics.auc import Scored, gain_interval, kept_interval, mean_interval, user_aucs, user_mean

KEYS = ("user_id", "item_idx", "label", "weight", "is_test", "day")
EMBEDDINGS = ("user_emb", "item_emb", "mid_emb")
FITTED_ITEMS = 20_000  # whose content the raw embedding's axes are made of


class RankerTask:
    """The rows, split into training, validation (its last days) and test; and the trees over any features."""

    def __init__(self, spec: RankerSpec, rows: pa.Table) -> None:
        self.spec = spec
        self.seeds = range(spec.seed, spec.seed + spec.num_seeds)
        label_N, self.weight_N = _values(rows, "label"), _values(rows, "weight")
        is_test_N, day_N = _values(rows, "is_test") > 0, _values(rows, "day")
        self.label_N = label_N.astype(np.int64)
        self.user_N = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        first_valid_day = _first_validation_day(day_N[~is_test_N], spec.validation_share)
        self.test = np.flatnonzero(is_test_N)
        self.train = np.flatnonzero(~is_test_N & (day_N < first_valid_day))
        self.valid = np.flatnonzero(~is_test_N & (day_N >= first_valid_day))
        if not 0 < self.label_N[self.test].sum() < len(self.test):
            raise BadInput(f"the ranker's test rows hold one label only ({len(self.test)} rows)")

    def fit(self, what: str, X_NF: np.ndarray, seeds: Sequence[int], categories: int = 0) -> np.ndarray:
        """Trains on these features, once a seed, and says so; returns the test rows' scores: [S, T].

        The last `categories` columns hold categories below MOST.
        """
        return self.trained(what, X_NF, seeds, categories)[1]

    def trained(
        self, what: str, X_NF: np.ndarray, seeds: Sequence[int], categories: int = 0
    ) -> tuple[Ranker, np.ndarray]:
        """As `fit`, with the trees."""
        started = time.monotonic()
        categorical = [self.spec.base.index(name) for name in self.spec.categorical]
        categorical += range(X_NF.shape[1] - categories, X_NF.shape[1])
        settings = self.spec.ranker.model_copy(update={"max_bins": MOST}) if categories else self.spec.ranker
        train, valid = ((X_NF[i], self.label_N[i], self.weight_N[i]) for i in (self.train, self.valid))
        ranker = Ranker(settings, seeds).fit(train, valid, categorical)
        score_ST = ranker.predict(X_NF[self.test])
        line = f"ranker {what}: {X_NF.shape[1]} features, AUC {self.scored(score_ST.mean(0)).auc():.4f}"
        print(f"{line}, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        return ranker, score_ST

    def bins(self, X_NF: np.ndarray, like_NF: np.ndarray | None = None) -> np.ndarray:
        """Numbers as the trees read them; see `binned`."""
        return binned(X_NF, self.train, self.spec.ranker.max_bins, like_NF=like_NF)

    def scored(self, score_T: np.ndarray, is_in_T: np.ndarray | None = None) -> Scored:
        """Test scores, all or a segment of them, ready for AUC."""
        chosen = slice(None) if is_in_T is None else is_in_T
        rows = self.test[chosen]
        return Scored.of(self.label_N[rows], score_T[chosen], self.weight_N[rows], self.user_N[rows])

    def gain(self, with_T: np.ndarray, without_T: np.ndarray, is_in_T: np.ndarray | None = None) -> dict:
        """AUC, UAUC and WUAUC with and without, their gains, and the gains' 90% bootstrap intervals over users."""
        with_, without = self.scored(with_T, is_in_T), self.scored(without_T, is_in_T)
        users = int(self.user_N.max()) + 1
        interval = gain_interval(with_, without, users, self.spec.resamples, self.spec.seed)
        figures = _gain("auc", without.auc(), with_.auc(), interval)
        chosen = slice(None) if is_in_T is None else is_in_T
        rows = self.test[chosen]
        (before_U, weight_U), (after_U, _) = (
            user_aucs(self.label_N[rows], score_T[chosen], self.user_N[rows], self.weight_N[rows])
            for score_T in (without_T, with_T)
        )
        for name, counted_U in (("uauc", np.ones_like(weight_U)), ("wuauc", weight_U)):
            without, with_ = (user_mean(value_U, counted_U) for value_U in (before_U, after_U))
            interval = mean_interval(after_U - before_U, counted_U, self.spec.resamples, self.spec.seed)
            figures |= _gain(name, without, with_, interval)
        return figures


def run(spec: RankerSpec) -> dict[str, object]:
    """The ranker's figures; written to result.json.

    Returns:
        rows, users; of auc, uauc and wuauc: …_without, …_with, …_gain, …_gain_ci90, of the seeds' mean scores;
        `auc_gain_by_seed`; `kept`, where there is an earlier release (`_kept`); `segments` by name, and `alone`: each
        embedding by itself; the item's raw content (`item_content`) and a random vector by item (`item_id`), of
        item_emb's width; `shuffled`, all three embeddings of other rows, which must bring nothing; with `codes` the
        item codes, their prefixes (`code_features`), and the codes beside item_emb. `rivals`, where there are some
        (`_rivals`).

    Raises:
        BadInput: columns are missing, or a window has one label only.
    """
    with threadpool_limits(spec.threads):
        rows = read_rows(spec, open_snapshot(spec.rows))
        task = RankerTask(spec, rows)
        base_NF, blocks = _features(rows, spec)
        earlier = _blocks(rows, "earlier_") if spec.earlier else {}
        raw = raw_embeddings(_values(rows, "item_idx"), spec, blocks["item_emb"].shape[1])
        codes = code_features(codes_in(rows), task.train) if spec.codes else {}
        rivals = _rival_bins(task, rows) if spec.rivals else {}
        del rows
        events = (base_NF[task.test, spec.base.index(name)] for name in (spec.user_events, spec.item_events))
        is_in = segments(spec, *events)
        categorical = [spec.base.index(name) for name in spec.categorical]
        base_NF = binned(base_NF, task.train, spec.ranker.max_bins, categorical)
        moved = {name: task.bins(blocks[name], like_NF=block) for name, block in earlier.items()}
        blocks, earlier, raw = (
            {name: task.bins(block) for name, block in parts.items()} for parts in (blocks, earlier, raw)
        )
        without_ST = task.fit("without embeddings", base_NF, task.seeds)
        with_ST = task.fit("with embeddings", _joined(base_NF, blocks.values()), task.seeds)
        result = _main_figures(task, base_NF, blocks, is_in, (without_ST, with_ST))
        if spec.earlier:
            result["kept"] = {"release": spec.earlier, **_kept(task, base_NF, earlier, moved, without_ST.mean(0))}
        if spec.alone:
            result["alone"] = _alone(task, base_NF, blocks, raw, codes, without_ST.mean(0))
        if rivals:
            scores = without_ST.mean(0), with_ST.mean(0)
            result["rivals"] = _rivals(task, base_NF, blocks, rivals, is_in, scores)
    write_result(spec.out_dir, _without_nan(result))
    return result


def _rival_bins(task: RankerTask, rows: pa.Table) -> dict[str, np.ndarray]:
    """The rivals' columns as the trees read them."""
    from models.evaluation.rival_features import rival_blocks  # torch: the trees do without

    return {name: task.bins(block) for name, block in rival_blocks(task.spec, rows)}


def segments(spec: RankerSpec, user_events_T: np.ndarray, item_events_T: np.ndarray) -> dict[str, np.ndarray]:
    """Test rows by what was known of their user and item before the sample's day: name -> bool [T]."""
    is_cold_user, is_cold_item = user_events_T < spec.cold_events, item_events_T < spec.cold_events
    is_tail = item_events_T <= spec.tail_events
    return {
        "cold_users": is_cold_user,
        "other_users": ~is_cold_user,
        "cold_items": is_cold_item,
        "long_tail_items": is_tail,
        "other_items": ~is_cold_item & ~is_tail,
    }


def _main_figures(
    task: RankerTask,
    base_NF: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    is_in: Mapping[str, np.ndarray],
    scores_ST: tuple[np.ndarray, np.ndarray],
) -> dict[str, object]:
    """Figures of the scores without and with all embeddings."""
    without_ST, with_ST = scores_ST
    without_T, with_T = without_ST.mean(0), with_ST.mean(0)
    user_T = task.user_N[task.test]
    result: dict[str, object] = {
        "rows": {"train": len(task.train), "validation": len(task.valid), "test": len(task.test)},
        "users": len(np.unique(user_T)),
        "features": {"without": base_NF.shape[1], "with": base_NF.shape[1] + _width(blocks.values())},
        **task.gain(with_T, without_T),
        "auc_gain_by_seed": [
            task.scored(more_T).auc() - task.scored(less_T).auc()
            for more_T, less_T in zip(with_ST, without_ST, strict=True)
        ],
    }
    result["segments"] = {
        name: {"rows": int(is_in_T.sum()), "users": len(np.unique(user_T[is_in_T]))}
        | task.gain(with_T, without_T, is_in_T)
        for name, is_in_T in is_in.items()
    }
    return result


def _kept(
    task: RankerTask,
    base_NF: np.ndarray,
    earlier: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    without_T: np.ndarray,
) -> dict[str, object]:
    """What a ranker that was trained on the earlier release's embeddings keeps of its gain when it is fed these.

    Returns:
        auc_gain_earlier: of that ranker, fed the embeddings that it was trained on; auc_gain_kept: fed these, without
        training anew; share, share_ci90: of the first, the second.
    """
    ranker, earlier_ST = task.trained("with earlier embeddings", _joined(base_NF, earlier.values()), task.seeds)
    moved_T = ranker.predict(_joined(base_NF, moved.values())[task.test]).mean(0)
    kept, with_, without = (task.scored(score_T) for score_T in (moved_T, earlier_ST.mean(0), without_T))
    gain, left = with_.auc() - without.auc(), kept.auc() - without.auc()
    users, settings = int(task.user_N.max()) + 1, (task.spec.resamples, task.spec.seed)
    interval = kept_interval(kept, with_, without, users, *settings)
    return {
        "auc_gain_earlier": gain,
        "auc_gain_kept": left,
        "share": left / gain if gain > 0 else float("nan"),
        "share_ci90": list(interval),
    }


def _rivals(
    task: RankerTask,
    base_NF: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    rivals: Mapping[str, np.ndarray],
    is_in: Mapping[str, np.ndarray],
    scores_T: tuple[np.ndarray, np.ndarray],
) -> dict[str, object]:
    """What other systems' features bring the same ranker, and what the embeddings bring beside them.

    Args:
        task, base_NF, blocks: the rows; what is always there; the embeddings.
        rivals: columns by system [N, .].
        is_in: the segments.
        scores_T: without and with the embeddings.

    Returns:
        systems: by name the gain: `features`, figures as of the embeddings', `segments`, and `embeddings_instead`, the
        gain of the embeddings over it. together: the same of all systems' features at once, where there are several.
        on_top: the gain of the embeddings where all these features are there already, and its segments.
    """
    without_T, with_T = scores_T

    def gains(more_T: np.ndarray, less_T: np.ndarray) -> dict[str, object]:
        by_segment = {name: task.gain(more_T, less_T, is_in_T) for name, is_in_T in is_in.items()}
        return {**task.gain(more_T, less_T), "segments": by_segment}

    def of(what: str, parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
        X_NF = _joined(base_NF, parts)
        found_T = task.fit(f"with {what}", X_NF, task.seeds).mean(0)
        figures: dict[str, object] = {"features": X_NF.shape[1], **gains(found_T, without_T)}
        figures["embeddings_instead"] = task.gain(with_T, found_T)
        return X_NF, found_T, figures

    result: dict[str, Any] = {"systems": {}}
    known_NF, known_T = base_NF, without_T
    for name, block in rivals.items():
        known_NF, known_T, result["systems"][name] = of(name, [block])
    if len(rivals) > 1:
        known_NF, known_T, result["together"] = of(" and ".join(rivals), rivals.values())
    both_T = task.fit("with these and the embeddings", _joined(known_NF, blocks.values()), task.seeds).mean(0)
    result["on_top"] = gains(both_T, known_T)
    return result


def _alone(
    task: RankerTask,
    base_NF: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
    base_T: np.ndarray,
) -> dict[str, dict]:
    """Each embedding by itself, and all of them shuffled over the rows, for every seed anew; and the item codes."""
    trials = {name: [blocks[name]] for name in EMBEDDINGS} | {name: [block] for name, block in raw.items()}
    scores = {name: task.fit(f"{name} alone", _joined(base_NF, parts), task.seeds) for name, parts in trials.items()}
    shuffled = []
    for seed in task.seeds:
        order_N = np.random.default_rng(seed).permutation(len(base_NF))
        shuffled.append(task.fit("shuffled", _joined(base_NF, [b[order_N] for b in blocks.values()]), [seed])[0])
    scores["shuffled"] = np.stack(shuffled)
    sets = {name: [block] for name, block in codes.items()}
    if codes:
        sets["item_emb_and_codes"] = [blocks["item_emb"], codes["item_codes"]]
    for name, parts in sets.items():
        scores[name] = task.fit(f"{name} alone", _joined(base_NF, parts), task.seeds, categories=parts[-1].shape[1])
    return {name: task.gain(score_ST.mean(0), base_T) for name, score_ST in scores.items()}


def read_rows(spec: RankerSpec, snapshot: Snapshot) -> pa.Table:
    """The columns that the spec names, of all rows.

    Raises:
        BadInput: names the columns that the snapshot lacks.
    """
    vectors = [*EMBEDDINGS, "cvr_score"]
    codes = ["item_codes"] if spec.codes else []
    columns = [*KEYS, *spec.base, *vectors, *codes, *(f"earlier_{name}" for name in vectors if spec.earlier)]
    columns += [HISTORY_DAY] if spec.rivals else []
    lacking = [name for name in columns if name not in snapshot.schema]
    if lacking:
        have = ", ".join(snapshot.schema)
        raise BadInput(f"snapshot {snapshot.path} has no column {', '.join(lacking)}; it has: {have}")
    files = [str(file) for file in snapshot.files]
    return pyarrow.dataset.dataset(files, format="parquet").to_table(columns=columns)


def _features(rows: pa.Table, spec: RankerSpec) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The base features [N, F], and the blocks of columns on top: the embeddings and their scores."""
    base_NF = np.stack([_values(rows, name).astype(np.float32) for name in spec.base], axis=1)
    return base_NF, _blocks(rows)


def _blocks(rows: pa.Table, prefix: str = "") -> dict[str, np.ndarray]:
    """The embeddings by name, and their scores: columns [N, .]."""
    blocks = {name: _vectors(rows, f"{prefix}{name}") for name in EMBEDDINGS}
    inner_N = np.einsum("nk,nk->n", blocks["user_emb"], blocks["item_emb"])
    scores_N2 = np.stack([inner_N, _values(rows, f"{prefix}cvr_score")], axis=1)
    return blocks | {"scores": scores_N2.astype(np.float32)}


def raw_embeddings(item_N: np.ndarray, spec: RankerSpec, width: int) -> dict[str, np.ndarray]:
    """What no model has aligned, [N, width] each: the items' content on its main axes, and a random vector by item.

    Raises:
        BadInput: an item is outside the content matrix, or that cannot be read.
    """
    matrix_IC, _ = open_matrix(spec.content_matrix)
    item_U, place_N = np.unique(item_N, return_inverse=True)
    if item_U[-1] >= len(matrix_IC):
        raise BadInput(f"item_idx {item_U[-1]} is outside the content matrix {spec.content_matrix}")
    generator = np.random.default_rng(spec.seed)
    fitted = generator.permutation(len(item_U))[:FITTED_ITEMS]
    unit_UC = _unit(matrix_IC[item_U])
    _, axes_CC = np.linalg.eigh(np.cov(unit_UC[fitted], rowvar=False))
    content_UK = (unit_UC - unit_UC[fitted].mean(0)) @ axes_CC[:, ::-1][:, :width]
    random_UK = generator.standard_normal((len(item_U), width), np.float32)
    return {"item_content": content_UK.astype(np.float32)[place_N], "item_id": random_UK[place_N]}


def _unit(vectors_IC: np.ndarray) -> np.ndarray:
    """Rows at length 1, in float64; zero rows stay zero."""
    values = vectors_IC.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _values(rows: pa.Table, name: str) -> np.ndarray:
    if rows[name].null_count:
        raise BadInput(f"column {name} holds nulls")
    return rows[name].to_numpy()


def _vectors(rows: pa.Table, name: str) -> np.ndarray:
    lists = rows[name].combine_chunks()
    length_N = np.diff(lists.offsets.to_numpy())
    if lists.null_count or (length_N != length_N[0]).any():
        raise BadInput(f"column {name}: lists must be present and of equal length")
    return lists.flatten().to_numpy().reshape(len(length_N), -1)


def _gain(name: str, without: float, with_: float, interval: tuple[float, float]) -> dict[str, object]:
    figures = {f"{name}_without": without, f"{name}_with": with_, f"{name}_gain": with_ - without}
    return {**figures, f"{name}_gain_ci90": list(interval)}


def _joined(base_NF: np.ndarray, parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([base_NF, *parts], axis=1)


def _width(parts: Iterable[np.ndarray]) -> int:
    return sum(part.shape[1] for part in parts)


def _first_validation_day(day_N: np.ndarray, share: float) -> int:
    days = np.unique(day_N)
    if len(days) < 2:
        raise BadInput("the ranker's training window needs at least two days with samples")
    return int(days[-max(1, round(share * len(days)))])


def _without_nan(values: object) -> Any:  # noqa: ANN401 - what it is given
    """NaN is no JSON: null stands for a figure that a segment cannot have."""
    if isinstance(values, dict):
        return {name: _without_nan(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values
