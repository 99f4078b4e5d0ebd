"""How much the embeddings help a ranker: the same trees with and without them, on samples that no model has seen.

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
from models.evaluation.code_features import code_features, codes_in
from models.evaluation.gains import Scoring, TestRows, gain, gains, share_kept
from models.evaluation.ranker import Ranker

Parts = Sequence[np.ndarray]  # features of all rows, [N, .] each

KEYS = ("user_id", "item_idx", "label", "weight", "is_test", "day")
EMBEDDINGS = ("user_emb", "item_emb", "mid_emb")
FITTED_ITEMS = 20_000  # items whose content determines the raw embedding's axes


class RankerTask:
    """The rows, split into training, validation (training's last days) and test. Trains trees on features of them."""

    def __init__(self, spec: RankerSpec, rows: pa.Table) -> None:
        self.spec = spec
        self.seeds = range(spec.seed, spec.seed + spec.num_seeds)
        label_N, self.weight_N = _values(rows, "label"), _values(rows, "weight")
        is_test_N, day_N = _values(rows, "is_test") > 0, _values(rows, "day")
        self.label_N = label_N.astype(np.int64)
        user_N = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        first_valid_day = _first_validation_day(day_N[~is_test_N], spec.validation_share)
        self.test = np.flatnonzero(is_test_N)
        self.train = np.flatnonzero(~is_test_N & (day_N < first_valid_day))
        self.valid = np.flatnonzero(~is_test_N & (day_N >= first_valid_day))
        if not 0 < self.label_N[self.test].sum() < len(self.test):
            raise BadInput(f"the ranker's test rows hold one label only ({len(self.test)} rows)")
        parts = {}
        if {spec.user_events, spec.item_events} <= set(rows.column_names):
            users, items = (_values(rows, name)[self.test] for name in (spec.user_events, spec.item_events))
            parts = segments(spec, users, items)
        label_T, weight_T, user_T = self.label_N[self.test], self.weight_N[self.test], user_N[self.test]
        num_users = int(user_N.max()) + 1
        self.test_rows = TestRows(label_T, weight_T, user_T, num_users, parts, spec.resamples, spec.seed)

    def fit(self, what: str, parts: Parts, seeds: Sequence[int], categories: int = 0) -> Scoring:
        """Trains trees on these features, once per seed, prints their AUC, and returns the test rows' scores.

        The last `categories` columns hold categories.
        """
        return self.trained(what, parts, seeds, categories)[1]

    def trained(self, what: str, parts: Parts, seeds: Sequence[int], categories: int = 0) -> tuple[Ranker, Scoring]:
        """As `fit`, but returns the trees as well."""
        started, width = time.monotonic(), _width(parts)
        categorical = [self.spec.base.index(name) for name in self.spec.categorical]
        categorical += range(width - categories, width)
        train, valid = ((_joined(parts, i), self.label_N[i], self.weight_N[i]) for i in (self.train, self.valid))
        ranker = Ranker(self.spec.ranker, seeds, self.spec.threads).fit(train, valid, categorical)
        found = self.scored(ranker, parts)
        line = f"ranker {what}: {width} features, AUC {found.of().auc:.4f}"
        print(f"{line}, {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        return ranker, found

    def scored(self, ranker: Ranker, parts: Parts) -> Scoring:
        """The trees' scores of the test rows, given these features."""
        return Scoring(self.test_rows, ranker.predict(_joined(parts, self.test)))


def run(spec: RankerSpec) -> dict[str, object]:
    """Measures the ranker; writes the figures to result.json.

    Returns:
        `rows`, `users`, `features`: counts. For auc, uauc and wuauc: …_without, …_with, …_gain, …_gain_ci90, of the
        mean score over the seeds; the same by segment in `segments`; `auc_gain_by_seed`. `kept`, if there is an earlier
        release (`_kept`). `alone`, of `trial_seeds` seeds: each embedding by itself; the item's raw content
        (`item_content`) and a random vector per item (`item_id`), both of item_emb's width; `shuffled`, the embeddings
        of other rows, which must gain nothing; with `codes`, the item codes, their prefixes (`code_features`), and the
        codes with item_emb. `rivals`, if there are any (`_rivals`).

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
        rivals = _rival_features(spec, rows) if spec.rivals else {}
        del rows
        without = task.fit("without embeddings", [base_NF], task.seeds)
        with_ = task.fit("with embeddings", [base_NF, *blocks.values()], task.seeds)
        result = _main_figures(task, base_NF, blocks, without, with_)
        if spec.earlier:
            result["kept"] = {"release": spec.earlier, **_kept(task, base_NF, earlier, blocks, without)}
        if spec.alone:
            result["trial_seeds"] = min(spec.trial_seeds, spec.num_seeds)
            result["alone"] = _alone(task, base_NF, blocks, raw, codes, without)
        if rivals:
            result["rivals"] = _rivals(task, base_NF, blocks, rivals, without, with_)
    write_result(spec.out_dir, _without_nan(result))
    return result


def _rival_features(spec: RankerSpec, rows: pa.Table) -> dict[str, np.ndarray]:
    """The feature columns of each rival, by its name."""
    from models.evaluation.rival_features import rival_blocks  # imports torch, which the trees do not need

    return dict(rival_blocks(spec, rows))


def segments(spec: RankerSpec, user_events_T: np.ndarray, item_events_T: np.ndarray) -> dict[str, np.ndarray]:
    """Segments of the test rows by how many events user and item had before the sample's day: name -> bool [T]."""
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
    task: RankerTask, base_NF: np.ndarray, blocks: Mapping[str, np.ndarray], without: Scoring, with_: Scoring
) -> dict[str, Any]:
    """The figures without and with all embeddings."""
    rows, by_seed = task.test_rows, zip(with_.auc_by_seed(), without.auc_by_seed(), strict=True)
    found = gains(with_, without)
    for name, is_in_T in rows.segments.items():
        found["segments"][name] |= {"rows": int(is_in_T.sum()), "users": len(np.unique(rows.user_T[is_in_T]))}
    return {
        "rows": {"train": len(task.train), "validation": len(task.valid), "test": len(task.test)},
        "users": len(np.unique(rows.user_T)),
        "features": {"without": base_NF.shape[1], "with": _width([base_NF, *blocks.values()])},
        "auc_gain_by_seed": [more - less for more, less in by_seed],
        **found,
    }


def _kept(
    task: RankerTask,
    base_NF: np.ndarray,
    earlier: Mapping[str, np.ndarray],
    now: Mapping[str, np.ndarray],
    without: Scoring,
) -> dict[str, object]:
    """How much of its gain a ranker trained on the earlier release's embeddings keeps when it reads the new ones."""
    ranker, with_ = task.trained("with earlier embeddings", [base_NF, *earlier.values()], task.seeds)
    return share_kept(task.scored(ranker, [base_NF, *now.values()]), with_, without)


def _rivals(
    task: RankerTask,
    base_NF: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    rivals: Mapping[str, np.ndarray],
    without: Scoring,
    with_: Scoring,
) -> dict[str, object]:
    """The gain of other systems' features in the same ranker, and that of the embeddings on top of them.

    Args:
        task, base_NF, blocks: the rows, the base features and the embeddings.
        rivals: columns by system, [N, .] each.
        without, with_: scores without and with the embeddings.

    Returns:
        systems: for each system the number of `features`, the gain's figures with `segments`, and
        `embeddings_instead`, the gain of the embeddings over this system's features. together: the same for all
        systems' features at once, if there are several. on_top: the gain of the embeddings over all these features,
        with segments.
    """

    def of(what: str, parts: Iterable[np.ndarray]) -> tuple[Scoring, dict[str, object]]:
        found = task.fit(f"with {what}", known := [base_NF, *parts], task.seeds)
        figures = {"features": _width(known), **gains(found, without), "embeddings_instead": gain(with_, found)}
        return found, figures

    result: dict[str, Any] = {"systems": {}}
    known = without
    for name, block in rivals.items():
        known, result["systems"][name] = of(name, [block])
    if len(rivals) > 1:
        known, result["together"] = of(" and ".join(rivals), rivals.values())
    both = [base_NF, *rivals.values(), *blocks.values()]
    result["on_top"] = gains(task.fit("with these and the embeddings", both, task.seeds), known)
    return result


def _alone(
    task: RankerTask,
    base_NF: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
    without: Scoring,
) -> dict[str, dict]:
    """The gains that explain the main figures: of each embedding by itself, of all of them shuffled, of the item codes.

    Each is of `trial_seeds` seeds, relative to the same seeds' trees without embeddings. Every seed shuffles anew.
    """
    seeds = task.seeds[: task.spec.trial_seeds]
    trials = {name: [blocks[name]] for name in EMBEDDINGS} | {name: [block] for name, block in raw.items()}
    found = {name: task.fit(f"{name} alone", [base_NF, *parts], seeds) for name, parts in trials.items()}
    shuffled = []
    for seed in seeds:
        order_N = np.random.default_rng(seed).permutation(len(base_NF))
        parts = [base_NF, *(block[order_N] for block in blocks.values())]
        shuffled.append(task.fit("shuffled", parts, [seed]).score_ST)
    found["shuffled"] = Scoring(task.test_rows, np.concatenate(shuffled))
    sets = {name: [block] for name, block in codes.items()}
    if codes:
        sets["item_emb_and_codes"] = [blocks["item_emb"], codes["item_codes"]]
    for name, parts in sets.items():
        found[name] = task.fit(f"{name} alone", [base_NF, *parts], seeds, categories=parts[-1].shape[1])
    return {name: gain(scoring, without.first(len(seeds))) for name, scoring in found.items()}


def read_rows(spec: RankerSpec, snapshot: Snapshot) -> pa.Table:
    """The columns that the spec needs, of all rows.

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
    """The base features [N, F], and the blocks of columns added to them: the embeddings and their scores."""
    base_NF = np.stack([_values(rows, name).astype(np.float32) for name in spec.base], axis=1)
    return base_NF, _blocks(rows)


def _blocks(rows: pa.Table, prefix: str = "") -> dict[str, np.ndarray]:
    """The embeddings by name, [N, .] each, and `scores` [N, 2]: the inner product and cvr_score."""
    blocks = {name: _vectors(rows, f"{prefix}{name}") for name in EMBEDDINGS}
    inner_N = np.einsum("nk,nk->n", blocks["user_emb"], blocks["item_emb"])
    scores_N2 = np.stack([inner_N, _values(rows, f"{prefix}cvr_score")], axis=1)
    return blocks | {"scores": scores_N2.astype(np.float32)}


def raw_embeddings(item_N: np.ndarray, spec: RankerSpec, width: int) -> dict[str, np.ndarray]:
    """Unaligned item vectors, [N, width] each: the items' content on its main axes, and a random vector per item.

    Raises:
        BadInput: an item is outside the content matrix, or the matrix cannot be read.
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


def _joined(parts: Parts, rows: np.ndarray) -> np.ndarray:
    """Some rows' features side by side."""
    return np.concatenate([part[rows] for part in parts], axis=1)


def _width(parts: Iterable[np.ndarray]) -> int:
    return sum(part.shape[1] for part in parts)


def _first_validation_day(day_N: np.ndarray, share: float) -> int:
    days = np.unique(day_N)
    if len(days) < 2:
        raise BadInput("the ranker's training window needs at least two days with samples")
    return int(days[-max(1, round(share * len(days)))])


def _without_nan(values: object) -> Any:  # noqa: ANN401 - what it is given
    """The values with None for NaN, which JSON lacks: a segment may have too few rows for a figure."""
    if isinstance(values, dict):
        return {name: _without_nan(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and not np.isfinite(values) else values
