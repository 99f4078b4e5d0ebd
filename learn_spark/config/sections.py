"""The sections of the config about data: where it lies, its days, its sequences and samples; and about the machine.

Every key has its default and, below it, its one explanation: `scripts/base_yaml.py` makes `conf/base.yaml` of both.
"""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.session_rules import refusal
from learn_spark.storage import Place, cache_folder, name_of_copy
from models.contract.event_types import MOST_TYPES
from models.contract.strict import Settings

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class LakeSettings(Settings):
    """Everything that the jobs make."""

    LATER: ClassVar[frozenset[str]] = frozenset({"catalog"})

    root: Place = Path("lake")
    """Delta tables and artifacts: a folder that every executor sees, s3a://bucket/lake or hdfs://name/lake
    (docs/cluster.md)."""
    options: dict[str, Any] = {}
    """How stores are reached, that of the logs, too: {endpoint_url: "https://…", key: "${NAME}", secret: "${NAME}"}.
    Keys with a dot are Hadoop's properties, for HDFS. What it leaves out comes from the environment or the machine's
    role. No fingerprint and no page holds it."""
    catalog: Annotated[str, Field(pattern=r"^\w+(\.\w+)?$")] | None = None
    """A schema of Spark's catalog, as shop or main.shop, in which the tables have names, too (docs/cluster.md)."""


class OutputSettings(Settings):
    """What people read."""

    dir: Place = Path("output")
    """The report (report/index.html), summary.json, logs of errors, MLflow's SQLite file. A folder; or one in a store,
    s3a://bucket/output, where all that is sent when a command ends, but for MLflow's: name a server then."""

    @property
    def folder(self) -> Path:
        """Where this machine writes it."""
        if isinstance(self.dir, Path):
            return self.dir
        return cache_folder() / "_outputs" / name_of_copy(self.dir)


class WindowSettings(Settings):
    """Staggered, so that no stage learns from labels that an earlier one was trained on."""

    first_as_of: date = date(2011, 1, 10)
    """No training history ends before it."""
    towers_end: date = date(2011, 10, 10)
    """The towers' targets end here, the CVR samples begin."""
    cvr_end: date = date(2011, 11, 1)
    """The CVR samples end, the ranker's training samples begin."""
    ranker_train_end: date = date(2011, 11, 17)
    """The ranker's test samples begin."""
    end: date = date(2011, 12, 10)
    """Everything ends."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        names = list(type(self).model_fields)
        for earlier, later in zip(names, names[1:], strict=False):
            if getattr(self, earlier) >= getattr(self, later):
                raise ValueError(
                    f"{later} ({getattr(self, later)}) must come after {earlier} ({getattr(self, earlier)})"
                )
        return self


class SequenceSettings(Settings):
    """Users' histories and what followed them."""

    LATER: ClassVar[frozenset[str]] = frozenset({"keep_event_types"})

    history_events: list[str] = ["purchase"]
    """Event types on the history side."""
    target_events: list[str] = ["purchase"]
    """Event types that count as a target."""
    keep_event_types: bool = False
    """Each event's type goes with it into histories, sequences and towers (docs/event_types.md); the order of the two
    lists above numbers them. false: events of all types count alike."""
    history_length: Annotated[int, Field(ge=1)] = 80
    """H: the last events before the as-of date (paper: 80)."""
    target_length: Annotated[int, Field(ge=1)] = 40
    """T: the first events from it on (paper: 40)."""
    history_days: Annotated[int, Field(ge=1)] = 365
    """Older events are forgotten."""
    target_days: Annotated[int, Field(ge=1)] = 28
    """Targets lie within so many days of the as-of date."""
    as_of_every_days: Annotated[int, Field(ge=1)] = 7
    """Days between two training as-of dates."""
    min_history: Annotated[int, Field(ge=1)] = 1
    """Shorter ones make no sequence."""
    min_targets: Annotated[int, Field(ge=1)] = 1
    """Fewer make no sequence."""
    sampling: Literal["recent", "random"] = "recent"
    """recent: the last H and the first T. random: that many drawn from the whole window (paper)."""
    seed: int | None = None
    """Order of events of one time: null by event_id, a number shuffles them. It draws, too."""
    protocol: Literal["time", "leave_one_out"] = "time"
    """time: as-of dates. leave_one_out: each user's last event tests, the one before validates."""
    k_core: Annotated[int, Field(ge=1)] = 5
    """leave_one_out: users and items with fewer events are dropped, again and again."""

    @property
    def event_types(self) -> tuple[str, ...]:
        """The types that are kept, in the order of their codes, the first one's 1; empty where none are."""
        return tuple(dict.fromkeys([*self.history_events, *self.target_events])) if self.keep_event_types else ()

    def types_of_targets(self, pairs: Literal["all_action", "next_item"]) -> list[str]:
        """The event types that targets of a loss over such pairs have."""
        return list(dict.fromkeys([*(self.history_events if pairs == "next_item" else ()), *self.target_events]))

    @model_validator(mode="after")
    def _types_have_codes(self) -> Self:
        if len(self.event_types) > MOST_TYPES:
            raise ValueError(
                f"keep_event_types keeps {MOST_TYPES} types at most; history_events and target_events name"
                f" {len(self.event_types)}: map some of them to one (ingest.mapping.event_type.map)"
            )
        return self

    @model_validator(mode="after")
    def _leave_one_out_has_one_side(self) -> Self:
        if self.protocol == "leave_one_out" and set(self.history_events) != set(self.target_events):
            raise ValueError(
                "protocol leave_one_out takes every event as history and as target: make history_events"
                f" {self.history_events} and target_events {self.target_events} equal"
            )
        return self


class LabelSettings(Settings):
    """What makes an exposure's label 1."""

    events: Annotated[list[str], Field(min_length=1)]
    """The same user's events on the same item, as [cart]."""
    days: Annotated[int, Field(ge=0)] = 7
    """Within so many days of the exposure; 0: at its own time."""
    min_value: float | None = None
    """The least `value` of such an event."""


class SampleSettings(Settings):
    """CVR and ranker samples: purchases beside sampled items, or exposures and what followed them."""

    LATER: ClassVar[frozenset[str]] = frozenset({"other_labels"})

    labels: Literal["sampled", "observed"] = "sampled"
    """sampled: purchases (target_events) beside sampled items. observed: exposures, 1 where a conversion followed."""
    negatives: Annotated[int, Field(ge=1)] = 4
    """sampled: items per purchase, drawn by popularity, that the user did not buy in the window."""
    seed: int = 7
    """sampled: of the draws."""
    exposure_events: list[str] = []
    """observed: event types that are a sample each, as [view]."""
    conversion_events: list[str] = []
    """observed: the same user's events on the same item that make it 1, as [purchase]."""
    conversion_days: Annotated[int, Field(ge=0)] = 7
    """observed: within so many days of the exposure; 0: at its own time, for logs whose line is both. Exposures nearer
    than that to their window's end are no samples: what follows them is not known there."""
    min_value: float | None = None
    """observed: a conversion's least `value`, as 4 of a rating."""
    other_labels: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")], LabelSettings] = {}
    """observed: further labels of each exposure, by name: {cart: {events: [cart], days: 1, min_value: null}}. The
    conversion model learns them beside the conversion (docs/operations.md, Several labels)."""

    @property
    def conversion(self) -> LabelSettings:
        """observed: what makes `label` 1."""
        return LabelSettings.model_construct(
            events=self.conversion_events, days=self.conversion_days, min_value=self.min_value
        )

    @property
    def outcomes(self) -> list[LabelSettings]:
        """observed: the labels of an exposure: the conversion, then the others in the order of `names_of_others`."""
        return [self.conversion, *(self.other_labels[name] for name in self.names_of_others)]

    @property
    def names_of_others(self) -> tuple[str, ...]:
        """The names of `other_labels`, in the one order that all of them are kept in."""
        return tuple(sorted(self.other_labels))

    @property
    def longest_days(self) -> int:
        """observed: after so many days all labels of an exposure are known."""
        return max(outcome.days for outcome in self.outcomes)

    @model_validator(mode="after")
    def _observed_events_are_named(self) -> Self:
        for name in ("exposure_events", "conversion_events"):
            if self.labels == "observed" and not getattr(self, name):
                raise ValueError(f"labels observed needs {name}: name some of ingest.event_types")
        return self

    @model_validator(mode="after")
    def _other_labels_are_observed(self) -> Self:
        if self.other_labels and self.labels == "sampled":
            raise ValueError(
                f"other_labels ({', '.join(self.names_of_others)}) are of exposures, and sampled items were not shown:"
                " set labels: observed, or leave them out"
            )
        if "label" in self.other_labels:
            raise ValueError("other_labels: label is the conversion's own name: choose another")
        return self


class SparkSettings(Settings):
    """The session; what spark-submit says wins."""

    master: str | None = "local[*]"
    """null: leave it to spark-submit, whose --master wins anyway."""
    driver_memory: str = "3g"
    """Without spark-submit; there, --driver-memory."""
    shuffle_partitions: Annotated[int, Field(ge=1)] = 200
    """About 128 MiB per partition after the shuffle is right."""
    engine: Literal["auto", "comet", "spark"] = "auto"
    """comet: Apache DataFusion Comet works below Spark's plans. auto: where it can be had and the log is large enough
    to gain. Rows are equal on both, so no fingerprint holds it."""
    ui: bool = True
    """Spark's own web page while a job runs."""
    conf: dict[str, str] = {}
    """Further Spark settings, as key: "value"; none that changes rows."""

    @model_validator(mode="after")
    def _leaves_rows_as_they_are(self) -> Self:
        if why := next(filter(None, map(refusal, self.conf)), None):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _schedulable(self) -> Self:
        """Spark's local mode has no executors that could own a GPU: a task that asks for one waits for ever."""
        asked = [key for key in self.conf if re.fullmatch(r"spark\.(task|executor)\.resource\..*", key)]
        if asked and self.master and re.fullmatch(r"local(\[.*\])?", self.master):
            raise ValueError(
                f"{asked[0]} would wait for ever under spark.master {self.master}: use a cluster,"
                " or remove it (embedding.run.device cuda alone uses the driver's GPU)"
            )
        return self


class MlflowSettings(Settings):
    """Where runs and models are logged."""

    tracking_uri: str | None = None
    """null: SQLite in output.dir."""
    experiment: str = "learn-spark"
    """The runs' experiment."""


class ScaleSettings(Settings):
    """Expected sizes: only the estimates of a dry run use them, where the lake is empty."""

    users: Annotated[int, Field(ge=1)] = 4400
    """In all."""
    items: Annotated[int, Field(ge=1)] = 3700
    """In all."""
    events_per_day: Annotated[int, Field(ge=1)] = 1400
    """Usable ones."""
    content_dim: Annotated[int, Field(ge=1)] = 384
    """Width of the encoder's hidden states."""
    tokens_per_item: Annotated[int, Field(ge=1)] = 10
    """Of its prompt."""
    encoder_parameters: Annotated[int, Field(ge=1)] = 22_000_000
    """Of the text encoder."""
    device_tflops: Annotated[float, Field(gt=0)] = 0.1
    """What the encoder's device really sustains, all of them together."""
