"""Real Petastorm and the pyarrow reader over the same tiny snapshots."""

import importlib.util
import json
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.contract.failures import BadInput
from models.contract.settings import StreamConfig
from models.contract.snapshot import open_snapshot
from models.data.prefetch import prefetched
from models.data.stream import ArrowReader, PetastormReader, read_column
from tests.builders.tensors import pairs_table, sequences_table, with_types, write_snapshot

IS_HERE = importlib.util.find_spec("petastorm") is not None
needs_petastorm = pytest.mark.skipif(not IS_HERE, reason="test_torch_side_alone.py runs it with Petastorm")
READERS = [ArrowReader, pytest.param(PetastormReader, marks=needs_petastorm)]
COLUMNS = ["user_id", "hist_items", "hist_ts", "hist_len", "hist_types"]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots") / "ds=1" / "with a space"
    return open_snapshot(write_snapshot(folder, with_types(sequences_table(100, 30), 5), files=3))


def rows_of(reader):
    """Every row as a tuple of all its numbers, in order."""
    rows = []
    for batch in reader:
        flat = [value.reshape(len(value), -1).tolist() for value in batch.values()]
        rows += [tuple(sum(parts, [])) for parts in zip(*flat, strict=True)]
    return rows


@pytest.mark.parametrize("reader", READERS)
def test_batches_have_exactly_the_size_shapes_and_types(snapshot, reader, capfd):
    before = threading.active_count()
    batches = list(reader(snapshot, COLUMNS, 32, seed=0))
    assert [len(batch["hist_len"]) for batch in batches] == [32, 32, 32, 4]
    assert len(reader(snapshot, COLUMNS, 32)) == 4
    assert batches[0]["hist_items"].shape == (32, 6) and batches[0]["hist_items"].dtype == torch.int32
    assert batches[0]["hist_types"].dtype == torch.int8 and int(batches[0]["hist_types"].max()) == 5
    assert batches[0]["hist_ts"].dtype == batches[0]["user_id"].dtype == torch.int64
    assert (
        len(list(reader(snapshot, COLUMNS, 32, drop_last=True)))
        == 3
        == len(reader(snapshot, COLUMNS, 32, drop_last=True))
    )
    assert threading.active_count() == before
    printed = capfd.readouterr()
    assert printed.out == "" and "Warning" not in printed.err


@needs_petastorm
def test_both_readers_give_the_same_rows(snapshot):
    in_order = rows_of(ArrowReader(snapshot, COLUMNS, 7))
    assert len(in_order) == 100
    for seed in (None, 0, 5):
        for reader in (ArrowReader, PetastormReader):
            config = StreamConfig(shuffle_rows=10)
            rows = rows_of(reader(snapshot, COLUMNS, 7, seed=seed, config=config))
            assert sorted(rows) == sorted(in_order)
    assert rows_of(PetastormReader(snapshot, COLUMNS, 7)) == in_order


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_repeats_its_order(snapshot, reader, seed):
    config = StreamConfig(shuffle_rows=20)
    first, again, other = (rows_of(reader(snapshot, COLUMNS, 16, seed=s, config=config)) for s in (seed, seed, 9))
    assert first == again != other


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shuffle_rows", [200, 5000], ids=["a tenth at once", "all at once"])
def test_shuffling_crosses_files(tmp_path, reader, shuffle_rows):
    table = pa.table({"row": pa.array(np.arange(2000))})
    snapshot = open_snapshot(write_snapshot(tmp_path / "s", table, files=4, row_group_size=50))
    config = StreamConfig(shuffle_rows=shuffle_rows)
    order = np.concatenate([b["row"] for b in reader(snapshot, ["row"], 100, seed=1, config=config)])
    # A shuffle of only a few row groups at a time takes the groups in random order, too.
    assert abs(np.corrcoef(np.arange(2000), order)[0, 1]) < (0.1 if shuffle_rows > 2000 else 0.35)
    # Neighbours in the file are far apart: on average a third of the rows for a uniform shuffle.
    assert np.abs(np.diff(np.argsort(order))).mean() > (500 if shuffle_rows > 2000 else 60)
    # A batch of 100 rows is drawn from 200 rows of random groups, so it never holds two groups in file order.
    groups = [len(np.unique(batch // 50)) for batch in order.reshape(-1, 100)]
    assert np.mean(groups) > (30 if shuffle_rows > 2000 else 3.5)


@needs_petastorm
def test_petastorm_loses_no_row_groups_however_fast_they_are_taken(tmp_path):
    table = pa.table({"row": pa.array(np.arange(400))})
    snapshot = open_snapshot(write_snapshot(tmp_path / "s", table, row_group_size=10))
    for seed in range(25):
        rows = np.concatenate([batch["row"] for batch in PetastormReader(snapshot, ["row"], 50, seed=seed)])
        assert len(rows) == 400 and len(np.unique(rows)) == 400


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("files", "row_group_size", "ranks"), [(1, 1000, 2), (3, 13, 2), (7, 50, 3), (2, 1000, 4)])
def test_ranks_take_equal_steps_over_disjoint_rows(tmp_path, reader, files, row_group_size, ranks):
    table = pa.table({"row": pa.array(np.arange(211))})
    snapshot = open_snapshot(write_snapshot(tmp_path / "s", table, files=files, row_group_size=row_group_size))
    config, seen = StreamConfig(shuffle_rows=20), []
    for rank in range(ranks):
        shard = reader(snapshot, ["row"], 5, seed=4, drop_last=True, config=config, rank=rank, ranks=ranks)
        batches = [batch["row"].tolist() for batch in shard]
        assert len(batches) == len(shard) == 211 // (5 * ranks)
        assert batches == [batch["row"].tolist() for batch in shard]
        assert batches[3:] == [batch["row"].tolist() for batch in shard.batches(3)]
        seen += sum(batches, [])
    assert len(seen) == len(set(seen)) == 211 - 211 % (5 * ranks)


@pytest.mark.parametrize("reader", READERS)
def test_ranks_together_read_every_row_once(tmp_path, reader):
    table = pa.table({"row": pa.array(np.arange(240))})
    snapshot = open_snapshot(write_snapshot(tmp_path / "s", table, files=7, row_group_size=9))
    first, other = (
        [
            {
                row
                for batch in reader(snapshot, ["row"], 8, seed=seed, drop_last=True, rank=rank, ranks=3)
                for row in batch["row"].tolist()
            }
            for rank in range(3)
        ]
        for seed in (1, 2)
    )
    assert set.union(*first) == set.union(*other) == set(range(240))
    assert first != other  # with another seed, a rank reads different files


def test_ranks_without_drop_last_are_refused(snapshot):
    with pytest.raises(ValueError, match="drop_last"):
        ArrowReader(snapshot, COLUMNS, 8, ranks=2)


@pytest.mark.parametrize("reader", READERS)
def test_leaving_early_leaves_no_thread(snapshot, reader):
    before = threading.active_count()
    iterator = iter(reader(snapshot, COLUMNS, 4, seed=3))
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("reader", READERS)
def test_floats_and_scalars(tmp_path, reader):
    table = pairs_table(20)
    snapshot = open_snapshot(write_snapshot(tmp_path / "pairs", table))
    (batch,) = reader(snapshot, ["user_emb", "label", "weight"], 20)
    np.testing.assert_array_equal(batch["user_emb"].numpy(), np.stack(table["user_emb"].to_pandas()))
    assert batch["weight"].dtype == torch.float64 and batch["user_emb"].dtype == torch.float32
    np.testing.assert_array_equal(read_column(snapshot, "label"), table["label"].to_numpy())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("values", [[[1, 2], [3]], [[1, 2], None], [[1, 2], [3, None]]])
def test_ragged_or_null_lists_are_refused(tmp_path, reader, values):
    table = pa.table({"items": pa.array(values, pa.list_(pa.int32()))})
    snapshot = open_snapshot(write_snapshot(tmp_path / "s", table, files=1))
    with pytest.raises(ValueError, match="items"):
        list(reader(snapshot, ["items"], 2))


@pytest.mark.parametrize("reader", READERS)
def test_only_the_manifests_files_are_read(tmp_path, reader):
    folder = write_snapshot(tmp_path / "s", pa.table({"row": [1, 2, 3]}), files=1)
    write_snapshot(tmp_path / "other", pa.table({"row": [9]}), files=1)
    (tmp_path / "other" / "part-00000.parquet").rename(folder / "left-over.parquet")
    rows = rows_of(reader(open_snapshot(folder), ["row"], 8))
    assert rows == [(1,), (2,), (3,)]


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_snapshot_gives_nothing(tmp_path, reader):
    folder = write_snapshot(tmp_path / "s", pa.table({"row": pa.array([], pa.int64())}), files=1)
    assert list(reader(open_snapshot(folder), ["row"], 8)) == []
    with pytest.raises(BadInput, match="has no row"):
        read_column(open_snapshot(folder), "row")


@pytest.mark.parametrize("reader", READERS)
def test_files_without_rows_do_no_harm(tmp_path, reader):
    folder = write_snapshot(tmp_path / "s", sequences_table(2, 9), files=4)
    assert [len(batch["hist_items"]) for batch in reader(open_snapshot(folder), ["hist_items"], 8)] == [2]


def test_unknown_columns_are_named(snapshot):
    with pytest.raises(ValueError, match="no column hist_item; it has: user_id, as_of, hist_items"):
        ArrowReader(snapshot, ["hist_item"], 8)


@pytest.mark.parametrize("name", ["_common_metadata", "_metadata"])
def test_metadata_files_are_refused(tmp_path, name):
    folder = write_snapshot(tmp_path / "s", pa.table({"row": [1]}), files=1)
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        open_snapshot(folder)


def test_missing_changed_and_foreign_files_are_named(tmp_path):
    folder = write_snapshot(tmp_path / "s", pa.table({"row": list(range(50))}), files=2)
    first, second = sorted(folder.glob("*.parquet"))
    data = bytearray(first.read_bytes())
    data[10] ^= 1
    first.write_bytes(data)
    open_snapshot(folder, verify_sha256=False)
    with pytest.raises(ValueError, match=r"part-00000\.parquet has changed"):
        open_snapshot(folder)
    first.write_bytes(data + b"x")
    with pytest.raises(ValueError, match=r"part-00000\.parquet has \d+ bytes"):
        open_snapshot(folder, verify_sha256=False)
    first.unlink()
    with pytest.raises(ValueError, match=r"part-00000\.parquet is missing"):
        open_snapshot(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = manifest["files"].pop(0)["rows"]
    manifest["files"][0]["rows"] += rows
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"part-00001\.parquet has 25 rows, listed 50"):
        open_snapshot(folder)
    manifest["files"][0]["path"] = "../elsewhere.parquet"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="leads out of the folder"):
        open_snapshot(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json: No such file"):
        open_snapshot(folder)


def test_prefetching_is_ahead_and_its_thread_ends_however_it_is_left():
    made, closed = [], []

    def source():
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(threading.current_thread().name)

    before = threading.active_count()
    ahead = prefetched(source(), 3)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3, 4]  # one taken, three in the queue, one waiting for room
    ahead.close()
    assert closed == ["prefetch"] and threading.active_count() == before
    assert list(prefetched(source(), 3)) == list(range(100))
    broken = prefetched((1 // (2 - number) for number in range(4)), 3)
    assert next(broken) == 0
    with pytest.raises(ZeroDivisionError):
        list(broken)
    assert threading.active_count() == before
