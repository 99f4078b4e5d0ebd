"""Test rows from the user's own table, as a snapshot that every system ranks.

The cost is a join of the table's ids with `item_index`; if the table has no histories, they are cut from the events of
its users in the lake. The driver holds none of the rows.
"""

from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, StringType

from learn_spark.bridge.snapshots import export, is_exported, snapshot_folder
from learn_spark.config.comparison import TestRowsSettings
from learn_spark.errors import ConfigError
from learn_spark.ingest.fields import quoted
from learn_spark.ingest.own_table import read_own_table
from learn_spark.ingest.shapes import Value
from learn_spark.ingest.texts import id_as_text
from learn_spark.lake.frames import only_row, with_dense_number, zero_padded
from learn_spark.lake.schemas import USER_HISTORY
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from learn_spark.sequences.events import sided_events
from learn_spark.sequences.histories import full_histories
from learn_spark.storage import Place
from models.contract.settings import identity

_READS = ("interactions", "item_index")
_KEY = ("user_id", "history", "targets")
_IDS = "array<string>"


def test_rows_snapshot(context: Context, settings: TestRowsSettings) -> Path:
    """Exports the table's rows as a snapshot, or finds it.

    Raises:
        ConfigError: the table cannot be read, lacks a column, or holds no row that can be ranked.
    """
    config, versions = context.config, context.tables.versions(_READS)
    made_by = identity(config.sequences), config.windows.end, config.stream.rows_per_file
    name = f"test-rows-{fingerprint_of(settings.model_dump(), _content_of(settings.path), versions, made_by)}"
    if is_exported(folder := snapshot_folder(context, name)):
        return folder
    rows, key = numbered_rows(context, settings), ["user_id", "position"]
    return export(context, rows, name, key, "interactions", versions["interactions"], config.towers.train.seed)


def read_test_rows(context: Context, settings: TestRowsSettings) -> DataFrame:
    """Columns user_id (text), history and targets (lists of texts); history is null if the table has none."""
    try:
        table = read_own_table(context.spark, context.tables, settings.path)
    except ConfigError as error:
        raise ConfigError(f"comparison.test_rows.path: {error}") from None
    kinds = {field.name: field.dataType for field in table.schema.fields}
    asked = [name for name in (settings.user_id, settings.history, settings.target) if name]
    if lacking := [name for name in asked if name not in kinds]:
        raise ConfigError(
            f"comparison.test_rows: {settings.path} has no column {', '.join(lacking)}; it has {', '.join(kinds)}"
        )
    if settings.where:
        try:
            table = table.where(settings.where)
        except AnalysisException as error:
            raise ConfigError(
                f"comparison.test_rows.where: {settings.where!r} fits no row: {str(error).splitlines()[0]}"
            ) from None
    history = _ids(settings.history, kinds, settings) if settings.history else F.lit(None).cast(_IDS)
    user_id = id_as_text(Value(quoted(settings.user_id), kinds[settings.user_id]))
    targets = F.coalesce(_ids(settings.target, kinds, settings), F.lit([]).cast(_IDS))
    return table.select(user_id.alias("user_id"), history.alias("history"), targets.alias("targets"))


def numbered_rows(context: Context, settings: TestRowsSettings) -> DataFrame:
    """The rows as `sequences` has them, and `tar_unknown`, the number of targets that the lake has no number for.

    Ids of a history that the lake does not know are left out. The table gives no times, so all times of a history that
    it gives are the same.

    Raises:
        ConfigError: as for `read_test_rows`; or no row has a history; or it gives histories and event types are kept.
    """
    day, length = F.lit(context.config.windows.end), context.config.sequences.history_length
    types = bool(context.config.sequences.event_types)
    if types and settings.history:
        raise ConfigError(
            "comparison.test_rows.history: the histories of a table of one's own have no event types, which"
            " sequences.keep_event_types asks for: leave it out, and they are cut from the lake's events"
        )
    rows = _placed(context, read_test_rows(context, settings)).localCheckpoint(eager=False)  # the next query fills it
    longest, most = only_row(rows.agg(F.max(F.size("items")), F.max(F.size("found"))))
    if not longest:
        raise ConfigError(f"comparison.test_rows: no row of {settings.path} has a history of items that the lake knows")
    found = zero_padded(F.col("found"), max(1, most))
    return rows.select(
        "user_id",
        day.alias("as_of"),
        "position",
        zero_padded(F.col("items"), length).alias("hist_items"),
        zero_padded(F.col("times"), length).alias("hist_ts"),
        F.size("items").alias("hist_len"),
        found.alias("tar_items"),
        F.transform(found, lambda _: F.lit(0).cast("bigint")).alias("tar_ts"),
        F.size("found").alias("tar_len"),
        F.col("unknown").cast("int").alias("tar_unknown"),
        *([zero_padded(F.col("types"), length).cast("array<tinyint>").alias("hist_types")] if types else []),
    )


def _placed(context: Context, rows: DataFrame) -> DataFrame:
    """Columns user_id, position; the history's `items` (numbers), `times`, `types`; the targets' `found`, `unknown`."""
    length, end = context.config.sequences.history_length, F.lit(context.config.windows.end).cast("timestamp")
    rows = with_dense_number(rows.where("user_id IS NOT NULL"), _KEY, "position", 0).localCheckpoint(eager=False)
    first = F.greatest(F.size("numbers") - length, F.lit(0)) + 1
    given = _numbers(context, rows, "history").select("position", F.slice("numbers", first, length).alias("given"))
    targets = _numbers(context, rows, "targets").withColumn("found", F.array_distinct("numbers")).drop("numbers")
    own = _histories_of_lake(context, rows.where(F.col("history").isNull()).select("user_id").distinct())
    joined = rows.join(given, "position", "left").join(targets, "position", "left").join(own, "user_id", "left")
    is_given, none = F.col("history").isNotNull(), F.lit([]).cast("array<int>")
    items = F.coalesce(F.when(is_given, F.col("given")).otherwise(F.col("item_idx")), none)
    times = F.when(is_given, F.transform(items, lambda _: F.unix_timestamp(end))).otherwise(F.col("event_ts"))
    return joined.select(
        "user_id",
        "position",
        items.alias("items"),
        F.coalesce(times, none.cast("array<bigint>")).alias("times"),
        F.coalesce("event_types", none.cast("array<tinyint>")).alias("types"),
        F.coalesce("found", none).alias("found"),
        F.coalesce("unknown", F.lit(0)).alias("unknown"),
    )


def _ids(name: str, kinds: dict[str, DataType], settings: TestRowsSettings) -> Column:
    """A cell's ids: those of a list, those of a text with separators, or a single one."""
    kind, column = kinds[name], quoted(name)
    if isinstance(kind, ArrayType):
        element = kind.elementType
        return F.filter(F.transform(column, lambda each: id_as_text(Value(each, element))), _is_id)
    if isinstance(kind, StringType):
        texts = F.split(column, F.lit("\\Q" + settings.separator + "\\E"))
        return F.filter(F.transform(texts, lambda text: F.trim(text)), _is_id)
    return F.filter(F.array(id_as_text(Value(column, kind))), _is_id)


def _is_id(text: Column) -> Column:
    return text.isNotNull() & (text != "")


def _numbers(context: Context, rows: DataFrame, name: str) -> DataFrame:
    """Columns position, `numbers` of a list's known ids in its order, and how many of its ids are `unknown`."""
    ids = rows.select("position", F.posexplode(name).alias("place", "item_id"))
    found = ids.join(context.tables.read("item_index"), on="item_id", how="left")
    number = F.when(F.col("item_idx").isNotNull(), F.struct("place", "item_idx"))
    unknown = F.count_distinct(F.when(F.col("item_idx").isNull(), F.col("item_id")))
    pairs = found.groupBy("position").agg(F.sort_array(F.collect_list(number)).alias("pairs"), unknown.alias("unknown"))
    return pairs.select("position", F.col("pairs.item_idx").alias("numbers"), "unknown")


def _histories_of_lake(context: Context, users: DataFrame) -> DataFrame:
    """user_id, item_idx, event_ts, event_types: what the users did, as the towers would read it as of windows.end."""
    if users.isEmpty():  # the log need not be read
        return context.spark.createDataFrame([], USER_HISTORY.columns_ddl).drop("ds")
    day = context.config.windows.end
    before = context.tables.read("interactions").where(F.col("ds") < F.lit(day)).join(users, "user_id", "left_semi")
    histories = full_histories(sided_events(before, context.config.sequences), day, context.config.sequences).frame
    return histories.drop("ds")


def _content_of(path: Place) -> list[tuple[str, int, object]]:
    """The files by name, size and time of last change; in a store with the tag instead of the time."""
    if not isinstance(path, Path):
        found = {path.name: path.entry()} if path.is_file() else path.matching("**")
        return [(name, entry.size, entry.tag) for name, entry in found.items()]
    stats = [(str(file), file.stat()) for file in sorted([path, *path.rglob("*")]) if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
