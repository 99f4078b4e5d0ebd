"""Snapshots of the table `sequences`: the rows that one split trains, validates or tests on."""

from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import Window
from pyspark.sql import functions as F

from learn_spark.bridge.snapshots import TYPE_COLUMNS, export, snapshot_folder
from learn_spark.lake.days import days_predicate
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import BUILD_SEQUENCES, Context
from learn_spark.sequences.windows import as_of_dates

_COLUMNS = ("user_id", "as_of", "hist_items", "hist_ts", "hist_len", "tar_items", "tar_len")


def sequence_snapshot(
    context: Context, split: str, version: int, fingerprint: str, more: Sequence[str] = (), each_once: bool = False
) -> Path:
    """Exports a split (train, val, test) of a version of the table as a snapshot.

    Args:
        context, split, version: what is exported.
        fingerprint: for the folder's name; covers what the rows are made from, and `more`.
        more: columns beside those that the towers read.
        each_once: with `leave_one_out`, keep only each user's longest prefix and every `history_length`-th before it:
            in these histories and targets, every event but the first follows another in exactly one row.
    """
    config, key = context.config, ["user_id", "as_of"]
    rows = context.tables.read("sequences", version).where(F.col("split") == split)
    if config.sequences.protocol == "leave_one_out":
        key = ["user_id", "as_of", "position"]  # every prefix is a row
        if each_once:
            last = F.max("position").over(Window.partitionBy("user_id"))
            rows = rows.withColumn("before", last - F.col("position"))
            rows = rows.where(F.col("before") % config.sequences.history_length == 0)
    else:
        dates = [day for day, name in as_of_dates(config).items() if name == split]
        rows = rows.where(days_predicate("as_of", dates))
    types = TYPE_COLUMNS if config.sequences.event_types else ()
    columns = dict.fromkeys([*key, *_COLUMNS, *types, *more])
    name = _name(split, fingerprint, each_once)
    return export(context, rows.select(*columns), name, key, "sequences", version, config.towers.train.seed)


def sequence_snapshot_folder(context: Context, split: str, fingerprint: str, each_once: bool = False) -> Path:
    """The folder that `sequence_snapshot` writes."""
    return snapshot_folder(context, _name(split, fingerprint, each_once))


def _name(split: str, fingerprint: str, each_once: bool) -> str:
    return f"towers-{split}{'-once' if each_once else ''}-{fingerprint}"


def sequences_fingerprint(context: Context) -> str:
    """The fingerprint of what the config's sequences are made from."""
    config = context.config
    days = [config.windows.end] if config.sequences.protocol == "leave_one_out" else list(as_of_dates(config))
    return fingerprint_of([context.made_as(BUILD_SEQUENCES, day) for day in days], config.stream.rows_per_file)
