"""Computes cases, fits and ratios from the runs of all rounds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Literal

from benchmarks.result import Case, Fit, RatioRow
from benchmarks.stats import Estimate, fitted_line, paired_ratio, slopes

MILLION = 1_000_000


@dataclass(frozen=True)
class Target:
    """The bound that a ratio should keep."""

    sign: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"

    def is_met(self, estimate: Estimate) -> bool:
        """Whether the interval's worse end keeps the bound. A ratio of slopes below zero is noise and never does."""
        return estimate.low > 0 and estimate.high <= self.bound if self.sign == "<=" else estimate.low >= self.bound


@dataclass(frozen=True)
class Ratio:
    """`over` divided by `under`, round by round, at each size; `at` limits the target to one size."""

    over: str
    under: str
    target: Target | None = None
    measure: str = "seconds"
    at: float | None = None


@dataclass(frozen=True)
class SlopeRatio:
    """The slope of `over`, in seconds per event, divided by the smallest slope of the rivals."""

    over: str
    rivals: tuple[str, ...]
    target: Target


@dataclass(frozen=True)
class Run:
    """One process of one contender; round 0 is the warm-up."""

    size: float
    round: int
    contender: str
    peak_mb: int
    seconds: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    checksum: str | None = None
    failure: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The values for the journal."""
        return asdict(self)


class Runs:
    """All runs so far, by contender and size. A case in which any run failed has no figures."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._cases: dict[tuple[str, float], list[Run]] = {}
        for run in sorted(runs, key=lambda run: run.round):
            self._cases.setdefault((run.contender, run.size), []).append(run)
        self.sizes = sorted({run.size for run in runs})
        self.contenders = list(dict.fromkeys(run.contender for run in runs))

    def measured(self, contender: str, size: float, measure: str = "seconds") -> dict[int, float]:
        """Figures by round, without the warm-up."""
        case = self._cases.get((contender, size), [])
        if any(run.failure for run in case):
            return {}
        figures = {run.round: {**run.figures, "seconds": run.seconds} for run in case if run.round > 0}
        return {number: values[measure] for number, values in figures.items() if values.get(measure) is not None}

    def cases(self) -> list[Case]:
        """The case of every contender at every size, ordered by size."""
        return [
            self._case(contender, size)
            for size in self.sizes
            for contender in self.contenders
            if (contender, size) in self._cases
        ]

    def fits(self) -> list[Fit]:
        """The fitted line of every contender with at least two sizes."""
        fits = []
        for contender in self.contenders:
            points = {size: median(found.values()) for size in self.sizes if (found := self.measured(contender, size))}
            if len(points) > 1:
                fixed, slope = fitted_line(list(points), list(points.values()))
                fits.append(
                    Fit(contender=contender, fixed_seconds=round(fixed, 3), seconds_per_million=slope * MILLION)
                )
        return fits

    def ratio_rows(self, ratio: Ratio) -> list[RatioRow]:
        """One row for each size at which both contenders have finished a measured round."""
        rows = []
        for size in self.sizes:
            over = self.measured(ratio.over, size, ratio.measure)
            under = self.measured(ratio.under, size, ratio.measure)
            both = sorted(number for number in over.keys() & under.keys() if under[number] > 0)
            if both:
                estimate = paired_ratio([over[number] for number in both], [under[number] for number in both])
                target = ratio.target if ratio.at in (None, size) else None
                rows.append(_row(f"{ratio.over}/{ratio.under} {ratio.measure} at {size:,.9g}", estimate, target))
        return rows

    def slope_rows(self, ratio: SlopeRatio) -> list[RatioRow]:
        """One row, against the rival with the smallest slope, over the sizes that both have finished."""
        pairs = {rival: self._slopes(ratio.over, rival) for rival in ratio.rivals}
        known = {rival: pair for rival, pair in pairs.items() if pair[0]}
        if not known:
            return []
        rival, (over, under) = min(known.items(), key=lambda item: median(item[1][1]))
        return [_row(f"{ratio.over}/{rival} slope", paired_ratio(over, under), ratio.target)]

    def _slopes(self, over: str, under: str) -> tuple[list[float], list[float]]:
        by_size = {size: (self.measured(over, size), self.measured(under, size)) for size in self.sizes}
        finished = {size: pair for size, pair in by_size.items() if pair[0] and pair[1]}
        if len(finished) < 2:
            return [], []
        common = set.intersection(*(pair[0].keys() & pair[1].keys() for pair in finished.values()))
        first, second = (
            slopes({size: [pair[side][number] for number in sorted(common)] for size, pair in finished.items()})
            for side in (0, 1)
        )
        return first, second

    def _case(self, contender: str, size: float) -> Case:
        runs = self._cases[contender, size]
        names = dict.fromkeys(name for run in runs for name in run.figures)
        return Case(
            contender=contender,
            size=size,
            seconds=[round(value, 4) for value in self.measured(contender, size).values()],
            peak_mb=max(run.peak_mb for run in runs),
            figures={name: list(self.measured(contender, size, name).values()) for name in names},
            failure=next((run.failure for run in runs if run.failure), None),
        )


def _row(name: str, estimate: Estimate, target: Target | None) -> RatioRow:
    return RatioRow(
        name=name,
        value=round(estimate.value, 4),
        ci90=(round(estimate.low, 4), round(estimate.high, 4)),
        target=None if target is None else str(target),
        met=None if target is None else target.is_met(estimate),
    )
