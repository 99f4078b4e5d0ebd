"""The sections of the config: typed, frozen, closed. `conf/base.yaml` documents every key and its default."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.settings import CVRConfig, LossConfig, StreamConfig, TowersConfig, TrainConfig

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A config section: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LakeSettings(Section):
    root: Path


class OutputSettings(Section):
    """Where what people read goes: the report, `summary.json`."""

    dir: Path


class SparkSettings(Section):
    master: str | None
    driver_memory: str
    shuffle_partitions: Annotated[int, Field(ge=1)]
    ui: bool
    conf: dict[str, str]


class FieldMapping(Section):
    """How one column of the contract is read from the source.

    `column` names the source column; `constant` replaces it. `format` is Spark's datetime pattern.
    `strip_suffix` is cut from the end. `by_prefix` maps the beginning of the raw value to a result, else
    `default` holds.
    """

    column: str | None = None
    constant: str | None = None
    format: str | None = None
    strip_suffix: str | None = None
    by_prefix: dict[str, str] = {}
    default: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give either `column` or `constant`")
        return self


class IngestMapping(Section):
    """Source columns of an event line; what is null is not in the log."""

    user_id: FieldMapping
    item_id: FieldMapping
    event_ts: FieldMapping
    event_type: FieldMapping
    value: FieldMapping | None = None
    title: FieldMapping
    category: FieldMapping | None = None
    brand: FieldMapping | None = None
    price: FieldMapping | None = None
    keywords: FieldMapping | None = None
    attributes: dict[str, FieldMapping] = {}

    def named(self) -> dict[str, FieldMapping]:
        """Every mapped field by its contract name, attributes left out."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "attributes"}
        return {name: field for name, field in fields.items() if field is not None}

    def source_columns(self) -> list[str]:
        """Source columns that a file must have, in mapping order, each once."""
        fields = [*self.named().values(), *self.attributes.values()]
        return list(dict.fromkeys(field.column for field in fields if field.column is not None))


class IngestSettings(Section):
    path: Path
    files: str
    format: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)]
    encoding: Literal["utf-8", "iso-8859-1", "us-ascii", "utf-16"]
    start: date
    mapping: IngestMapping
    event_types: list[str]
    max_reject_share: Share
    max_bad_files: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _files_name_the_day(self) -> Self:
        if "{day}" not in self.files:
            raise ValueError("`files` must hold {day}, as in {day}.csv.gz")
        return self


class WindowSettings(Section):
    """The staggered windows: no stage learns from labels that an earlier one was trained on."""

    first_as_of: date
    towers_end: date
    cvr_end: date
    ranker_train_end: date
    end: date

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        names = list(type(self).model_fields)
        for earlier, later in zip(names, names[1:], strict=False):
            if getattr(self, earlier) >= getattr(self, later):
                raise ValueError(
                    f"{later} ({getattr(self, later)}) must come after {earlier} ({getattr(self, earlier)})"
                )
        return self


class SequenceSettings(Section):
    protocol: Literal["time", "leave_one_out"]
    history_length: Annotated[int, Field(ge=1)]
    target_length: Annotated[int, Field(ge=1)]
    history_days: Annotated[int, Field(ge=1)]
    target_days: Annotated[int, Field(ge=1)]
    stride_days: Annotated[int, Field(ge=1)]
    history_events: list[str]
    target_events: list[str]
    min_history: Annotated[int, Field(ge=1)]
    min_targets: Annotated[int, Field(ge=1)]
    sampling: Literal["recent", "random"]
    seed: int | None
    min_core: Annotated[int, Field(ge=1)]


class SampleSettings(Section):
    """CVR and ranker samples: purchases, and popularity-sampled items that were not bought in the window."""

    negatives: Annotated[int, Field(ge=1)]
    seed: int


class EmbeddingSettings(Section):
    model: str
    revision: str | None
    template: Literal["title", "industrial"]
    pooling: Literal["mean", "last", "cls"]
    max_tokens: Annotated[int, Field(ge=8)]
    batch_tokens: Annotated[int, Field(ge=8)]
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1)]
    workers: Annotated[int, Field(ge=1)]


class StreamSettings(StreamConfig):
    """The training snapshot's files, and how they are read."""

    rows_per_file: Annotated[int, Field(ge=1)]


class TowersSettings(Section):
    model: TowersConfig
    loss: LossConfig
    train: TrainConfig


class CvrSettings(Section):
    model: CVRConfig
    train: TrainConfig
    validation_days: Annotated[int, Field(ge=1)]


class FeatureSettings(Section):
    batch_rows: Annotated[int, Field(ge=1)]
    min_users: Annotated[int, Field(ge=1)]
    min_content_coverage: Share
    min_effective_rank: Annotated[float, Field(ge=1)]
    max_mean_cosine: Share
    cold_events: Annotated[int, Field(ge=0)]


class RetrievalSettings(Section):
    """How the towers' inner product becomes a ranking of all items."""

    popularity_days: Annotated[int, Field(ge=1)]
    popularity_weight: Annotated[float, Field(ge=0)]


class EvaluationSettings(Section):
    max_samples: Annotated[int, Field(ge=1)]
    bootstrap: Annotated[int, Field(ge=10)]
    tail_share: Share
    threads: Annotated[int, Field(ge=1)]
    seed: int


class ScaleSettings(Section):
    """Expected sizes, for the estimates of a dry run."""

    users: Annotated[int, Field(ge=1)]
    items: Annotated[int, Field(ge=1)]
    events_per_day: Annotated[int, Field(ge=1)]
    content_dim: Annotated[int, Field(ge=1)]
    tokens_per_item: Annotated[int, Field(ge=1)]
    encoder_parameters: Annotated[int, Field(ge=1)]
    device_tflops: Annotated[float, Field(gt=0)]


class MlflowSettings(Section):
    tracking_uri: str | None
    experiment: str
