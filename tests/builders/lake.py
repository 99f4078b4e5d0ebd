"""A tiny lake with everything that training and feature writing read, and small models with random weights."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from learn_spark.bridge.trained import cvr_path, towers_path
from learn_spark.config.load import Config, load_config
from learn_spark.embedding.matrix import matrix_path
from learn_spark.lake.days import DayRange
from learn_spark.lake.schemas import TABLES
from learn_spark.runs.ledger import Ledger, fingerprint_of
from learn_spark.runs.progress import Progress
from learn_spark.runs.steps import Context
from tests.builders.contexts import CONF, make_tables
from tests.builders.shared import shared

USERS, ITEMS, CONTENT_DIM = 40, 30, 16
NEW_ITEM = 30  # first sold on the second feature day
NO_CONTENT_ITEM = 7


def tiny_context(spark: SparkSession, config: Config, salt: str = "") -> Context:
    """A context whose fingerprints depend only on step, day and `salt`; new tables are empty."""
    tables = make_tables(spark, config.lake.root)

    def fingerprint(step: str, day: date) -> str:
        return fingerprint_of(step, day, salt)

    return Context(config, spark, tables, Ledger(spark, tables), fingerprint, Progress(spark))


def feature_lake(spark: SparkSession, folder: Path, settings: Iterable[str]) -> Context:
    """A filled lake in `folder`, with models to score it; `settings` are added to conf/test.yaml."""
    places = (f"lake.root={folder}/lake", f"output.dir={folder}/output")
    context = tiny_context(spark, load_config(CONF / "test.yaml", [*places, *settings]))
    fill_lake(context)
    save_models(context)
    return context


def item_id(number: int) -> str:
    return f"item{number:02d}"


def fill_lake(context: Context) -> None:
    """Fills the lake with events, items, histories and samples in the config's windows, which fit together.

    The tables are made once per test run and setting, and then copied, because Spark is slow even with small tables.
    """
    config, root = context.config, context.tables.root
    parts = (config.windows, config.sequences, matrix_path(context).name)
    name = f"tiny-lake-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"

    def make(folder: Path) -> None:
        fill_tables(replace(context, tables=make_tables(context.spark, folder)))

    shutil.copytree(shared(name, make), root, dirs_exist_ok=True)


def fill_tables(context: Context, seed: int = 5) -> None:
    """Writes into the existing tables the rows that `fill_lake` copies."""
    rng = np.random.default_rng(seed)
    events = _events(context.config, rng)
    _append(context, "interactions", events)
    _append(
        context,
        "items",
        [
            (item_id(i), events[0][5], f"title {i}", None, None, 1.0, None, None, events[0][9])
            for i in range(1, ITEMS + 1)
        ],
    )
    _append(context, "item_index", [(item_id(i), i) for i in range(1, ITEMS + 1)])
    _append(context, "user_history", _histories(context.config, events))
    _append(context, "sequences", _sequences(context.config, rng))
    _append(context, "samples", _samples(context.config, events, rng))
    save_matrix(matrix_path(context), rng)


def save_matrix(folder: Path, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(ITEMS + 1, CONTENT_DIM)).astype("<f2")
    vectors[[0, NO_CONTENT_ITEM]] = 0
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vectors.f16").write_bytes(vectors.tobytes())
    meta = {"rows": ITEMS + 1, "dim": CONTENT_DIM, "dtype": "float16", "encoder_id": "test"}
    (folder / "meta.json").write_text(json.dumps(meta))


def save_models(context: Context, seed: int = 3) -> None:
    """Saves untrained towers and an untrained conversion model where the context looks for them."""
    import torch

    from models.contract.settings import CVRConfig, TowersConfig
    from models.saved import save_cvr, save_towers
    from models.towers.cvr import CVRModel
    from models.towers.towers import Towers

    torch.manual_seed(seed)
    types, settings = context.config.sequences.event_types, {"d_model": 16, "layers": 1, "heads": 2, "embedding_dim": 8}
    towers = Towers(TowersConfig(**settings, max_len=20), CONTENT_DIM, event_types=types)
    if towers.events is not None:
        torch.nn.init.normal_(towers.events.vector.weight[1:])
    save_towers(towers_path(context), towers)
    save_cvr(cvr_path(context), CVRModel(CVRConfig(hidden=(8,), mid_dim=4), 8, 8))


def _append(context: Context, table: str, rows: Iterable[tuple]) -> None:
    schema = context.tables.read(table).schema  # tables of an older lake lack the newest columns, which come last
    whole = context.spark.createDataFrame([row[: len(schema)] for row in rows], schema)
    columns = (column for column in TABLES[table].columns if column.name not in schema.names)
    context.tables.append(table, whole.withColumns({c.name: F.lit(None).cast(c.type) for c in columns}))


def _events(config: Config, rng: np.random.Generator) -> list[tuple]:
    """Five purchases per day, of 1 to 3 pieces each; the new item is first sold on the second feature day."""
    events = []
    for day in DayRange(config.windows.first_as_of, config.windows.end):
        for number in range(5):
            user, item = int(rng.integers(USERS)), int(rng.integers(1, ITEMS))
            if day == config.windows.towers_end + timedelta(days=1) and number == 0:
                item = NEW_ITEM
            at = datetime(day.year, day.month, day.day, 9 + number, tzinfo=UTC)
            value = float(1 + number % 3)
            events.append(
                (len(events), f"user{user:02d}", item_id(item), item, "purchase", at, value, "f", at, day, day)
            )
    return events


def _histories(config: Config, events: list[tuple]) -> list[tuple]:
    rows = []
    for day in DayRange(config.windows.towers_end, config.windows.end + timedelta(days=1)):
        by_user: dict[str, list[tuple]] = {}
        for event in events:
            if event[-1] < day:
                by_user.setdefault(event[1], []).append(event)
        for user, past in by_user.items():
            if day == config.windows.towers_end or past[-1][-1] == day - timedelta(days=1):
                kept = past[-config.sequences.history_length :]
                items, times = [e[3] for e in kept], [int(e[5].timestamp()) for e in kept]
                rows.append((user, day, items, times, types_of(config, items)))
    return rows


def types_of(config: Config, items: Iterable[int]) -> list[int] | None:
    """The type of every event, determined by its item, and 0 for padding; None if the config keeps no types."""
    known = len(config.sequences.event_types)
    return [1 + item % known if item else 0 for item in items] if known else None


def _sequences(config: Config, rng: np.random.Generator) -> list[tuple]:
    from learn_spark.sequences.windows import as_of_dates

    length, targets = config.sequences.history_length, config.sequences.target_length
    rows = []
    for as_of, split in as_of_dates(config).items():
        end = int(datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC).timestamp())
        for user in range(USERS):
            hist_len, tar_len = int(rng.integers(1, length + 1)), int(rng.integers(1, targets + 1))
            hist, hist_ts = rng.integers(1, ITEMS, hist_len), end - 10 + np.arange(hist_len) * 0
            tar, tar_ts = rng.integers(1, ITEMS, tar_len), end + np.arange(tar_len)
            sides = [*_padded(hist, hist_ts, length), hist_len, *_padded(tar, tar_ts, targets), tar_len]
            types = (types_of(config, sides[place]) for place in (0, 3))
            rows.append((f"user{user:02d}", as_of, *sides, split, 0, *types))
    return rows


def _padded(items: np.ndarray, times: np.ndarray, length: int) -> tuple[list[int], list[int]]:
    rest = [0] * (length - len(items))
    return [*items.tolist(), *rest], [*times.tolist(), *rest]


def _samples(config: Config, events: list[tuple], rng: np.random.Generator) -> list[tuple]:
    from learn_spark.sequences.windows import sample_windows

    rows = []
    for window in sample_windows(config):
        for _, user, item, _, _, at, *_, day in events:
            if window.start <= day < window.end:
                rows.append((user, item, at, 1, 1.0, window.stage, day, None))
                for other in {item_id(i) for i in rng.integers(1, ITEMS, 3)} - {item}:
                    rows.append((user, other, at, 0, 1.0, window.stage, day, None))
    return rows
