"""Lines of users and items that the lake has forgotten: they are counted, and nothing else of them is kept."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.ingest.parse import FORGOTTEN
from learn_spark.lake.tombstones import COLUMNS, Tombstones, any_of


def without_forgotten(lines: DataFrame, tombstones: Tombstones) -> DataFrame:
    """Rejects lines of forgotten users and items as FORGOTTEN, whatever else is wrong with them; removes their text."""
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
    """Removes the text of rejected lines that contain a forgotten id, even if the line could not be parsed."""
    named = tombstones.texts_with_any(rejects, "raw").withColumn("_named", F.lit(True))
    joined = rejects.join(named, on="raw", how="left")
    return joined.withColumn("raw", F.when(F.col("_named").isNull(), F.col("raw"))).select(rejects.columns)
