"""The sections of the config: typed, frozen, closed. `conf/base.yaml` documents every key and its default."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.contract.settings import (
    CVRConfig,
    LossConfig,
    RankerConfig,
    StreamConfig,
    TowersConfig,
    TrainConfig,
    check_loss,
)

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

    @model_validator(mode="after")
    def _schedulable(self) -> Self:
        """Spark's local mode has no executors that could own a GPU: a task that asks for one waits for ever."""
        asked = [key for key in self.conf if re.fullmatch(r"spark\.(task|executor)\.resource\..*", key)]
        if asked and self.master and re.fullmatch(r"local(\[.*\])?", self.master):
            raise ValueError(
                f"{asked[0]} would wait for ever under spark.master {self.master}: use a cluster,"
                " or remove it (embedding.device cuda alone uses the driver's GPU)"
            )
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

    @model_validator(mode="after")
    def _leave_one_out_has_one_side(self) -> Self:
        if self.protocol == "leave_one_out" and set(self.history_events) != set(self.target_events):
            raise ValueError(
                "protocol leave_one_out takes every event as history and as target: make history_events"
                f" {self.history_events} and target_events {self.target_events} equal"
            )
        return self


class SampleSettings(Section):
    """CVR and ranker samples: purchases beside sampled items, or exposures and what followed them."""

    labels: Literal["sampled", "observed"]
    negatives: Annotated[int, Field(ge=1)]
    seed: int
    exposure_events: list[str]
    conversion_events: list[str]
    conversion_days: Annotated[int, Field(ge=0)]
    min_value: float | None

    @model_validator(mode="after")
    def _observed_events_are_named(self) -> Self:
        for name in ("exposure_events", "conversion_events"):
            if self.labels == "observed" and not getattr(self, name):
                raise ValueError(f"labels observed needs {name}: name some of ingest.event_types")
        return self


class EmbeddingSettings(Section):
    model: str
    revision: str | None
    template: Literal["title", "brief", "brief_zh", "industrial", "industrial_zh"]
    pooling: Literal["mean", "last", "cls"]
    max_tokens: Annotated[int, Field(ge=8)]
    batch_tokens: Annotated[int, Field(ge=8)]
    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1)]
    workers: Annotated[int, Field(ge=1)]
    gpu_per_task: Literal["auto"] | Annotated[float, Field(ge=0.0, le=16.0)]
    bucket_texts: Literal["auto"] | Annotated[int, Field(ge=1)]
    reduce_to: Annotated[int, Field(ge=8)] | None
    max_bad_share: Share
    max_duplicate_share: Share
    min_effective_rank: Annotated[float, Field(ge=1)]
    min_neighbour_overlap: Share


class StreamSettings(StreamConfig):
    """The training snapshot's files, and how they are read."""

    rows_per_file: Annotated[int, Field(ge=1)]


class LaunchSettings(Section):
    """Where a training's processes run: one here, several here, or several on the cluster's executors."""

    mode: Literal["process", "torchrun", "spark"]
    processes: Annotated[int, Field(ge=1)]


class TowersSettings(Section):
    model: TowersConfig
    loss: LossConfig
    train: TrainConfig
    launch: LaunchSettings

    @model_validator(mode="after")
    def _check_loss(self) -> "TowersSettings":
        check_loss(self.model, self.loss)
        return self


class CvrSettings(Section):
    model: CVRConfig
    train: TrainConfig
    validation_days: Annotated[int, Field(ge=1)]
    log_q: bool


class FeatureSettings(Section):
    batch_rows: Annotated[int, Field(ge=1)]
    min_users: Annotated[int, Field(ge=1)]
    min_content_coverage: Share
    min_effective_rank: Annotated[float, Field(ge=1)]
    max_mean_cosine: Share
    cold_events: Annotated[int, Field(ge=0)]
    min_row_share: Share
    min_remade_share: Share
    min_pair_auc: Share
    max_centroid_shift: Annotated[float, Field(ge=0)]
    min_neighbour_overlap: Share
    min_model_overlap: Share
    max_age_days: Annotated[int, Field(ge=0)] | None
    keep_releases: Annotated[int, Field(ge=1)]
    vacuum_hours: Annotated[int, Field(ge=168)]  # Delta's own guard: readers and writers may take that long


class RetrievalSettings(Section):
    """How the towers' inner product becomes a ranking of all items."""

    popularity_days: Annotated[int, Field(ge=1)]
    popularity_weight: Annotated[float, Field(ge=0)]


class EvaluationSettings(Section):
    candidates: Literal["known", "catalogue"]
    max_samples: Annotated[int, Field(ge=1)]
    bootstrap: Annotated[int, Field(ge=10)]
    tail_share: Share
    threads: Annotated[int, Field(ge=1)]
    seed: int
    num_seeds: Annotated[int, Field(ge=1)]
    ranker: RankerConfig


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
