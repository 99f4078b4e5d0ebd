"""Estimates what a run will do and cost, from the lake and its ledger or, if they are empty, the config's `scale`."""

from dataclasses import dataclass

from learn_spark.cli.command import Outcome, Summary
from learn_spark.config.load import Config
from learn_spark.embedding.cost import EmbeddingEstimate, embedding_estimate, encoder_hours
from learn_spark.errors import NOTHING_TO_DO, ConfigError
from learn_spark.inspect.preview import preview
from learn_spark.inspect.tally import Tally
from learn_spark.lake.tables import is_lake
from learn_spark.pipeline import STEPS
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Recorded, Rows, pieces
from learn_spark.runs.plan import Plan, Standing
from learn_spark.runs.steps import BUILD_SEQUENCES, EMBED_ITEMS, INGEST_EVENTS, Context
from learn_spark.sequences.windows import as_of_dates, sample_windows

_EVENT_BYTES = 60  # a compressed interactions row: two ids, a time, a hash
_SEQUENCE_ENTRY_BYTES = 4 + 8  # item_idx and time
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_OUT_DIM = 64


@dataclass(frozen=True)
class PlanSummary(Summary):
    """A dry run: days and expected rows per step, and how much there is to encode if that is planned."""

    plan: dict[str, list[str]]
    rows: dict[str, int | None]
    encoding: EmbeddingEstimate | None = None


def needs_no_lake(config: Config) -> bool:
    """Whether a dry run can do without Spark: there is no lake yet, so everything is missing."""
    return not is_lake(config.lake.root)


def dry_run(plan: Plan, config: Config, context: Context | None = None) -> Outcome:
    """Prints what a run would do: the part of its plan that is missing now, and the expected sizes.

    Sizes are extrapolated from recorded days or, if nothing is recorded, from the files.

    Raises:
        ConfigError: the run itself would be refused with this error.
    """
    now = Standing.of(context) if context else Standing(config, Fingerprints(config, STEPS), {})
    todo = plan.missing(now)
    days = {step.name: its for step, its in todo}
    expected = {step.name: expected_rows(step.name, len(its), now.rows) for step, its in todo}
    encoding = None
    if context and EMBED_ITEMS in days:
        encoding = embedding_estimate(context, max(days[EMBED_ITEMS]), len(days.get(INGEST_EVENTS, ())))
        if encoding:
            expected[EMBED_ITEMS] = encoding.texts + encoding.expected
    lines = todo.lines(expected) + ([f"  {encoding}"] if encoding else [])
    seen = None if context else preview(config)
    if seen is not None:
        lines += ["the files, counted without Spark:", *(f"  {line}" for line in seen.lines())]
    if None in expected.values() or not now.rows:
        lines += estimate_lines(_as_counted(config, seen.tally) if seen else config)
    print("\n".join(lines), flush=True)
    if seen is not None and seen.refusal and BUILD_SEQUENCES in days:
        raise ConfigError(seen.refusal)
    summary = PlanSummary({name: [str(day) for day in its] for name, its in days.items()}, expected, encoding)
    return Outcome(summary, 0 if todo else NOTHING_TO_DO)


def expected_rows(step: str, days: int, recorded: Rows) -> int | None:
    """Rows that `days` days of a step will write, judged by its recorded days; None if it has none."""
    done: list[Recorded] = [row for (name, _), row in recorded.items() if name == step]
    return round(sum(piece[0].rows_out for piece in pieces(done)) / len(done) * days) if done else None


def _as_counted(config: Config, tally: Tally) -> Config:
    """The config with the sizes that were counted in its files instead of the expected ones."""
    days = (config.windows.end - config.ingest.start).days
    events = max(1, round(len(tally.days) * tally.every / days))
    scale = config.scale.model_copy(
        update={"users": tally.num_users, "items": tally.num_items, "events_per_day": events}
    )
    return config.model_copy(update={"scale": scale})


def estimate_lines(config: Config) -> list[str]:
    """Lines of estimated sizes for a dry run; upper bounds where a size is not known beforehand."""
    return (
        ["estimated sizes (upper bounds; what is not counted is from the config's `scale`):"]
        + [f"  {name:<28} {rows:>18,} rows {_size(size):>10}" for name, rows, size in _tables(config)]
        + [f"  {_encoder_line(config)}"]
    )


def _tables(config: Config) -> list[tuple[str, int, float]]:
    scale, sequences, windows = config.scale, config.sequences, config.windows
    days = (windows.end - config.ingest.start).days
    events = days * scale.events_per_day
    as_of = len(as_of_dates(config))
    entry = _SEQUENCE_ENTRY_BYTES * (sequences.history_length + sequences.target_length)
    active = min(scale.users, scale.events_per_day * sequences.target_days)
    feature_days = (windows.end - windows.towers_end).days
    changed = scale.users + feature_days * min(scale.users, scale.events_per_day)
    sample_days = sum((window.end - window.start).days for window in sample_windows(config))
    drawn = config.samples.negatives if config.samples.labels == "sampled" else 0
    samples = sample_days * scale.events_per_day * (1 + drawn)
    width = min(scale.content_dim, config.embedding.reduce_to or scale.content_dim)
    return [
        ("interactions", events, events * _EVENT_BYTES),
        ("sequences", active * as_of, active * as_of * entry),
        ("user_history", changed, changed * _SEQUENCE_ENTRY_BYTES * sequences.history_length),
        ("samples", samples, samples * _EVENT_BYTES),
        ("content_embeddings", scale.items, scale.items * scale.content_dim * _HALF_BYTES),
        ("content matrix", scale.items + 1, (scale.items + 1) * width * _HALF_BYTES),
        ("user_features", changed, changed * _OUT_DIM * _FLOAT_BYTES),
        ("item_features", scale.items, scale.items * _OUT_DIM * _FLOAT_BYTES),
    ]


def _encoder_line(config: Config) -> str:
    scale = config.scale
    tokens = scale.items * min(scale.tokens_per_item, config.embedding.max_tokens)
    return (
        f"encoder: {scale.items:,} texts, {tokens:,} tokens,"
        f" {encoder_hours(config, tokens):,.2f} device hours at {scale.device_tflops:g} TFLOP/s"
    )


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
