"""Reads a table that a user brings along as it is: nothing is mapped, counted or rejected."""

from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from learn_spark.errors import ConfigError
from learn_spark.ingest.files import literal
from learn_spark.lake.delta_jars import require_store_clients
from learn_spark.lake.tables import Tables
from learn_spark.storage import Place

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")


def read_own_table(spark: SparkSession, tables: Tables, path: Place) -> DataFrame:
    """Reads csv or tsv with a header, or JSON lines, by the name's ending; anything else as Parquet or a Delta table.

    Values of csv and JSON stay strings.

    Raises:
        ConfigError: the path does not exist, or cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"{path} is not there")
    require_store_clients(spark, [path])
    (place,) = literal([str(path)])
    try:
        for ending in Path(path.name).suffixes:
            if ending in _SEPARATORS:
                return spark.read.csv(place, header=True, sep=_SEPARATORS[ending], escape='"')
            if ending in _JSON:
                return spark.read.json(place, primitivesAsString=True)
        return tables.read_samples(path)
    except AnalysisException as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
