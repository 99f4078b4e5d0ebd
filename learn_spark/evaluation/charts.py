"""The report's drawings: inline SVG with the page's own font and colours, light or dark."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for CSS variables of the page.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
DASHES = ("-", "--", ":")
_CSS = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    **{c: f"--c{i}" for i, c in enumerate(SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {  # matplotlib's keys are a Literal of hundreds
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "text.parse_math": False,  # a title with two $ is no formula
}

WIDE = 8.4
Line = Sequence[tuple[float, float]]


def points(curve: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, figure) of the lines of a training's curve that have the figure."""
    return [(line["step"], line[name]) for line in curve if isinstance(line.get(name), int | float)]


@mpl.rc_context(_STYLE)
def curves(lines: Mapping[str, Line], x_label: str, y_label: str, marker: str = "") -> str:
    """Line chart: name -> (x, y) points."""
    figure, axes = _figure(4.8, 2.7)
    for (name, points), (dashes, colour) in zip(lines.items(), cycle(product(DASHES, SERIES)), strict=False):
        x, y = zip(*points, strict=True)
        dots = marker or ("o" if len(points) == 1 else "")
        axes.plot(x, y, dashes, color=colour, linewidth=1.8, marker=dots, markersize=4, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(lines) > 1:
        axes.legend()
    return _svg(figure, repr((lines, x_label, y_label)))


@mpl.rc_context(_STYLE)
def against(points: Line, x_label: str, y_label: str) -> str:
    """Scatter chart: (x, y) dots, and the line on which both are equal."""
    figure, axes = _figure(4.8, 2.7)
    top = max(max(point) for point in points)
    axes.plot([0, top], [0, top], color=MUTED, linewidth=1)
    axes.plot(*zip(*points, strict=True), "o", color=SERIES[0], markersize=5)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return _svg(figure, repr((points, x_label, y_label)))


@mpl.rc_context(_STYLE)
def bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], y_label: str) -> str:
    """Grouped bars with their values on top."""
    figure, axes = _figure(WIDE, 3.0)
    width = 0.8 / len(series)
    for number, ((name, values), colour) in enumerate(zip(series.items(), SERIES[: len(series)], strict=True)):
        places = [group + (number - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axes.bar(places, values, width * 0.92, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.3f", fontsize=9, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(y_label)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.1)
    columns = len(series) if len(series) < 6 else 3  # more names than that do not fit beside one another
    figure.legend(ncols=columns, loc="outside upper center", columnspacing=1.2, handlelength=1.4)
    return _svg(figure, repr((groups, series, y_label)))


@mpl.rc_context(_STYLE)
def intervals(rows: Sequence[tuple[str, float, float, float]], x_label: str) -> str:
    """One dot and its interval per row: (name, value, low, high); a line marks zero."""
    figure, axes = _figure(WIDE, 0.9 + 0.32 * len(rows))
    for place, (_, value, low, high) in enumerate(reversed(rows)):
        colour = SERIES[0] if low > 0 else SERIES[2] if high < 0 else MUTED
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot([value], [place], "o", color=colour, markersize=6)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x_label)
    return _svg(figure, repr((rows, x_label)))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, salt: str) -> str:
    """The figure as SVG without a size, so that the page scales it; `salt` keeps the ids of several figures apart."""
    target = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _CSS.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own font
    opening, rest = text.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + rest
