"""The audit of a joined table, whoever joined it: no sample may hold a vector that was known only after its day."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.frames import only_row
from learn_spark.lake.point_in_time import sample_day
from learn_spark.lake.tables import Tables
from learn_spark.releases.join import SIDES, join_features, with_pairs
from learn_spark.releases.registry import Release, rows_of
from learn_spark.sequences.audit import AuditFigure

TOLERANCE = 1e-4  # relative; the last digits of mid_emb depend on the batch that it was scored in


def audit_join(
    joined: DataFrame, tables: Tables, release: Release, max_age_days: int | None = None
) -> list[AuditFigure]:
    """Looks up since which day the release has had each sample's vector, however the table was joined.

    A vector is found by its user or item and a hash of its numbers, so narrow rows are shuffled, once per side. A side
    is audited if the table has both its id and its vector. Rows without a vector, or with zeros, are cold.
    `mid_emb` is computed again (needs torch) from the row's own vectors or, without them, from those of its day.

    Args:
        joined: `ds` (date) or `event_ts` (timestamp); `user_id` and `user_emb`, or `item_id` and `item_emb`, or both
            ids and `mid_emb`, or all.
        tables, release: the lake and the release that the vectors are said to come from.
        max_age_days: the setting that a table with `mid_emb` but without vectors was joined with.

    Returns:
        Two rules per side: the vector was known on the sample's day, and it is one of the release's. One rule for
        `mid_emb`: it is what the model computes from such vectors.

    Raises:
        ConfigError: the table has no day or no vectors.
    """
    there = set(joined.columns)
    sides = [side for side in SIDES if {f"{side}_id", f"{side}_emb"} <= there]
    has_pairs = {"user_id", "item_id", "mid_emb"} <= there
    if not (sides or has_pairs) or not there & {"ds", "event_ts"}:
        raise ConfigError(
            "a joined table needs ds or event_ts, and user_id with user_emb or item_id with item_emb or both with"
            f" mid_emb; it has {sorted(there)}"
        )
    figures = [figure for side in sides for figure in _side_figures(joined, tables, release, side)]
    return [*figures, *([_pair_figure(joined, tables, release, max_age_days)] if has_pairs else [])]


def _side_figures(joined: DataFrame, tables: Tables, release: Release, side: str) -> list[AuditFigure]:
    key, emb = F.col(f"{side}_id").alias("key"), F.col(f"{side}_emb").cast("array<float>")
    numbers = F.xxhash64(emb).alias("numbers")
    known = rows_of(tables, release, f"{side}_features").select(key, numbers, "ds")
    since = known.groupBy("key", "numbers").agg(F.min("ds").alias("since"))
    samples = joined.select(key, numbers, sample_day(joined).alias("day"), _is_cold(emb).alias("is_cold"))
    found = samples.join(since, on=["key", "numbers"], how="left")
    is_late = ~F.col("is_cold") & (F.col("since") > F.col("day"))
    is_strange = ~F.col("is_cold") & F.col("since").isNull()
    rows, late, strange = only_row(found.agg(F.count(F.lit(1)), F.count_if(is_late), F.count_if(is_strange)))
    return [
        AuditFigure(f"{side}_emb was known on the sample's day", rows, late),
        AuditFigure(f"{side}_emb is of release {release.release_id}", rows, strange),
    ]


def _pair_figure(joined: DataFrame, tables: Tables, release: Release, max_age_days: int | None) -> AuditFigure:
    vectors = [f"{side}_emb" for side in SIDES]
    own = [F.col(name).cast("array<float>").alias(name) for name in vectors if set(vectors) <= set(joined.columns)]
    ids = [f"{side}_id" for side in SIDES]
    found = F.col("mid_emb").cast("array<float>").alias("found")
    rows = joined.select(*ids, sample_day(joined).alias("ds"), *own, found)
    again = (
        with_pairs(rows, tables, release)
        if own
        else join_features(rows, tables.root, release.release_id, max_age_days, pairs=True)
    )
    is_near = F.zip_with("found", "mid_emb", lambda a, b: F.abs(a - b) <= TOLERANCE * (1 + F.abs(b)))
    is_other = ~_is_cold("found") & ~F.forall(is_near, lambda near: F.coalesce(near, F.lit(False)))
    count, other = only_row(again.agg(F.count(F.lit(1)), F.count_if(is_other)))
    return AuditFigure("mid_emb is the model's of vectors known on the sample's day", count, other)


def _is_cold(vector: Column | str) -> Column:
    """Whether there is no vector, or only zeros."""
    return F.coalesce(F.forall(vector, lambda number: number == 0), F.lit(True))
