"""The item codes of a release, and their gates: items with codes keep them, others get theirs from the codebook.

Shapes: N items, K width of a vector, L levels, U codes that are used.
"""

from dataclasses import dataclass, replace

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from learn_spark.bridge.programs import towers_to_score
from learn_spark.bridge.scoring import dense, score_items
from learn_spark.embedding.matrix import matrix_path
from learn_spark.errors import ConfigError, QualityError
from learn_spark.features.neighbours import SAMPLE
from learn_spark.lake.frames import only_row
from learn_spark.quality.code_figures import even_use, relative_error
from learn_spark.quality.gates import Gate
from learn_spark.releases.codebooks import CODES, DIGEST, codebook_file, codes_before, known_codebook
from learn_spark.releases.registry import Release, newest_release
from learn_spark.releases.release import own_rows, visible
from learn_spark.runs.steps import Context
from models.contract.codebook import Codebook, write_codebook
from models.contract.verified import file_digest

FITTED_ITEMS = 65_536  # most items whose vectors the codebook is fitted on
ENOUGH = 64  # items of the release itself; fewer say nothing new about the codes
_TABLE, _COLUMN, _GATES = "item_features", "item_codes", "item_code_"


@dataclass(frozen=True)
class ItemCodes:
    """What gives the items of a release their codes.

    Attributes:
        codebook: shared by all releases that have these codes.
        before: the releases whose items keep their codes, the nearest first.
    """

    codebook: Codebook
    before: tuple[Release, ...]

    @classmethod
    def of(
        cls, context: Context, release: Release, base: Release | None, due: DataFrame, known: Codebook | None
    ) -> "ItemCodes | None":
        """The codes of a planned release; None if the config asks for none.

        Args:
            context: of the release.
            release: the planned release.
            base: the previous release by the same models, if any.
            due: item_id, item_idx of the items that a codebook is fitted on if there is none.
            known: the codebook that `codebook_before` has found, if any.
        """
        if CODES not in release.models:
            return None
        before = (base, codes_before(context.tables, release.models))
        return cls(known or _fitted(context, due), tuple(filter(None, before)))

    def kept(self, context: Context, due: DataFrame) -> DataFrame:
        """`due` with the codes that its items have already; null for items without codes."""
        items, known = due.select("item_id").distinct(), []
        for release in self.before:
            rows = visible(context, release, _TABLE).where(F.col(_COLUMN).isNotNull())
            rows = rows.join(items, on="item_id", how="left_semi")
            known.append(f"_codes_{len(known)}")
            due = due.join(rows.groupBy("item_id").agg(F.max_by(_COLUMN, "ds").alias(known[-1])), "item_id", "left")
        return due.withColumn(_COLUMN, F.coalesce(*known, _no_codes())).drop(*known)

    def gates(self, context: Context, release: Release, base: Release | None) -> list[Gate]:
        """Gates on collisions and even use over all items that the release shows, and on the error over its own rows.

        With few new items, the previous release's figures are kept.
        """
        own = context.tables.read(_TABLE).where(own_rows(release)).where(F.col(_COLUMN).isNotNull())
        own = own.select("item_emb", _COLUMN, F.xxhash64("item_id").alias("_order"))
        rows = own.orderBy("_order").limit(SAMPLE).collect()
        if base is not None and len(rows) < ENOUGH:
            figures = {name: value for name, value, *_ in base.gates if name.startswith(_GATES)}
        else:
            figures = {**self._uses(context, release), **self._error(rows)}
        limits = context.config.features.gates
        bounds: dict[str, tuple[float | None, float | None]] = {
            "collisions": (None, limits.max_code_collisions),
            "error": (None, limits.max_code_error),
        }
        for level in range(len(self.codebook.levels)):
            bounds[f"perplexity_{level + 1}"] = limits.min_code_perplexity, None
        return [Gate(name, value, *bounds[name.removeprefix(_GATES)]) for name, value in figures.items()]

    def keep(self, context: Context, release: Release) -> Release:
        """Writes the codebook if there is none yet, once the gates have passed; returns the release with its digest."""
        file = codebook_file(context.tables, release.models[CODES])
        if not file.is_file():
            write_codebook(file, self.codebook)
            context.tables.artifacts.publish()  # before a release names it
        return replace(release, models={**release.models, DIGEST: file_digest(file)})

    def _uses(self, context: Context, release: Release) -> dict[str, float]:
        shown = visible(context, release, _TABLE).where(F.col(_COLUMN).isNotNull())
        items = shown.groupBy("item_id").agg(F.max_by(_COLUMN, "ds").alias(_COLUMN))
        tuples = items.groupBy(_COLUMN).agg(F.count(F.lit(1)).alias("items"))
        totals = only_row(tuples.agg(F.sum("items"), F.sum(F.when(F.col("items") > 1, F.col("items")))))
        used = tuples.select(F.posexplode(_COLUMN).alias("level", "code"), "items")
        counts = used.groupBy("level", "code").agg(F.sum("items").alias("items")).collect()
        figures = {f"{_GATES}collisions": (totals[1] or 0) / totals[0]} if totals[0] else {}
        for level, size in enumerate(self.codebook.sizes if counts else ()):
            count_U = np.array([row["items"] for row in counts if row.level == level])
            figures[f"{_GATES}perplexity_{level + 1}"] = even_use(count_U, size)
        return figures

    def _error(self, rows: list[Row]) -> dict[str, float]:
        if not rows:
            return {}
        vector_NK, codes_NL = (np.array([row[name] for row in rows]) for name in ("item_emb", _COLUMN))
        return {f"{_GATES}error": relative_error(vector_NK, self.codebook.decode(codes_NL), self.codebook.spread)}


def codebook_before(context: Context, release: Release) -> Codebook | None:
    """The codebook of a planned release; None if it must be fitted first, or if no codes are asked for.

    Raises:
        ConfigError: it is lost, or days that the release takes over have no codes.
    """
    name = release.models.get(CODES)
    if name is None:
        return None
    _require_from_the_first_day(context, release)
    return known_codebook(context.tables, name)


def without_codes(due: DataFrame) -> DataFrame:
    """`due` with null codes, as `item_features` has it if `features.codes` is off."""
    return due.withColumn(_COLUMN, _no_codes())


def _no_codes() -> Column:
    return F.lit(None).cast("array<int>")


def _fitted(context: Context, due: DataFrame) -> Codebook:
    """Fits a codebook to the vectors of at most FITTED_ITEMS due items with content, drawn by a hash."""
    from models.towers.residual_kmeans import fitted

    items = due.select("item_id", "item_idx").distinct()
    scored = score_items(items, towers_to_score(context), matrix_path(context), context.config.features.run.batch_rows)
    drawn = scored.frame.where("content_coverage > 0").orderBy(F.xxhash64("item_id"), "item_id").limit(FITTED_ITEMS)
    vectors = drawn.select("item_id", "item_emb").toArrow().sort_by("item_id").column("item_emb").combine_chunks()
    if not len(vectors):
        raise QualityError("nothing is published: no item has content, so item codes cannot be fitted (features.codes)")
    settings = context.config.features.codes
    assert settings is not None, "codes are asked for"
    context.progress.say(f"item codes: {settings.levels} x {settings.size} centroids of {len(vectors):,} items")
    width = len(vectors[0])
    return fitted(dense(vectors, width), settings.levels, settings.size, settings.seed)


def _require_from_the_first_day(context: Context, release: Release) -> None:
    """Refuses to begin codes on a later feature day: the items of the days before it would have none."""
    if context.config.windows.towers_end in release.parts:
        return
    models = {name: release.models[name] for name in ("towers", "cvr")}
    if (other := newest_release(context.tables, models)) is not None:
        raise ConfigError(
            f"release {other.release_id} has not the item codes that features.codes asks for, and one night cannot"
            f" begin them: run_pipeline --restate once, which writes all feature days with codes"
        )
