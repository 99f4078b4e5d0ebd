"""The specs of the evaluations: which systems and features are measured, on what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from models.contract.language_models import PromptConfig
from models.contract.settings import RankerConfig, ValidationConfig
from models.contract.spec import Spec
from models.contract.strict import Settings

RECENCY_DECAY = 0.9  # co-occurrence's weight of an event relative to the one after it
HISTORY_DAY = "history_day"  # of a ranker's row: the day number of the newest history that it may know; -1: of none
FileName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=100)]


class SampledConfig(Settings):
    """Which candidates.

    Attributes:
        rows: sampled rows, of those with a history and a target.
        candidates: of each row, its target among them.
        seed: of rows and candidates.
    """

    rows: int = Field(gt=0)
    candidates: int = Field(default=20, gt=1)
    seed: int = Field(default=1, ge=0)


class SystemConfig(Settings):
    """A system.

    Attributes:
        name: names its figures and its file of ranks.
        kind: `model` (towers, SASRec, HSTU in `folder`), `popularity`, `last_item` (the history from its end, then
            popularity), `cooccurrence` (models/baselines/history.py), `mean_content`
            (models/baselines/mean_content.py), `prompt` (models/baselines/prompt_ranker.py): it ranks the sampled
            candidates alone.
        folder: of the trained model; of `mean_content`, towers whose scale the cosines get, so that the prior weighs as
            much as beside theirs.
        prompt: of a language model that is asked as it is, instead of a folder.
        popularity_prior: weight of log popularity beside the score; not for popularity and last_item.
        content_matrix: another encoder's matrix of the same items, for `model` and `mean_content`.
        items_of, items_matrix: other towers, and the matrix that they read, whose item vectors stand in for the
            model's own. Either matrix may then be an older one, with fewer items; what it lacks has zeros.
        recency_decay: cooccurrence's weight of an event relative to the one after it.
        fitted: of a `model`, whether popularity_prior, and what the history's own items get, are chosen on
            `val_snapshot`, beginning with those given and learned (models/evaluation/fitted.py).
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

    With `known_items` and `purchases` there is a test day: popularity is that of the days before it, every purchase of
    the window after it is a target, and an item that is no candidate is missed by every system. Without them the rows
    say all (leave-one-out): their own targets, what their histories hold, popularity over the training rows.

    Attributes:
        train_snapshot: `sequences` rows that the systems were trained on (user_id, hist_items, tar_items).
        test_snapshot: rows whose targets are asked for (user_id, hist_items, hist_ts, hist_len, tar_items); those
            without a history or a target are left out and counted. With `purchases`, one row per user.
        val_snapshot: rows that the weights of systems with `fitted` are chosen on: those that chose the models' best
            states. Their targets and popularity are the rows' own.
        validation: the figure that chooses those weights, as it chose the states; its prior is what is searched.
        known_items: snapshot of item_idx, purchases: the items seen before the test day, and how often each was bought
            in the days before it that popularity is counted over.
        purchases: snapshot of user_id, item_idx, is_target, is_seen (0 or 1): distinct purchases of the test users, in
            the window after the test day and ever before it. An item without a number has item_idx 0.
        candidates: `known`, the items of `known_items`; or `catalogue`, every item of the content matrix.
        content_matrix: folder of the content matrix.
        out_dir: gets result.json, and <name>.npz per system: row, user (a hash), item and rank of every target,
            in the same order in all files.
        systems: what is measured.
        ks: lengths of the lists.
        filter_seen: whether items that the user had before are no candidates; targets among them are then left out and
            counted. Else the segment `new_to_user` has the figures without them, as targets and candidates.
        popularity_days: without `known_items`, the prior counts events in the last so many days of the test rows'
            histories.
        cold_item_max: an item with at most so many training occurrences is cold.
        long_tail_max: one with at most so many, and not cold, is of the long tail.
        cold_user_max: a row with at most so many history items is a cold user's.
        resamples, seed: of the bootstrap over users.
        sampled: a few of the rows and of the candidates, which every system ranks as well; kind prompt needs it.
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
    """Another system whose view of users and items is given to the ranker as features.

    Attributes:
        name: names its figures.
        kind: `model` (a trained model in `folder`): both vectors and their product. `cooccurrence`: its score.
        folder: of the model.
        content_matrix: what the model reads.
        trained_items_only: whether items that no training row holds have zeros; for models that learn a vector per item
            and know nothing else of it.
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
        base: the base features; `categorical` names those among them that hold categories.
        user_events, item_events: the base features by which users and items are called cold.
        earlier: the release whose space the embeddings are in; the rows then have what its models make of them, by the
            same names with `earlier_` before them. Empty: there is none.
        alone: whether each embedding is also measured by itself, and all of them shuffled.
        codes: whether the rows have the list item_codes (-1: the item has none), which is then measured there, too.
        rivals: systems whose vectors or scores are features, too: alone, and with the embeddings on top of all of them.
            The rows then have history_day (-1: none), which with user_id names a row of `histories`.
        histories: snapshot of user_id, day, hist_items, hist_ts, hist_len.
        train_snapshot: the rows that the rivals learned from (user_id, hist_items, tar_items).
        cold_events: fewer events are cold.
        tail_events: items with at most so many events are the long tail.
        validation_share: the last days of the training window, for early stopping.
        seed, num_seeds: every row of figures is of the mean score over trees of so many seeds, from `seed` on.
        trial_seeds: of `alone`, the first so many of these.
        ranker, resamples, threads: settings.
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
