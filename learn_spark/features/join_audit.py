"""The audit of a table that somebody joined: no sample may hold what was known only after its day."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.core.errors import ConfigError
from learn_spark.core.tables import Tables
from learn_spark.features.join import SIDES, sample_day
from learn_spark.features.registry import Release, rows_of
from learn_spark.sequences.audit import AuditFigure


def audit_join(joined: DataFrame, tables: Tables, release: Release) -> list[AuditFigure]:
    """Looks up from which day on the release had each sample's vector, however the table was joined.

    A vector is found by its user or item and a hash of its numbers: narrow rows are shuffled, once a side. A side
    counts where both its id and its vector are columns of the table; rows without a vector or with zeros are cold.

    Args:
        joined: `ds` (date) or `event_ts` (timestamp); `user_id` and `user_emb`, or `item_id` and `item_emb`, or all.
        tables, release: whose feature tables the vectors are said to be of.

    Returns:
        Two rules a side: the vector was known on the sample's day; the vector is one of the release's.

    Raises:
        ConfigError: for a table without day or vectors.
    """
    there = set(joined.columns)
    sides = [side for side in SIDES if {f"{side}_id", f"{side}_emb"} <= there]
    if not sides or not there & {"ds", "event_ts"}:
        raise ConfigError(
            "a joined table needs ds or event_ts, and user_id with user_emb or item_id with item_emb;"
            f" it has {sorted(there)}"
        )
    return [figure for side in sides for figure in _side_figures(joined, tables, release, side)]


def _side_figures(joined: DataFrame, tables: Tables, release: Release, side: str) -> list[AuditFigure]:
    key, emb = F.col(f"{side}_id").alias("key"), F.col(f"{side}_emb").cast("array<float>")
    numbers = F.xxhash64(emb).alias("numbers")
    known = rows_of(tables, release, f"{side}_features").select(key, numbers, "ds")
    since = known.groupBy("key", "numbers").agg(F.min("ds").alias("since"))
    is_cold = F.coalesce(F.forall(emb, lambda number: number == 0), F.lit(True))
    samples = joined.select(key, numbers, sample_day(joined).alias("day"), is_cold.alias("is_cold"))
    found = samples.join(since, on=["key", "numbers"], how="left")
    is_late = ~F.col("is_cold") & (F.col("since") > F.col("day"))
    is_strange = ~F.col("is_cold") & F.col("since").isNull()
    rows, late, strange = found.agg(F.count(F.lit(1)), F.count_if(is_late), F.count_if(is_strange)).first()
    return [
        AuditFigure(f"{side}_emb was known on the sample's day", rows, late),
        AuditFigure(f"{side}_emb is of release {release.release_id}", rows, strange),
    ]
