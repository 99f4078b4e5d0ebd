"""What a run will cost: from what the lake and its ledger know, or from the config's `scale` where they are empty."""

from learn_spark.config.load import Config
from learn_spark.embedding.cost import encoder_hours
from learn_spark.runs.ledger import Recorded, Rows, pieces
from learn_spark.sequences.windows import as_of_dates, sample_windows

_EVENT_BYTES = 60  # a compressed interactions row: two ids, a time, a hash
_SEQUENCE_ENTRY_BYTES = 4 + 8  # item_idx and time
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_OUT_DIM = 64


def expected_rows(step: str, days: int, recorded: Rows) -> int | None:
    """Rows that so many days of a step will write, from what its recorded days wrote; None without any."""
    done: list[Recorded] = [row for (name, _), row in recorded.items() if name == step]
    return round(sum(piece[0].rows_out for piece in pieces(done)) / len(done) * days) if done else None


def estimate_lines(config: Config) -> list[str]:
    """Lines for a dry run; upper bounds where a size is not known beforehand."""
    return (
        ["estimated sizes (from the config's `scale`; upper bounds):"]
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
