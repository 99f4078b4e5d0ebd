"""A whole night, `learn-spark run_backfill` of one day as a process of its own, against polars and torch by hand.

Sizes are the events that the lake holds before the night. Its first eight days hold few events, so that training the
models is quick; the next six days hold the rest. In the night 1% of the users have one to three events each, a
hundredth of these users are new, and 20 items are new. Both sides start cold: their seconds include imports, and ours
also the start of the JVM.
"""

import json
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import minilm
from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target

START = date(2024, 1, 1)
THIN_DAYS, BULK_DAYS, THIN_EVENTS = 8, 6, 2_000
NIGHT = START + timedelta(days=THIN_DAYS + BULK_DAYS)
AFTER = NIGHT + timedelta(days=1)  # the feature day that the night makes
EVENTS_A_USER, EVENTS_AN_ITEM, FEWEST_ITEMS, NEW_ITEMS = 100, 600, 1_000, 20
LENGTH, WIDTH, SEED = 50, 64, 7
CHECKED = ("item_index", "user_history", "user_features")
ROWS = "u.user_id, i.item_id, u.event_ts"

CHECK = "benchmarks.night:check_rows"
BENCH = Benchmark(
    name="night",
    sizes=(1_000_000, 10_000_000, 60_000_000),
    quick_sizes=(100_000,),
    prepare="benchmarks.night:prepare",
    contenders=(
        Contender("ours", "benchmarks.night:ours", CHECK),
        Contender("by hand", "benchmarks.night:by_hand", CHECK),
    ),
    ratios=(Ratio("ours", "by hand", Target("<=", 4), at=60_000_000),),
)


def prepare(task: Task) -> None:
    """Makes logs, models, and a lake of all days before the night. It does so in every run, by the current code."""
    for size in map(int, task.sizes):
        folder = _inputs(task, size)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "logs").mkdir(parents=True)
        _write_logs(folder / "logs", size)
        config = _write_config(folder / "night.yaml", folder / "logs", folder / "lake", size)
        steps = "ingest_events,build_sequences,embed_items,train_towers,train_cvr,write_features"
        _learn_spark("run_pipeline", "--steps", steps, "--config", config)
        bulk = START + timedelta(days=THIN_DAYS)
        _learn_spark("run_backfill", "--start", bulk, "--end", NIGHT, "--config", config)


def ours(task: Task) -> None:
    """The command, from the start of its process to its end."""
    folder = _inputs(task, int(task.size))
    shutil.copytree(folder / "lake", task.output / "lake")
    config = _write_config(task.output / "night.yaml", folder / "logs", task.output / "lake", int(task.size))
    told = task.output / "told.json"
    with task.clock():
        _learn_spark("run_backfill", "--start", NIGHT, "--end", AFTER, "--config", config, "--json-out", told)
    steps = json.loads(told.read_text())["steps"]
    task.figures = {f"{name}_seconds": figures["seconds"] for name, figures in steps.items()}


def by_hand(task: Task) -> None:
    """Makes the same rows (events, item numbers, vectors, histories, embeddings), but no gates, ledger or release."""
    folder, out = _inputs(task, int(task.size)), task.output
    out.mkdir(parents=True)
    with task.clock():
        import polars as pl

        from models.data.content import ContentMatrix
        from models.saved import load_towers

        lake = folder / "lake"
        log = pl.read_parquet(folder / "logs" / f"{NIGHT}.parquet").unique()
        known = pl.scan_delta(str(lake / "item_index")).select("item_id", "item_idx").collect()
        titles = log.group_by("sku").agg(pl.col("name").first()).rename({"sku": "item_id"})
        new = titles.join(known, on="item_id", how="anti").sort("item_id")
        first = known["item_idx"].max() + 1
        new = new.with_columns(pl.int_range(first, first + len(new)).cast(pl.Int32).alias("item_idx"))
        index = pl.concat([known, new.select("item_id", "item_idx")])
        index.write_parquet(out / "item_index.parquet")
        events = log.join(index, left_on="sku", right_on="item_id").sort("user", "time")
        events.write_parquet(out / "events.parquet")

        (matrix,) = (lake / "_artifacts" / "matrix").glob("[!.]*")
        content = ContentMatrix(matrix)
        vectors = minilm.sentence_transformer().encode(new["name"].to_list(), batch_size=32)
        grown = np.zeros((first + len(new), content.dim), np.float16)
        grown[: content.rows] = content.gather(np.arange(content.rows))
        grown[first:] = vectors
        content._matrix, content.rows = grown, len(grown)
        np.save(out / "vectors.npy", grown[first:])

        night = events.group_by("user", maintain_order=True).agg(
            pl.col("item_idx").cast(pl.Int64), pl.col("time").dt.epoch("s").alias("event_ts")
        )
        stored = pl.scan_delta(str(lake / "user_history")).rename({"user_id": "user"})
        stored = stored.select("user", "ds", pl.col("item_idx").alias("old_items"), pl.col("event_ts").alias("old_ts"))
        newest = stored.join(night.lazy().select("user"), on="user", how="semi")
        newest = newest.sort("ds").group_by("user").last().collect()
        both = night.join(newest, on="user", how="left").with_columns(
            pl.col("old_items", "old_ts").fill_null([]).cast(pl.List(pl.Int64))
        )
        histories = both.select(
            pl.col("user").alias("user_id"),
            pl.concat_list("old_items", "item_idx").list.tail(LENGTH).alias("item_idx"),
            pl.concat_list("old_ts", "event_ts").list.tail(LENGTH).alias("event_ts"),
        )
        histories.write_parquet(out / "user_history.parquet")

        minilm.torch_on_two_threads()
        (model,) = (lake / "_artifacts" / "models").glob("towers-*")
        towers = load_towers(model)
        length_B = histories["item_idx"].list.len().to_numpy()
        flat = histories["item_idx"].explode().to_numpy()
        hist_BH = np.zeros((len(histories), LENGTH), np.int64)
        hist_BH[np.arange(LENGTH)[None] < length_B[:, None]] = flat
        user_BK = towers.embed_users(hist_BH, length_B, content)
        item_NK = towers.embed_items(new["item_idx"].to_numpy(), content)
        for name, ids, embedded in (("user", histories["user_id"], user_BK), ("item", new["item_id"], item_NK)):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(embedded.ravel()), embedded.shape[1])
            table = pa.table({f"{name}_id": ids.to_arrow(), f"{name}_emb": lists})
            pq.write_table(table, out / f"{name}_features.parquet")


def check_rows(task: Task) -> None:
    """Number and hash of the histories' events by item_id, number of users, and sum of |x| over their embeddings."""
    import duckdb
    from deltalake import DeltaTable

    if (lake := task.output / "lake").exists():
        tables = {name: DeltaTable(str(lake / name)).file_uris() for name in CHECKED}
        tables |= {name: [uri for uri in tables[name] if f"ds={AFTER}" in uri] for name in CHECKED[1:]}
    else:
        tables = {name: [f"{task.output}/{name}.parquet"] for name in CHECKED}
    database = duckdb.connect(config={"threads": 2})
    read = {name: f"read_parquet({[str(file) for file in files]})" for name, files in tables.items()}
    events = f"SELECT user_id, unnest(item_idx) AS item_idx, unnest(event_ts) AS event_ts FROM {read['user_history']}"
    query = f"SELECT count(*), sum(hash({ROWS})) FROM ({events}) u JOIN {read['item_index']} i USING (item_idx)"
    found = database.execute(query).fetchone()
    total = "sum(list_sum(list_transform(user_emb::FLOAT[], lambda number: abs(number))))"
    query = f"SELECT count(*), {total} FROM {read['user_features']}"
    users, total = database.execute(query).fetchone()
    task.figures["checksum"] = f"{found[0]}:{found[1]}:{users}:{total:.3e}"


def _write_logs(folder: Path, events: int) -> None:
    """Writes one Parquet file per day. No user has two events in the same second."""
    random = np.random.default_rng(SEED)
    users, items = max(events // EVENTS_A_USER, 100), max(events // EVENTS_AN_ITEM, FEWEST_ITEMS)
    for number in range(THIN_DAYS + BULK_DAYS):
        few = number < THIN_DAYS
        count = THIN_EVENTS if few else events // BULK_DAYS
        who = random.integers(0, 100 if few else users, count)
        _write_day(folder, START + timedelta(days=number), who, _popular(random, items, count), random)
    active = random.choice(round(users * 1.01), max(users // 100, 20), replace=False)
    who = np.repeat(active, random.integers(1, 4, len(active)))
    what = _popular(random, items, len(who))
    what[:NEW_ITEMS] = items + np.arange(NEW_ITEMS)
    _write_day(folder, NIGHT, who, what, random)


def _popular(random: np.random.Generator, items: int, count: int) -> np.ndarray:
    """`count` items, drawn by a power law."""
    return (items ** random.random(count)).astype(np.int64) - 1


def _write_day(folder: Path, day: date, who: np.ndarray, what: np.ndarray, random: np.random.Generator) -> None:
    order = np.lexsort((random.random(len(who)), who))
    who, what = who[order], what[order]
    place = np.arange(len(who)) - np.searchsorted(who, who)  # number of the event among its user's, from 0
    midnight = int(datetime.combine(day, time(), UTC).timestamp())
    seconds = midnight + (who * 37 + place * 61) % 86_400
    texts = minilm.product_texts(2_000, 8)
    table = pa.table(
        {
            "user": pa.array(np.char.add("u", who.astype(str))),
            "sku": pa.array(np.char.add("i", what.astype(str))),
            "time": pa.array(seconds * 1_000_000, pa.timestamp("us")),
            "name": pa.array([f"{texts[item % len(texts)]} {item // len(texts)}" for item in what.tolist()]),
        }
    )
    pq.write_table(table, folder / f"{day}.parquet")


def _write_config(file: Path, logs: Path, lake: Path, events: int) -> Path:
    """Writes a config with the recommended settings, minimal training, and no gates on the models' figures."""
    days = {"first_as_of": 2, "towers_end": 4, "cvr_end": 6, "ranker_train_end": 7, "end": 8}
    windows = "\n".join(f"  {name}: {START + timedelta(days=day)}" for name, day in days.items())
    file.write_text(
        f"""
lake: {{root: {lake}}}
output: {{dir: {file.parent}/output}}
spark:
  master: local[2]
  driver_memory: 3g
  shuffle_partitions: {max(4, events // 500_000)}
  ui: false
ingest:
  path: {logs}
  files: "{{day}}.parquet"
  format: parquet
  gates: {{min_day_share: 0.0}}
  start: {START}
  event_types: [view]
  mapping:
    user_id: {{column: user}}
    item_id: {{column: sku}}
    event_ts: {{column: time}}
    event_type: {{constant: view}}
    title: {{column: name}}
windows:
{windows}
sequences:
  {{history_length: {LENGTH}, target_length: 10, target_days: 1, as_of_every_days: 1,
    history_events: [view], target_events: [view]}}
embedding: {{gates: {{min_effective_rank: 1.0}}}}
towers:
  model: {{d_model: {WIDTH}, heads: 2, layers: 2, embedding_dim: {WIDTH}}}
  train: {{batch_size: 32, epochs: 1}}
cvr: {{validation_days: 1, train: {{batch_size: 64, epochs: 1}}}}
features:
  gates:
    {{min_content_coverage: 0.0, min_effective_rank: 1.0, max_mean_cosine: 1.0, min_pair_auc: 0.0, min_row_share: 0.0}}
mlflow: {{tracking_uri: "sqlite:///{file.parent}/mlflow.db"}}
"""
    )
    return file


def _learn_spark(*arguments: object) -> None:
    command = [str(Path(sys.executable).with_name("learn-spark")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-3000:]}")


def _inputs(task: Task, size: int) -> Path:
    return task.folder / "night_inputs" / f"{size}"


if __name__ == "__main__":
    sys.exit(main(BENCH))
