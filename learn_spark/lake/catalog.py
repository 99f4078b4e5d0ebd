"""Names for the lake's tables: in the cluster's catalog each is an external table at its place in the lake.

The files, and the log of commits, stay in the lake: `shop.user_features` is the same table as its folder, and dropping
the name leaves the files.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from learn_spark.errors import ConfigError
from learn_spark.lake.frames import only_row
from learn_spark.lake.schemas import RELEASES, TABLES
from learn_spark.storage import Place, lake_of, place_argument

OWN_TABLE = "a Delta or Parquet folder, or a table that Spark's catalog knows, as table:shop.clicks"
_FILE = re.compile(r"^file:/+")
_NAMED = "table:"


@dataclass(frozen=True)
class TableName:
    """A table that a catalog knows, as `shop.clicks`."""

    name: str

    def __str__(self) -> str:
        return f"{_NAMED}{self.name}"


def table_argument(text: str, argument: str, options: Mapping[str, Any]) -> Place | TableName:
    """What an argument names: a table, as `table:` and its name, or a place; raises what `place_argument` raises."""
    if text.startswith(_NAMED):
        return TableName(text.removeprefix(_NAMED))
    return place_argument(text, argument, options)


def register(spark: SparkSession, catalog: str, root: Place) -> None:
    """Gives names to those tables of a lake that have none yet.

    Args:
        spark: a session on the catalog.
        catalog: a schema, as `shop` or `main.shop`; it is made if it does not exist.
        root: the lake, with all its tables.

    Raises:
        ConfigError: a name stands for something else, or the catalog refuses; nothing of the lake is changed.
    """
    with told(f"lake.catalog {catalog}"):
        if not spark.catalog.databaseExists(catalog):
            # Dropping the schema with its content deletes its folder, too, so that must not be the lake's.
            spark.sql(f"CREATE SCHEMA IF NOT EXISTS {catalog} LOCATION '{_quoted(str(root / '_warehouse'))}'")
        there = {row.tableName for row in spark.sql(f"SHOW TABLES IN {catalog}").collect() if not row.isTemporary}
        for name in TABLES:
            if name in there:
                _require_own(spark, f"{catalog}.{name}", str(root / name))
            else:
                place = _quoted(str(root / name))
                spark.sql(f"CREATE TABLE IF NOT EXISTS {catalog}.{name} USING delta LOCATION '{place}'")


def lake_at(spark: SparkSession, catalog: str) -> Place:
    """The place of the lake whose tables have their names in a schema.

    Raises:
        ConfigError: the schema has no table of releases, or there is no such schema.
    """
    with told(f"lake.catalog {catalog}"):
        found = str(only_row(spark.sql(f"DESCRIBE DETAIL {catalog}.{RELEASES.name}")).location)
    return lake_of(_plain(found).rpartition("/")[0])


def _require_own(spark: SparkSession, table: str, place: str) -> None:
    described = {row.col_name: row.data_type for row in spark.sql(f"DESCRIBE TABLE EXTENDED {table}").collect()}
    found = _plain(described.get("Location", "no folder"))
    if found != place.rstrip("/"):
        raise ConfigError(
            f"lake.catalog: {table} is there already and lies in {found}, not in {place}: name another schema, or drop"
            f" that table (if DESCRIBE EXTENDED says that it is MANAGED, its rows go with it)"
        )


def _plain(location: str) -> str:
    """A table's location as `lake.root` would spell it."""
    return _FILE.sub("/", location).rstrip("/")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


@contextmanager
def told(what: object) -> Iterator[None]:
    """Turns a catalog's refusal inside the block into a one-line error that begins with `what`.

    Raises:
        ConfigError: the catalog has refused something.
    """
    try:
        yield
    except AnalysisException as error:
        first, *_ = str(error).strip().splitlines()
        raise ConfigError(f"{what}: {first}") from error
