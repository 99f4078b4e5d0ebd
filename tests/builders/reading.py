"""Reads Delta tables without Spark: delta-rs lists the files, DuckDB reads them."""

from pathlib import Path

import duckdb
from deltalake import DeltaTable

# Columns that differ between equal runs: clock times, paths, versions of other tables, durations.
NOT_CONTENT = {
    "interactions": {"ingested_at"},
    "releases": {"published_at", "table_versions", "model_versions", "gates"},
    "intervals": {"run_id", "input_versions", "output_versions", "seconds", "details", "finished_at"},
}


def relation(lake: Path, name: str) -> duckdb.DuckDBPyRelation:
    """The newest version of a table."""
    files = DeltaTable(str(lake / name)).file_uris()
    return duckdb.read_parquet(files, hive_partitioning=True, union_by_name=True)


def rows(lake: Path, name: str, without: frozenset[str] = frozenset()) -> list[str]:
    """All rows as sorted texts, without the columns `without` and those that differ between equal runs."""
    if not DeltaTable(str(lake / name)).file_uris():
        return []
    table = relation(lake, name)
    kept = [column for column in sorted(table.columns) if column not in NOT_CONTENT.get(name, set()) | without]
    return sorted(map(str, table.project(", ".join(kept)).fetchall()))


def versions(lake: Path) -> dict[str, int]:
    """The newest Delta version of every table."""
    return {log.parent.name: DeltaTable(str(log.parent)).version() for log in lake.glob("*/_delta_log")}
