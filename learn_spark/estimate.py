"""What a run will cost: from what the lake and its ledger know, or from the config's `scale` where they are empty."""

from dataclasses import dataclass
from datetime import date

from pyspark.sql import functions as F

from learn_spark.core.config import Config
from learn_spark.core.ledger import Recorded, pieces
from learn_spark.core.steps import Context, Plan, Rows
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import template
from learn_spark.sequences.windows import as_of_dates, sample_windows

_EVENT_BYTES = 60  # a compressed interactions row: two ids, a time, a hash
_SEQUENCE_ENTRY_BYTES = 4 + 8  # item_idx and time
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_OUT_DIM = 64
_FLOP_PER_PARAMETER_AND_TOKEN = 2
_RECENT_DAYS = 7


@dataclass(frozen=True)
class Encoding:
    """What there is to encode: texts, their tokens, and hours of a device."""

    texts: int
    tokens: int
    device_hours: float

    def __str__(self) -> str:
        return f"{self.texts:,} texts, {self.tokens:,} tokens, {self.device_hours:,.2f} device hours"


def expected_encoding(plan: Plan, context: Context) -> Encoding:
    """The lake's items that have no vector of this encoder, and new ones as they came with the last deliveries."""
    texts = _texts_without_vector(context) + _new_items_a_day(context) * _planned_days(plan, "ingest_events")
    return _encoding(context.config, round(texts), _tokens_a_text(context))


def _planned_days(plan: Plan, name: str) -> int:
    return sum(len(days) for step, days in plan if step.name == name)


def _texts_without_vector(context: Context) -> int:
    """Distinct texts that wait for a vector, and items that wait for a text."""
    tables, version = context.tables, template(context.config.embedding.template).version
    current = tables.read("item_text").where(F.col("template_version") == version)
    known = tables.read("content_embeddings").where(F.col("encoder_id") == encoder_id(context.config))
    texts = current.join(known.select("text_hash"), on="text_hash", how="left_anti").select("text_hash").distinct()
    items = tables.read("item_index").join(current.select("item_id"), on="item_id", how="left_anti")
    return texts.count() + items.count()


def _new_items_a_day(context: Context) -> float:
    """First seen in the deliveries of the lake's last seven days."""
    first = context.tables.read("items").groupBy("item_id").agg(F.min("load_day").alias("load_day"))
    days: dict[date, int] = {row["load_day"]: row["count"] for row in first.groupBy("load_day").count().collect()}
    ingested = sorted(day for name, day in context.ledger.recorded() if name == "ingest_events")[-_RECENT_DAYS:]
    return sum(days.get(day, 0) for day in ingested) / len(ingested) if ingested else 0.0


def _tokens_a_text(context: Context) -> float:
    """As the lake's own runs of the encoder counted them, else as the config says."""
    runs = [row.details for (name, _), row in context.ledger.recorded().items() if name == "embed_items"]
    texts = sum(details.get("texts_encoded", 0) for details in runs)
    if texts:
        return sum(details.get("tokens", 0) for details in runs) / texts
    return min(context.config.scale.tokens_per_item, context.config.embedding.max_tokens)


def _encoding(config: Config, texts: int, tokens_a_text: float) -> Encoding:
    tokens = round(texts * tokens_a_text)
    flop = _FLOP_PER_PARAMETER_AND_TOKEN * config.scale.encoder_parameters * tokens
    return Encoding(texts, tokens, flop / (config.scale.device_tflops * 1e12) / 3600)


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
    samples = sample_days * scale.events_per_day * (1 + config.samples.negatives)
    return [
        ("interactions", events, events * _EVENT_BYTES),
        ("sequences", active * as_of, active * as_of * entry),
        ("user_history", changed, changed * _SEQUENCE_ENTRY_BYTES * sequences.history_length),
        ("samples", samples, samples * _EVENT_BYTES),
        ("content_embeddings", scale.items, scale.items * scale.content_dim * _HALF_BYTES),
        ("content matrix", scale.items + 1, (scale.items + 1) * scale.content_dim * _HALF_BYTES),
        ("user_features", changed, changed * _OUT_DIM * _FLOAT_BYTES),
        ("item_features", scale.items, scale.items * _OUT_DIM * _FLOAT_BYTES),
    ]


def _encoder_line(config: Config) -> str:
    scale = config.scale
    encoding = _encoding(config, scale.items, min(scale.tokens_per_item, config.embedding.max_tokens))
    return f"encoder: {encoding} at {scale.device_tflops:g} TFLOP/s"


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
