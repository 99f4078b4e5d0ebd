"""The records of csv and JSON files as a frame."""

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from learn_spark.config.formats import FilesSettings
from learn_spark.ingest.check import LogFile
from learn_spark.ingest.files import PATH, literal
from learn_spark.ingest.records import records
from learn_spark.ingest.unpacking import is_spark_able
from learn_spark.lake.frames import frame_of

_BATCH_CHARACTERS = 4 << 20
_SCHEMA = f"value string, is_whole boolean, {PATH} string"


def needs_python(settings: FilesSettings, file: LogFile) -> bool:
    """Whether the file needs our reader because Spark's, which splits large files, cannot find its records."""
    is_utf8 = settings.encoding == "utf-8"
    return not is_utf8 or settings.multiline or settings.skip_lines > 0 or not is_spark_able(file.path, file.packing)


def text_lines(spark: SparkSession, settings: FilesSettings, like: LogFile, paths: Sequence[str]) -> DataFrame:
    """`value`, a record's text; `is_whole`, whether all its bytes are in the encoding; `_path`. Without header lines.

    A repeated header, as in concatenated files, is left out, too.
    """
    lines = _by_python(spark, settings, paths) if needs_python(settings, like) else _by_spark(spark, settings, paths)
    return lines.where(F.col("value") != like.header) if like.header else lines


def _by_spark(spark: SparkSession, settings: FilesSettings, paths: Sequence[str]) -> DataFrame:
    value = F.col("value")
    lines = spark.read.text(literal(paths)).where(_has_text(value, settings))
    is_whole = F.is_valid_utf8(value)
    text = F.when(is_whole, value).otherwise(F.make_valid_utf8(value))
    return lines.select(text.alias("value"), is_whole.alias("is_whole"), F.col("_metadata.file_path").alias(PATH))


def _has_text(value: Column, settings: FilesSettings) -> Column:
    has_text = value.rlike("[^\\x00-\\x20]")
    return has_text & ~F.startswith(value, F.lit(settings.comment)) if settings.comment else has_text


def _by_python(spark: SparkSession, settings: FilesSettings, paths: Sequence[str]) -> DataFrame:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for path in batch.column(0).to_pylist():
                yield from _batches(path, settings)

    slices = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    names = frame_of(spark, [(path,) for path in paths], "path string")
    return names.repartition(slices).mapInArrow(read, _SCHEMA)


def _batches(path: str, settings: FilesSettings) -> Iterator[pa.RecordBatch]:
    texts: list[str] = []
    wholes: list[bool] = []
    length = 0
    for text, is_whole in records(path, settings):
        texts.append(text)
        wholes.append(is_whole)
        length += len(text) + 64
        if length > _BATCH_CHARACTERS:
            yield _batch(texts, wholes, path)
            texts, wholes, length = [], [], 0
    if texts:
        yield _batch(texts, wholes, path)


def _batch(texts: list[str], wholes: list[bool], path: str) -> pa.RecordBatch:
    columns = [pa.array(texts, pa.string()), pa.array(wholes), pa.array([quote(path)] * len(texts), pa.string())]
    return pa.RecordBatch.from_arrays(columns, names=["value", "is_whole", PATH])
