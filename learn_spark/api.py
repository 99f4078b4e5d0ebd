"""The public API for notebooks and other programs, stable since version 0.2 (docs/api.md).

Functions take and return frames. They need no config file, no ledger and no lock, and they only read a lake.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType

from learn_spark.bridge.scoring import TYPES, score_items, score_users
from learn_spark.config.load import Config
from learn_spark.config.model_sections import EmbeddingRun, EmbeddingSettings
from learn_spark.config.sections import LakeSettings, SequenceSettings, SparkSettings
from learn_spark.embedding.udf import embed_function
from learn_spark.errors import ConfigError
from learn_spark.lake.catalog import lake_at
from learn_spark.lake.frames import with_dense_number
from learn_spark.lake.point_in_time import sample_day
from learn_spark.lake.session import build_session, require_plain
from learn_spark.lake.tables import Tables
from learn_spark.releases.join import BATCH_ROWS, join_features
from learn_spark.releases.registry import CURRENT, Release, find_release, releases, rows_of
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.releases.spaces import ReleaseModels
from learn_spark.sequences.events import limited, sided_events, survey
from learn_spark.sequences.histories import sequences
from learn_spark.storage import Place, lake_of
from models.contract.failures import BadInput
from models.contract.strict import explained
from models.contract.trained_model import event_types_of

if TYPE_CHECKING:
    from models.towers.towers import Towers

_EVENT = "event"


def open_lake(spark: SparkSession, root: Place | str | None = None, *, catalog: str | None = None) -> "Lake":
    """Opens a lake for reading.

    Args:
        spark: a session with Delta (`learn_spark.session()` makes one).
        root: the lake's folder or URI: `lake.root` of the config that wrote it. A store (S3, HDFS) is reached with the
            environment's settings, and the session must have Hadoop's settings for it.
        catalog: given instead of `root`: `lake.catalog` of that config, such as main.shop.

    Raises:
        ConfigError: there is no lake with releases, one of its tables is missing, a setting of the session would change
            the rows that are read, or not exactly one of `root` and `catalog` is given.
    """
    require_plain(spark)
    if catalog is not None and root is None:
        root = lake_at(spark, catalog)
    elif catalog is not None or root is None:
        raise ConfigError("open_lake takes either root or catalog")
    lake = Lake(spark, lake_of(root))
    Tables(spark, lake.root).require_own({})
    lake.releases()
    return lake


def session(conf: Mapping[str, str] | None = None) -> SparkSession:
    """Starts a local session with Delta, or returns the running one.

    Args:
        conf: further Spark settings, such as {"spark.driver.memory": "8g"}.

    Raises:
        ConfigError: Java, Delta's jars or a port is missing, or a setting would change rows; the message says which one
            and what to do.
    """
    given = dict(conf or {})
    known = {"spark.driver.memory": "driver_memory", "spark.master": "master"}
    own = {name: given.pop(key) for key, name in known.items() if key in given}
    # Spark's warehouse folder is never used; this root keeps it out of the working directory.
    lake = LakeSettings(root=Path(tempfile.gettempdir()) / "learn_spark")
    try:
        spark = SparkSettings.model_validate({"ui": False, "engine": "spark", "conf": given, **own})
    except ValidationError as error:
        raise ConfigError(explained(error, hidden=[()])) from None
    return build_session(Config(lake=lake, spark=spark), "notebook")


def embed(
    column: str | Column,
    model: str,
    revision: str | None = None,
    pooling: Literal["mean", "last", "cls"] = "mean",
    max_tokens: int = 64,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    layer: int | None = None,
) -> Column:
    """Embeds a text column as array<float> with a language model that each Python worker loads once.

    Args:
        column: texts, which are used unchanged. A null stays null; an empty text gives zeros.
        model: a local folder, `package:NAME/FOLDER` for a folder in an installed Python package, or a hub name.
        revision: the commit, if `model` is a hub name.
        pooling: how the last hidden states of a text's real tokens (no padding) become one vector.
        max_tokens: longer texts are truncated.
        dtype: of the weights and the matrix products.
        device: `auto` takes the GPU that Spark assigned to the task, else the CPU.
        layer: the last layer that runs, counted from 1; None runs all layers.

    Raises:
        ConfigError: the model cannot be found, or lacks a file or the layer.
    """
    settings = EmbeddingSettings(
        model=model,
        revision=revision,
        pooling=pooling,
        max_tokens=max_tokens,
        dtype=dtype,
        layer=layer,
        run=EmbeddingRun(device=device),
    )
    return embed_function(Config(embedding=settings))(column)


class Lake:
    """A lake's releases, tables and models, read only."""

    def __init__(self, spark: SparkSession, root: Place) -> None:
        self.spark, self.root = spark, root
        self._tables = Tables(spark, root)

    def releases(self) -> list[Release]:
        """All releases, the newest first."""
        return releases(self._tables)

    def release(self, name: str = CURRENT) -> Release:
        """A release by its id; `current` is the newest published one.

        Raises:
            ConfigError: no release has this id; the message lists the existing ones.
        """
        return find_release(self._tables, name)

    def table(self, name: str, release: str = CURRENT) -> DataFrame:
        """Reads a table: one release's rows of a feature table (users, items, pairs), all rows of any other table.

        Raises:
            ConfigError: the table or the release does not exist.
        """
        if name in FEATURE_TABLES:
            return rows_of(self._tables, self.release(release), name)
        return self._tables.read(name)

    def join(
        self, samples: DataFrame, release: str = CURRENT, max_age_days: int | None = None, pairs: bool = False
    ) -> DataFrame:
        """Joins to each sample the features that were known before its day: see `join_features`."""
        return join_features(samples, self.root, release, max_age_days, pairs)

    def towers(self, release: str = CURRENT) -> "ReleasedTowers":
        """The user tower and the item tower that made a release.

        Raises:
            ConfigError: the release or its models do not exist.
        """
        return ReleasedTowers.of(self._tables, self.release(release))


@dataclass(frozen=True)
class ReleasedTowers:
    """Trained towers and the content vectors that they read; embeds frames on the executors.

    Attributes:
        folder: the model's folder.
        matrix: the content matrix's folder.
        items: `item_id` and `item_idx` of every item that the lake has numbered.
    """

    folder: Path
    matrix: Path
    items: DataFrame

    @classmethod
    def of(cls, tables: Tables, release: Release) -> "ReleasedTowers":
        """The towers of a release; raises what `Lake.towers` raises."""
        models = ReleaseModels.of(tables, release)
        return cls(models.towers, models.matrix, tables.read("item_index"))

    def embed_users(self, histories: DataFrame, batch_rows: int = BATCH_ROWS) -> DataFrame:
        """Embeds histories.

        Args:
            histories: needs `item_ids` array<string> (the log's item ids, oldest first) or `item_idx` array<int> as in
                `user_history`. Items that the lake does not know are left out. If the towers read event types, it also
                needs `event_types`, one entry per event: array<string> of names, or array<tinyint> of codes as in
                `user_history` of the release's config.
            batch_rows: rows per call of the model.

        Returns:
            The other columns, `user_emb`, and `content_coverage`: the share of the history's items that have a content
            vector. An empty history gives zeros.

        Raises:
            ConfigError: both item columns are missing, or `event_types` is missing and the towers read it.
        """
        _require(histories, "item_ids", "item_idx")
        if self.event_types:
            _require(histories, TYPES)
            histories = self._typed(histories)
        numbered = histories if "item_idx" in histories.columns else self._numbered(histories)
        return score_users(numbered, self.folder, self.matrix, batch_rows, self.event_types).frame

    def embed_items(self, items: DataFrame, batch_rows: int = BATCH_ROWS) -> DataFrame:
        """Embeds items.

        Args:
            items: needs `item_id` or `item_idx`.
            batch_rows: rows per call of the model.

        Returns:
            The other columns, `item_emb`, and `content_coverage`: 1 if the item has a content vector, else 0.

        Raises:
            ConfigError: both columns are missing.
        """
        _require(items, "item_id", "item_idx")
        numbered = items if "item_idx" in items.columns else items.join(self.items, on="item_id", how="left")
        return score_items(numbered, self.folder, self.matrix, batch_rows).frame

    @cached_property
    def event_types(self) -> tuple[str, ...]:
        """Names of the event types that the user tower reads, by code from 1 on; empty if it reads none."""
        try:
            return event_types_of(self.folder)
        except BadInput as error:
            raise ConfigError(str(error)) from None

    @cached_property
    def torch(self) -> "Towers":
        """The towers as a torch module, loaded in this process (needs torch)."""
        from models.saved import load_towers

        return load_towers(self.folder)

    def _typed(self, histories: DataFrame) -> DataFrame:
        """Replaces type names by codes; a name that the towers do not know becomes -1, which scoring refuses."""
        kind = histories.schema[TYPES].dataType
        if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType)):
            return histories
        names = F.array(*map(F.lit, self.event_types))
        code = F.transform(TYPES, lambda name: F.coalesce(F.nullif(F.array_position(names, name), F.lit(0)), F.lit(-1)))
        return histories.withColumn(TYPES, code.cast("array<tinyint>"))

    def _numbered(self, histories: DataFrame) -> DataFrame:
        """Replaces `item_ids` by `item_idx`; rows get a temporary number, since several may be equal."""
        rows = histories.withColumn("_row", F.monotonically_increasing_id()).localCheckpoint(eager=False)
        types = F.col(TYPES) if self.event_types else F.transform("item_ids", lambda _: F.lit(0))
        pairs = F.arrays_zip("item_ids", types.alias(TYPES))
        events = rows.select("_row", F.posexplode(pairs).alias("_place", "_event"))
        events = events.select("_row", "_place", F.col("_event.item_ids").alias("item_id"), F.col(f"_event.{TYPES}"))
        known = events.join(self.items, on="item_id", how="inner")
        ordered = F.array_sort(F.collect_list(F.struct("_place", "item_idx", TYPES)))
        wanted = ["item_idx", *([TYPES] if self.event_types else [])]
        lists = known.groupBy("_row").agg(ordered.alias("_events"))
        lists = lists.select("_row", *(F.col("_events")[name].alias(name) for name in wanted))
        return rows.drop(*wanted).join(lists, on="_row", how="left").drop("_row", "item_ids")


class BuiltSequences(NamedTuple):
    """`rows`: user, as-of day, and history and targets as item numbers. `items`: the number of each item."""

    rows: DataFrame
    items: DataFrame


def build_sequences(
    events: DataFrame,
    as_of: Sequence[date | str],
    history_length: int = 80,
    target_length: int = 40,
    target_days: int = 28,
    history_days: int = 365,
    event_types: Sequence[str] = (),
) -> BuiltSequences:
    """Builds history and target sequences around as-of days from any events.

    A history holds a user's last events before the midnight (UTC) that begins the as-of day; the targets are the first
    events from that midnight on. A user without history or without targets on a day has no row for it. Events of the
    same time are ordered by `event_id`, or by a hash where there is none.

    Args:
        events: needs `user_id`, `item_id` and `event_ts` (timestamp), may have `event_id` (bigint); rows where one of
            the first three is null are left out.
        as_of: days, as dates or as text such as 2024-05-01.
        history_length, target_length: maximum events per row; shorter lists are padded with 0 on the right.
        target_days, history_days: how far targets and histories reach from the as-of day.
        event_types: at most 127 values of the column `event_type`, to be kept with their events; events of other types
            are left out. If empty, all events count and types are ignored.

    Returns:
        `rows`: user_id, as_of, hist_items, hist_ts, hist_len, tar_items, tar_ts, tar_len, with times in seconds since
        1970; with `event_types` also hist_types and tar_types: codes from 1 on, in the order of `event_types`.
        `items`: item_id and item_idx, from 1 on.

    Raises:
        ConfigError: a column is missing, no day is given, a setting is out of range, or the session's time zone is not
            UTC.
    """
    require_plain(events.sparkSession)
    for column in ("user_id", "item_id", "event_ts"):
        _require(events, column)
    days = [day if isinstance(day, date) else date.fromisoformat(day) for day in as_of]
    if not days:
        raise ConfigError("as_of names no day")
    types = list(event_types)
    if types:
        _require(events, "event_type")
    try:
        settings = SequenceSettings(
            history_length=history_length,
            target_length=target_length,
            target_days=target_days,
            history_days=history_days,
            history_events=types or [_EVENT],
            target_events=types or [_EVENT],
            keep_event_types=bool(types),
        )
    except ValidationError as error:
        raise ConfigError(explained(error)) from None
    whole = events.where("user_id IS NOT NULL AND item_id IS NOT NULL AND event_ts IS NOT NULL")
    items = with_dense_number(whole.select("item_id").distinct(), ["item_id"], "item_idx", 1)
    own_ids = [F.col("event_id")] if "event_id" in events.columns else []
    whole = whole.withColumn("event_id", F.coalesce(*own_ids, F.xxhash64("user_id", "item_id", "event_ts")))
    named = whole.select(
        F.col("user_id").cast("string"),
        *("item_id", "event_ts", "event_id"),
        sample_day(whole.select("event_ts")).alias("ds"),
        (F.col("event_type").cast("string") if types else F.lit(_EVENT)).alias("event_type"),
    ).join(items, on="item_id", how="inner")
    sided = sided_events(named, settings)
    kept = limited(sided, survey(sided).heavy, settings)
    rows = sequences(kept, dict.fromkeys(days, ""), settings).frame.drop("split", "position")
    rows = rows if types else rows.drop("hist_types", "tar_types")
    return BuiltSequences(rows, items)


def _require(df: DataFrame, *either: str) -> None:
    if not set(either) & set(df.columns):
        raise ConfigError(f"the frame needs a column {' or '.join(either)}; it has {', '.join(df.columns)}")
