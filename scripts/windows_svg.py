"""Prints docs/images/windows.svg: how the five dates of `windows` split a log, and which part each stage uses."""

from collections.abc import Iterator
from datetime import date, timedelta

from learn_spark.config.load import Config
from learn_spark.config.sections import SequenceSettings, WindowSettings
from learn_spark.sequences.counts import ranges

WIDTH, HEIGHT, LEFT, RIGHT = 1000, 400, 205, 30
START = date(2024, 1, 1)
WINDOWS = WindowSettings(
    first_as_of=date(2024, 1, 29),
    towers_end=date(2024, 5, 6),
    cvr_end=date(2024, 5, 27),
    ranker_train_end=date(2024, 6, 17),
    end=date(2024, 7, 1),
)
SEQUENCES = SequenceSettings(target_days=21, as_of_every_days=7)
KEYS = ("first_as_of", "towers_end", "cvr_end", "ranker_train_end", "end")
ROWS = {
    "train": ("towers, training", "#1f6f8b"),
    "val": ("towers, validation", "#1f6f8b"),
    "test": ("retrieval, test", "#b5541c"),
    "cvr train": ("conversion model, training", "#1f6f8b"),
    "cvr validation": ("conversion model, validation", "#1f6f8b"),
    "ranker_train": ("ranker, training", "#1f6f8b"),
    "ranker_test": ("ranker, test", "#b5541c"),
}


def windows_svg() -> str:
    """The whole picture."""
    return "\n".join([*_head(), *_dates(), *_rows(), *_foot(), "</svg>", ""])


def _x(day: date) -> float:
    share = (day - START).days / (WINDOWS.end - START).days
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _head() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Five dates'
        " cut a log. Training targets of the towers end where those of validation begin; these end at towers_end. Then"
        ' follow the days of the conversion model, of the ranker, and of its test.">'
    )
    yield (
        "<style>text{font-family:Helvetica,Arial,sans-serif;font-size:12px;fill:#1d2a30}.key{font-weight:600}"
        ".say{fill:#4c5a61}.date{stroke:#9aa7ad;stroke-dasharray:3 3}.as-of{stroke:#1d2a30;stroke-width:1.5}</style>"
    )
    yield f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="12" fill="#fbfbf8" stroke="#d8d8d0"/>'


def _dates() -> Iterator[str]:
    yield f'<text class="key" x="{LEFT}" y="30" text-anchor="middle">ingest.start</text>'
    yield f'<line class="date" x1="{LEFT}" y1="38" x2="{LEFT}" y2="330"/>'
    for number, key in enumerate(KEYS):
        x, y = _x(getattr(WINDOWS, key)), 30 if number % 2 else 48
        anchor = "end" if key == "end" else "middle"
        yield f'<text class="key" x="{x}" y="{y}" text-anchor="{anchor}">{key}</text>'
        yield f'<line class="date" x1="{x}" y1="54" x2="{x}" y2="330"/>'


def _rows() -> Iterator[str]:
    config = Config(windows=WINDOWS, sequences=SEQUENCES)
    for number, each in enumerate(ranges(config)):
        name, colour = ROWS[each.name]
        y, start, end = 70 + 36 * number, _x(each.start), _x(each.end)
        yield f'<text x="{LEFT - 12}" y="{y + 14}" text-anchor="end">{name}</text>'
        if each.as_of:
            reach = _x(max(START, each.as_of[-1] - timedelta(365)))
            yield _bar(reach, _x(each.as_of[-1]), y + 7, 6, "#cfd8dc")
        yield _bar(start, end, y, 20, colour)
        for day in each.as_of:
            yield f'<line class="as-of" x1="{_x(day)}" y1="{y - 4}" x2="{_x(day)}" y2="{y + 24}"/>'


def _bar(start: float, end: float, y: int, height: int, colour: str) -> str:
    size = f'width="{round(end - start, 1)}" height="{height}"'
    return f'<rect x="{start}" y="{y}" {size} rx="3" fill="{colour}" opacity=".8"/>'


def _foot() -> Iterator[str]:
    lines = (
        "Black strokes are as-of dates: the history (grey) lies before one, the targets (coloured) lie in the"
        " sequences.target_days after it.",
        "Training as-of dates end 2 x target_days before towers_end, the one of validation lies target_days before it,"
        " the one of the test on it.",
    )
    for number, line in enumerate(lines):
        yield f'<text class="say" x="20" y="{356 + 20 * number}">{line}</text>'


if __name__ == "__main__":
    print(windows_svg(), end="")
