"""The specs of the trainings."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from models.contract.language_models import NoteLLMConfig, PromptConfig
from models.contract.settings import (
    ALSConfig,
    CVRConfig,
    CVRTrainConfig,
    LossConfig,
    SequentialConfig,
    StreamConfig,
    TowersConfig,
    TrainConfig,
    ValidationConfig,
    check_loss,
)
from models.contract.spec import Spec
from models.contract.strict import Settings


class TrainingSpec(Spec):
    """What every training is told.

    Attributes:
        train_snapshot, val_snapshot: snapshot folders.
        out_dir: gets model.safetensors, config.json, metrics.jsonl, result.json.
        train, stream: settings, all with defaults.
    """

    launchable: ClassVar[bool] = True

    train_snapshot: Path
    val_snapshot: Path
    train: TrainConfig = TrainConfig()
    stream: StreamConfig = StreamConfig()

    @property
    def trains_all_positions(self) -> bool:
        """Whether every position of a row trains: of rows that are prefixes of one another, each item once a row."""
        return False


class EarlierTowers(Settings):
    """The towers of an earlier release, into whose space those of this training are mapped.

    Attributes:
        release: its id.
        space: names the space of its vectors.
        towers: the model's folder.
        content_matrix: what it was trained on; item_idx are the same, the encoder need not be.
    """

    release: str
    space: str
    towers: Path
    content_matrix: Path


class EarlierConversion(Settings):
    """The conversion model of an earlier release, into whose space mid_emb of this training is mapped.

    Attributes:
        release, space: as of `EarlierTowers`.
        cvr: the model's folder.
        pairs: snapshot of pairs with user_emb and item_emb, by these towers, and earlier_user_emb and earlier_item_emb,
            by those of the earlier release.
    """

    release: str
    space: str
    cvr: Path
    pairs: Path


class TowersSpec(TrainingSpec):
    """The spec of `train-towers`.

    Attributes:
        train_snapshot, val_snapshot: of `sequences` (columns user_id, hist_items, hist_len, tar_items, tar_len; hist_ts
            in the validation snapshot).
        content_matrix: folder of the content matrix.
        towers, loss, validation: settings, all with defaults.
        earlier: whose space the vectors are mapped into when training is over; None: they keep their own.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"earlier"})
    command: ClassVar[str] = "train-towers"
    module: ClassVar[str] = "models.training.train_towers"
    help: ClassVar[str] = "train user and item towers"

    content_matrix: Path
    towers: TowersConfig = TowersConfig()
    loss: LossConfig = LossConfig()
    validation: ValidationConfig = ValidationConfig()
    earlier: EarlierTowers | None = None

    @property
    def trains_all_positions(self) -> bool:
        """See `TrainingSpec`."""
        return self.loss.pairs == "next_item"

    @model_validator(mode="after")
    def _check_loss(self) -> "TowersSpec":
        check_loss(self.towers, self.loss)
        return self


class SequentialSpec(TrainingSpec):
    """The spec of `train-sequential`.

    Attributes:
        train_snapshot, val_snapshot: of `sequences` (columns hist_items, hist_len, tar_items, tar_len; hist_ts in the
            validation snapshot and, for hstu, in the training snapshot, which then needs tar_ts as well for
            `positions: all`). With `positions: all`, one training row a user.
        content_matrix: folder of the content matrix, whose rows say how many items there are.
        model, validation: settings, all with defaults.
    """

    command: ClassVar[str] = "train-sequential"
    module: ClassVar[str] = "models.training.train_sequential"
    help: ClassVar[str] = "train a sequential baseline by item ids"

    content_matrix: Path
    model: SequentialConfig = SequentialConfig()
    validation: ValidationConfig = ValidationConfig()

    @property
    def trains_all_positions(self) -> bool:
        """See `TrainingSpec`."""
        return self.model.positions == "all"


class ALSSpec(TrainingSpec):
    """The spec of `train-als`, which runs in one process. Of `train`, the seed, device and threads count.

    Attributes:
        train_snapshot, val_snapshot: of `sequences` (columns user_id, hist_items, tar_items; hist_len, hist_ts in the
            validation snapshot).
        content_matrix: folder of the content matrix, whose rows say how many items there are.
        model, validation: settings, all with defaults.
    """

    command: ClassVar[str] = "train-als"
    module: ClassVar[str] = "models.training.train_als"
    help: ClassVar[str] = "factorise who has what by alternating least squares"
    launchable: ClassVar[bool] = False

    content_matrix: Path
    model: ALSConfig = ALSConfig()
    validation: ValidationConfig = ValidationConfig()


class NoteLLMSpec(TrainingSpec):
    """The spec of `train-notellm`, which runs in one process.

    Attributes:
        train_snapshot, val_snapshot: of `sequences` (columns user_id, hist_items, tar_items; hist_len, hist_ts in the
            validation snapshot).
        content_matrix: folder of the content matrix, whose rows say how many items there are.
        item_texts: folder of the items' texts (`ItemTexts`).
        out_dir: its model.safetensors holds adapters, head and compression token.
        model: settings; validation: settings, all with defaults. An epoch is every item with a related one, each with
            one of those.
    """

    command: ClassVar[str] = "train-notellm"
    module: ClassVar[str] = "models.training.train_notellm"
    help: ClassVar[str] = "train a text encoder on items that go together"
    launchable: ClassVar[bool] = False

    content_matrix: Path
    item_texts: Path
    model: NoteLLMConfig
    validation: ValidationConfig = ValidationConfig()


class PromptSpec(TrainingSpec):
    """The spec of `train-prompts`.

    Attributes:
        train_snapshot, val_snapshot: of `sequences` (columns hist_items, hist_len, tar_items, tar_len).
        content_matrix: folder of the content matrix, whose rows say how many items there are.
        item_texts: folder of the items' texts (`ItemTexts`).
        out_dir: its model.safetensors holds the adapters.
        model: settings.
    """

    command: ClassVar[str] = "train-prompts"
    module: ClassVar[str] = "models.training.train_prompts"
    help: ClassVar[str] = "train a language model on histories as prompts"

    content_matrix: Path
    item_texts: Path
    model: PromptConfig


class CVRSpec(TrainingSpec):
    """The spec of `train-cvr`.

    Attributes:
        train_snapshot, val_snapshot: with the columns user_emb, item_emb (lists of floats), label (0 or 1), weight,
            with `log_q` also that: log of the negatives of the item that a positive draws; val_snapshot also user_id.
            Validation samples are later than training samples.
        log_q: correct for how sampled negatives were drawn (models/training/train_cvr.py).
        other_labels: the weight in the loss of each label beside the conversion, by its name. Where there are some, the
            snapshots have a column other_labels: a list with a 0 or 1 for each, in this order.
        cvr: settings, all with defaults.
        earlier: whose space mid_emb is mapped into when training is over; None: it keeps its own.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"earlier", "other_labels"})
    command: ClassVar[str] = "train-cvr"
    module: ClassVar[str] = "models.training.train_cvr"
    help: ClassVar[str] = "train the conversion model"

    log_q: bool = False
    other_labels: dict[str, Annotated[float, Field(gt=0)]] = {}
    cvr: CVRConfig = CVRConfig()
    train: CVRTrainConfig = CVRTrainConfig()
    earlier: EarlierConversion | None = None
