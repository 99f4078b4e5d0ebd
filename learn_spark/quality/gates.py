"""The gates of a release: figures of what was written, each with its limits.

Shapes: B rows of a batch, N sampled items, K embedding width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from learn_spark.bridge.scoring import padded
from learn_spark.errors import QualityError

SMALLEST_NORM, LARGEST_NORM = 1e-3, 1e3  # beyond these float16 copies of the vectors lose their digits


@dataclass(frozen=True)
class Gate:
    """A figure and its limits; None is no limit. A figure that is NaN or infinite never passes."""

    name: str
    value: float
    lower: float | None = None
    upper: float | None = None

    @property
    def passed(self) -> bool:
        return bool(
            np.isfinite(self.value)
            and (self.lower is None or self.value >= self.lower)
            and (self.upper is None or self.value <= self.upper)
        )

    def as_row(self) -> tuple[str, float, float | None, float | None, bool]:
        """An entry of `releases.gates`."""
        return self.name, float(self.value), _float(self.lower), _float(self.upper), self.passed

    def as_json(self) -> dict[str, object]:
        """For the ledger and the report."""
        return dict(zip(("name", "value", "lower", "upper", "passed"), self.as_row(), strict=True))

    def __str__(self) -> str:
        limits = [f"at least {self.lower:g}"] if self.lower is not None else []
        limits += [f"at most {self.upper:g}"] if self.upper is not None else []
        return f"{self.name} is {self.value:g}, must be {' and '.join(limits)}"


def require(gates: Iterable[Gate]) -> None:
    """Stops a release whose figures are out of their limits.

    Raises:
        QualityError: with every failed gate, its value and its limits.
    """
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed:
        raise QualityError(f"nothing is published, gates failed: {'; '.join(failed)}")


@dataclass(frozen=True)
class VectorFigures:
    """Of a vector column: rows, those with NaN or infinity, norms of the others, coverage, widths; empty: None or 0."""

    rows: int
    not_finite: int
    mean: float | None
    p5: float | None
    p95: float | None
    coverage: float | None
    narrowest: int = 0
    widest: int = 0


def vector_figures(frames: dict[str, tuple[DataFrame, str]]) -> dict[str, VectorFigures]:
    """Figures of several vector columns in one pass.

    Args:
        frames: by name, a frame and its vector column; `content_coverage` is averaged if the frame has it.
    """
    tall = [_norms(df, column).withColumn("of", F.lit(name)) for name, (df, column) in frames.items()]
    is_finite = ~F.isnan("norm")
    norm = F.when(is_finite, F.col("norm"))
    found = (
        reduce(DataFrame.unionByName, tall)
        .groupBy("of")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.count_if(~is_finite).alias("not_finite"),
            F.mean(norm).alias("mean"),
            F.percentile_approx(norm, [0.05, 0.95]).alias("tails"),
            F.mean("content_coverage").alias("coverage"),
            F.min("width").alias("narrowest"),
            F.max("width").alias("widest"),
        )
        .collect()
    )
    figures = {
        row.of: VectorFigures(
            row.rows,
            row.not_finite,
            row["mean"],
            *(row.tails or (None, None)),
            coverage=row.coverage,
            narrowest=row.narrowest,
            widest=row.widest,
        )
        for row in found
    }
    return {name: figures.get(name, VectorFigures(0, 0, None, None, None, None)) for name in frames}


def effective_rank(vectors_NK: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007): 1 is one direction; NaN: not finite."""
    if not np.isfinite(vectors_NK).all():
        return float("nan")
    singular = np.linalg.svd(np.asarray(vectors_NK, np.float64), compute_uv=False) if len(vectors_NK) else np.zeros(1)
    if not singular.sum():
        return 0.0
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_cosine(vectors_NK: np.ndarray) -> float:
    """The mean cosine over all pairs of different rows; 0 for fewer than two."""
    count = len(vectors_NK)
    if count < 2:
        return 0.0
    unit_NK = unit(vectors_NK)
    total = unit_NK.sum(0)
    return float((total @ total - (unit_NK * unit_NK).sum()) / (count * (count - 1)))


def unit(vectors_NK: np.ndarray) -> np.ndarray:
    """Rows at length 1, in float64; zero rows stay zero."""
    values = np.asarray(vectors_NK, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _norms(df: DataFrame, column: str) -> DataFrame:
    """(norm, content_coverage, width): a norm is NaN if the vector holds NaN or infinity."""
    has_coverage = "content_coverage" in df.columns
    coverage = F.col("content_coverage") if has_coverage else F.lit(None).cast("float")

    def norms(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            values_BK, width_B = padded(batch.column(0))
            norm_B = np.sqrt(np.square(values_BK, dtype=np.float64).sum(1))
            norm_B[~np.isfinite(norm_B)] = np.nan
            arrays = [pa.array(norm_B), batch.column(1), pa.array(width_B, pa.int32())]
            yield pa.RecordBatch.from_arrays(arrays, ["norm", "content_coverage", "width"])

    narrow = df.select(column, coverage.alias("content_coverage"))
    return narrow.mapInArrow(norms, "norm double, content_coverage float, width int")


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)
