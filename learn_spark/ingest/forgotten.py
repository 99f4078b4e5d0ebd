"""Lines of users and items that the lake has forgotten: counted, and nothing else of them is kept."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.ingest.parse import FORGOTTEN
from learn_spark.lake.tombstones import COLUMNS, Tombstones, any_of


def without_forgotten(lines: DataFrame, tombstones: Tombstones) -> DataFrame:
    """Gives lines of forgotten users and items that reason, whatever else is wrong with them, and takes their text."""
    columns, marked = lines.columns, lines
    marks = {f"_{kind}": (COLUMNS[kind], kind) for kind in sorted(tombstones.kinds) if COLUMNS[kind] in columns}
    if not marks:
        return lines
    for mark, (column, kind) in marks.items():
        marked = tombstones.with_mark(marked, column, kind, mark)
    reason = F.when(any_of(marks), F.lit(FORGOTTEN)).otherwise(F.col("reason"))
    raw = F.when(~any_of(marks), F.col("raw"))
    return marked.withColumns({"reason": reason, "raw": raw}).select(columns)


def without_raw_of_forgotten(rejects: DataFrame, tombstones: Tombstones) -> DataFrame:
    """Takes the text from rejected lines in which a forgotten id stands, also where the line could not be parsed."""
    named = tombstones.texts_with_any(rejects, "raw").withColumn("_named", F.lit(True))
    joined = rejects.join(named, on="raw", how="left")
    return joined.withColumn("raw", F.when(F.col("_named").isNull(), F.col("raw"))).select(rejects.columns)
