"""The specs of the evaluations: which systems and features are measured, and on which data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from models.contract.language_models import PromptConfig
from models.contract.settings import RankerConfig, ValidationConfig
from models.contract.spec import Spec
from models.contract.strict import Settings

RECENCY_DECAY = 0.9  # co-occurrence's weight of an event relative to the one after it
HISTORY_DAY = "history_day"  # column of the ranker's rows: day number of the newest history a row may know; -1: none
FileName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=100)]


class SampledConfig(Settings):
    """How rows and candidates are sampled.

    Attributes:
        rows: number of sampled rows, all with a history and a target.
        candidates: number of candidates per row, its target included.
        seed: for the draws of rows and candidates.
    """

    rows: int = Field(gt=0)
    candidates: int = Field(default=20, gt=1)
    seed: int = Field(default=1, ge=0)


class SystemConfig(Settings):
    """A system to measure.

    Attributes:
        name: names its figures and its file of ranks.
        kind: `model` (a trained retriever in `folder`: towers, SASRec, HSTU, ALS, NoteLLM), `popularity`, `last_item`
            (the history's items, latest first, then popularity), `cooccurrence` (models/baselines/history.py),
            `mean_content` (models/baselines/mean_content.py), `prompt` (models/baselines/prompt_ranker.py; it ranks the
            sampled candidates only).
        folder: of the trained model. For `mean_content`: of towers whose scale multiplies the cosines, so that the
            prior has the same relative weight as with these towers.
        prompt: for kind `prompt`, settings of a language model to use untrained, instead of a folder.
        popularity_prior: weight of log popularity in the score; not for popularity, last_item and prompt.
        content_matrix: another encoder's matrix of the same items, for `model` and `mean_content`.
        items_of, items_matrix: other towers, and the content matrix that they read. Their item vectors replace the
            model's own. Either matrix may then be an older one with fewer items; items that it lacks have zeros.
        recency_decay: for cooccurrence, the weight of an event relative to the one after it.
        fitted: for a `model`, whether popularity_prior and the repeat bias are chosen on `val_snapshot`. The search
            starts at the given prior and the learned repeat bias (models/evaluation/fitted.py).
    """

    name: FileName
    kind: Literal["model", "popularity", "last_item", "cooccurrence", "mean_content", "prompt"]
    folder: Path | None = None
    prompt: PromptConfig | None = None
    popularity_prior: float = Field(default=0.0, ge=0)
    content_matrix: Path | None = None
    items_of: Path | None = None
    items_matrix: Path | None = None
    recency_decay: float = Field(default=RECENCY_DECAY, gt=0, le=1)
    fitted: bool = False

    @model_validator(mode="after")
    def _check_kind(self) -> "SystemConfig":
        needs_folder = self.kind == "model" or (self.kind == "prompt" and self.prompt is None)
        if (self.folder is None and needs_folder) or (self.folder and not needs_folder and self.kind != "mean_content"):
            raise ValueError(
                f"system {self.name}: kind model needs a folder, prompt that or a prompt, mean_content may have one,"
                " no other has one"
            )
        if self.prompt is not None and self.kind != "prompt":
            raise ValueError(f"system {self.name}: kind {self.kind} has no prompt")
        if self.content_matrix and self.kind not in ("model", "mean_content"):
            raise ValueError(f"system {self.name}: kind {self.kind} uses no content_matrix")
        if self.fitted and self.kind != "model":
            raise ValueError(f"system {self.name}: only a model is fitted, not kind {self.kind}")
        if self.items_of and (self.kind != "model" or self.fitted or not self.items_matrix or not self.content_matrix):
            raise ValueError(f"system {self.name}: items_of goes with kind model, both matrices, and without fitted")
        if self.popularity_prior and self.kind in ("popularity", "last_item", "prompt"):
            raise ValueError(f"system {self.name}: kind {self.kind} takes no popularity_prior")
        return self


class SystemsSpec(Spec):
    """The spec of `evaluate-systems`.

    With `known_items` and `purchases` there is a test day: popularity counts the days before it, every purchase in the
    window after it is a target, and a target that is no candidate counts as missed for every system. Without them
    (leave-one-out) everything comes from the rows: the targets are their own, items in the history are seen items, and
    popularity counts the training rows.

    Attributes:
        train_snapshot: `sequences` rows that the systems were trained on (user_id, hist_items, tar_items).
        test_snapshot: rows whose targets are to be ranked (user_id, hist_items, hist_ts, hist_len, tar_items). Rows
            without a history or a target are left out. With `purchases`, one row per user.
        val_snapshot: rows on which the weights of systems with `fitted` are chosen: the same that chose the models'
            best states. Targets and popularity come from these rows.
        validation: the metric that chooses those weights, as it chose the states; its prior is replaced by the searched
            ones.
        known_items: snapshot of item_idx, purchases: the items seen before the test day, and how often each was bought
            in the days before it that popularity counts.
        purchases: snapshot of user_id, item_idx, is_target, is_seen (0 or 1): the distinct items that the test users
            bought in the window after the test day (is_target) or at any time before it (is_seen). An item without a
            number has item_idx 0.
        candidates: `known`, the items of `known_items`; or `catalogue`, every item of the content matrix.
        content_matrix: folder of the content matrix.
        out_dir: gets result.json, and <name>.npz per system: row, user (a hash), item and rank of every target,
            in the same order in all files.
        systems: the systems to measure.
        ks: lengths of the ranked lists.
        filter_seen: whether items that the user had before are excluded as candidates; targets among them are then left
            out and counted. Otherwise, the segment `new_to_user` has the figures without such targets and candidates.
        popularity_days: without `known_items`, the prior counts events in the last `popularity_days` days of the test
            rows' histories.
        cold_item_max: an item with at most this many training occurrences is cold.
        long_tail_max: an item with at most this many that is not cold belongs to the long tail.
        cold_user_max: a row with at most this many history items belongs to a cold user.
        resamples, seed: of the bootstrap over users.
        sampled: a sample of rows and candidates that every system ranks as well; kind prompt needs it.
        item_texts: folder of the items' texts, for prompts.
        threads: torch threads.
    """

    command: ClassVar[str] = "evaluate-systems"
    module: ClassVar[str] = "models.evaluation.evaluate_systems"
    help: ClassVar[str] = "measure retrieval systems side by side"

    train_snapshot: Path
    test_snapshot: Path
    val_snapshot: Path | None = None
    validation: ValidationConfig = ValidationConfig()
    known_items: Path | None = None
    purchases: Path | None = None
    candidates: Literal["known", "catalogue"]
    content_matrix: Path
    systems: tuple[SystemConfig, ...] = Field(min_length=1)
    ks: tuple[int, ...] = Field(default=(10, 50), min_length=1)
    filter_seen: bool = False
    popularity_days: int = Field(default=28, gt=0)
    cold_item_max: int = Field(default=0, ge=0)
    long_tail_max: int = Field(default=10, ge=0)
    cold_user_max: int = Field(default=5, ge=0)
    resamples: int = Field(default=1000, gt=0)
    seed: int = Field(default=1, ge=0)
    sampled: SampledConfig | None = None
    item_texts: Path | None = None
    threads: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _check_test_day(self) -> "SystemsSpec":
        if (self.known_items is None) != (self.purchases is None):
            raise ValueError("known_items and purchases are those of one test day: give both, or none")
        if self.candidates == "known" and self.known_items is None:
            raise ValueError("candidates: known needs known_items and purchases; without a test day, take catalogue")
        return self

    @model_validator(mode="after")
    def _check_fitted(self) -> "SystemsSpec":
        if any(system.fitted for system in self.systems) and (self.val_snapshot is None or self.filter_seen):
            raise ValueError("systems with fitted need val_snapshot, and seen items among the candidates")
        return self

    @model_validator(mode="after")
    def _check_prompts(self) -> "SystemsSpec":
        if any(system.kind == "prompt" for system in self.systems) and not (self.sampled and self.item_texts):
            raise ValueError("systems of kind prompt need sampled and item_texts")
        return self

    @field_validator("systems")
    @classmethod
    def _check_names(cls, systems: tuple[SystemConfig, ...]) -> tuple[SystemConfig, ...]:
        _check_distinct(systems, "systems")
        return systems


def _check_distinct(systems: Sequence["SystemConfig | RivalConfig"], what: str) -> None:
    names = [system.name for system in systems]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} of one name: {', '.join(twice)}")


class RivalConfig(Settings):
    """Another system whose vectors or scores are given to the ranker as features.

    Attributes:
        name: names its figures.
        kind: `model` (a trained model in `folder`) gives the vectors of user and item and their inner product;
            `cooccurrence` gives its score.
        folder: of the model.
        content_matrix: the matrix that the model reads.
        trained_items_only: whether items that are in no training row get zeros; for models that learn a vector per item
            and nothing else about it.
    """

    name: FileName
    kind: Literal["model", "cooccurrence"]
    folder: Path | None = None
    content_matrix: Path | None = None
    trained_items_only: bool = False

    @model_validator(mode="after")
    def _check_kind(self) -> "RivalConfig":
        if (self.kind == "model") != bool(self.folder and self.content_matrix):
            raise ValueError(f"rival {self.name}: kind model needs folder and content_matrix, no other has them")
        return self


class RankerSpec(Spec):
    """The spec of `evaluate-ranker`.

    Attributes:
        rows: snapshot with user_id, item_idx, label, weight, is_test (0 or 1), day (any day number), the columns of
            `base`, the lists user_emb, item_emb, mid_emb, and cvr_score. Unknown numbers are -1.
        content_matrix: folder of the content matrix.
        base: names of the base features; `categorical` names those among them that hold categories.
        user_events, item_events: the base features that decide which users and items are cold.
        earlier: the release whose space the embeddings are in. The rows then also hold the embeddings and cvr_score of
            that release's models, with the prefix `earlier_`. Empty: no such release.
        alone: whether each embedding is also measured by itself, and all of them shuffled.
        codes: whether the rows have the list item_codes (-1: the item has none); `alone` then measures it, too.
        rivals: systems whose vectors or scores are features: each by itself, and all of them with the embeddings added.
            The rows then have history_day (-1: none), which with user_id names a row of `histories`.
        histories: snapshot of user_id, day, hist_items, hist_ts, hist_len.
        train_snapshot: the rows that the rivals learned from (user_id, hist_items, tar_items).
        cold_events: users and items with fewer events are cold.
        tail_events: items with at most this many events are the long tail.
        validation_share: share of the training window's days, its last ones, that early stopping uses.
        seed, num_seeds: figures are of the mean score over the trees of `num_seeds` seeds, from `seed` on.
        trial_seeds: `alone` uses only the first `trial_seeds` of these seeds.
        ranker, resamples, threads: settings of the trees, of the bootstrap and of LightGBM's threads.
        out_dir: gets result.json.
    """

    command: ClassVar[str] = "evaluate-ranker"
    module: ClassVar[str] = "models.evaluation.evaluate_ranker"
    help: ClassVar[str] = "measure what the embeddings bring a ranker"

    rows: Path
    content_matrix: Path
    base: tuple[str, ...]
    categorical: tuple[str, ...] = ()
    user_events: str = "user_events"
    item_events: str = "item_events"
    earlier: str = ""
    alone: bool = True
    codes: bool = False
    rivals: tuple[RivalConfig, ...] = ()
    histories: Path | None = None
    train_snapshot: Path | None = None
    cold_events: int = Field(default=10, ge=0)
    tail_events: int = Field(default=0, ge=0)
    validation_share: float = Field(default=0.2, gt=0, lt=1)
    ranker: RankerConfig = RankerConfig()
    resamples: int = Field(default=200, ge=10)
    seed: int = Field(default=7, ge=0)
    num_seeds: int = Field(default=3, gt=0)
    trial_seeds: int = Field(default=1, gt=0)
    threads: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _check_rivals(self) -> "RankerSpec":
        if self.rivals and not (self.histories and self.train_snapshot):
            raise ValueError("rivals need histories and train_snapshot")
        _check_distinct(self.rivals, "rivals")
        return self
