"""Reads a log as the ingest job does, up to events and the reasons of rejected ones."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from pathlib import Path

import yaml
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.load import Config, load_config
from learn_spark.ingest.files import source_files
from learn_spark.ingest.parse import with_events
from learn_spark.ingest.reading import read_source

WINDOWS = {"first_as_of": "2024-02-01", "towers_end": "2024-04-01", "cvr_end": "2024-04-11"} | {
    "ranker_train_end": "2024-04-21",
    "end": "2024-05-01",
}
FIELDS = {
    "user_id": {"column": "user"},
    "item_id": {"column": "item"},
    "event_ts": {"column": "time", "unit": "seconds"},
    "event_type": {"constant": "purchase"},
    "title": {"column": "name"},
}
NOON = 1_706_788_800  # 2024-02-01 12:00 UTC


def make_config(folder: Path, mapping: dict[str, object] | None = None, **ingest: object) -> Config:
    """A config for the log in `folder`/logs.

    Args:
        folder: holds the log, and gets the config and the lake.
        mapping: either the whole mapping, or changes to `FIELDS`, in which None removes a field.
        ingest: other keys of the section `ingest`.
    """
    changed = mapping or {}
    whole = changed if {"user_id", "item_id", "event_ts"} <= set(changed) else FIELDS | changed
    fields = {name: field for name, field in whole.items() if field is not None}
    section = {"path": str(folder / "logs"), "start": "2024-01-01", "gates": {"max_reject_share": 1.0}}
    section |= {"mapping": fields} | ingest
    values = {"ingest": section, "windows": WINDOWS}
    sides = ["history_events", "target_events"]
    values["sequences"] = dict.fromkeys(sides, section.get("event_types", ["purchase"])[:1])
    values["lake"] = {"root": str(folder / "lake")}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return load_config(folder / "config.yaml")


def read_events(spark: SparkSession, config: Config, *days: date) -> DataFrame:
    """The days' lines, from readable files, as events with reasons."""
    sources = config.ingest.each()
    frames = (_events_of(spark, source, days or [source.start], len(sources) > 1) for source in sources)
    return reduce(DataFrame.unionByName, frames)


def _events_of(spark: SparkSession, settings: IngestSettings, days: Sequence[date], several: bool) -> DataFrame:
    source = read_source(spark, settings, source_files(settings, days), settings.gates.max_line_bytes)
    return with_events(source.lines(spark), settings, several)


def events_of_cases(
    spark: SparkSession, cases: Mapping[str, Config], days: Mapping[str, Sequence[date]] | None = None
) -> dict[str, list[Row]]:
    """The events of many small logs, read in one Spark job, by case and ordered by time."""
    frames = []
    for name, config in cases.items():
        sources = config.ingest.each()
        for source in sources:
            files = source_files(source, (days or {}).get(name, [source.start]))
            read = read_source(spark, source, files, source.gates.max_line_bytes)
            assert not read.all_bad()
            events = with_events(read.lines(spark), source, len(sources) > 1)
            frames.append(events.withColumn("case", F.lit(name)))
    found: dict[str, list[Row]] = {name: [] for name in cases}
    for row in reduce(DataFrame.unionByName, frames).collect():
        found[row["case"]].append(row)
    return {name: sorted(rows, key=lambda row: (str(row.event_ts), row.raw or "")) for name, rows in found.items()}


def by_item(frame: DataFrame) -> dict[str, Row]:
    """Rows by item_id; rows without an item by their reason."""
    rows = frame.collect()
    found = {row.item_id or row.reason: row for row in rows}
    assert len(found) == len(rows), [(row.item_id, row.reason) for row in rows]
    return found
