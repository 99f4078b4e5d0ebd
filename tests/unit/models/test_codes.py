"""Item codes: the codebook against a naive one, its file, and the export for generative rankers."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.__main__ import main
from models.contract.codebook import Codebook, read_codebook, write_codebook
from models.contract.failures import BadInput
from models.towers.residual_kmeans import fitted
from tests.builders.tensors import write_snapshot
from tests.oracles.codes import residual_codes

ITEMS, WIDTH, LEVELS, SIZE = 400, 6, 3, 8


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(SIZE, WIDTH))
    return (centre[rng.integers(SIZE, size=ITEMS)] + 0.2 * rng.normal(size=(ITEMS, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def codebook(vectors):
    return fitted(vectors, LEVELS, SIZE, 7)


def test_codes_are_those_of_the_nearest_centroids(vectors, codebook):
    codes = codebook.encode(np.tile(vectors, (12, 1)))  # more vectors than one chunk
    assert codebook.sizes == [SIZE] * LEVELS and codes.dtype == np.int32
    expected = [residual_codes(vector, codebook.levels) for vector in vectors]
    assert codes.tolist() == expected * 12, "equal vectors, equal codes"
    for vector, said, code in zip(vectors, codebook.decode(codes), expected, strict=False):
        np.testing.assert_allclose(said, sum(level[c] for level, c in zip(codebook.levels, code, strict=True)))
        assert np.linalg.norm(vector - said) < np.linalg.norm(vector)


def error(vectors, codebook):
    """The share of the vectors' variance that codes do not explain."""
    left = vectors - codebook.decode(codebook.encode(vectors))
    return np.square(left).sum() / np.square(vectors - vectors.mean(0)).sum()


def test_the_first_level_finds_clusters_and_each_level_leaves_less(vectors, codebook):
    assert codebook.spread == pytest.approx(np.square(vectors - vectors.mean(0)).sum() / ITEMS)
    errors = [error(vectors, part) for part in (Codebook(codebook.levels[:level]) for level in range(1, LEVELS + 1))]
    assert errors[0] < 0.1 and errors == sorted(errors, reverse=True)
    shuffled = fitted(np.random.default_rng(1).permuted(vectors, axis=0), 1, SIZE, 7)
    assert error(vectors, shuffled) > 3 * errors[0]


def test_a_fit_is_repeatable_and_its_file_exact(vectors, codebook, tmp_path):
    again, file = fitted(vectors, LEVELS, SIZE, 7), tmp_path / "codes" / "codebook.json"
    write_codebook(file, codebook)
    assert read_codebook(file).spread == codebook.spread
    for other in (again, read_codebook(file)):
        for one, level in zip(other.levels, codebook.levels, strict=True):
            np.testing.assert_array_equal(one, level)
    assert not np.array_equal(fitted(vectors, 1, SIZE, 8).levels[0], codebook.levels[0])
    file.write_text(file.read_text().replace("-0.", "-1.", 1))
    with pytest.raises(BadInput, match="has changed since it was written"):
        read_codebook(file)
    for levels in ([], [[1.0]], [[[1.0]], [[1.0, 2.0]]], [[["a"]]], None):
        file.write_text(json.dumps({"levels": levels, "spread": 1.0}))
        with pytest.raises(BadInput, match="holds no levels of centroids of one width"):
            read_codebook(file)


def test_vectors_that_are_not_finite_do_not_count(vectors, codebook):
    """A gate stops releases with such vectors, so fitting must not fail before the gate."""
    holed = np.insert(vectors, [0, 7], [[np.nan] * WIDTH, [np.inf] * WIDTH], axis=0)
    for one, level in zip(fitted(holed, LEVELS, SIZE, 7).levels, codebook.levels, strict=True):
        np.testing.assert_array_equal(one, level)
    nothing = fitted(holed[:1], LEVELS, SIZE, 7)
    assert nothing.sizes == [1] * LEVELS and nothing.encode(holed[:1]).tolist() == [[0] * LEVELS]


@pytest.mark.parametrize("different", [1, 3])
def test_few_vectors_have_few_centroids(different):
    vectors = np.repeat(np.eye(WIDTH, dtype=np.float32)[:different], 5, axis=0)
    codebook = fitted(vectors, 2, SIZE, 7)
    assert codebook.sizes == [different, 1], "the second level has nothing left"
    assert len(np.unique(codebook.encode(vectors), axis=0)) == different
    np.testing.assert_allclose(codebook.decode(codebook.encode(vectors)), vectors, atol=1e-6)


@pytest.fixture
def snapshot(vectors, codebook, tmp_path):
    """A snapshot in another order than item_idx, with at least two items of equal codes, and its codebook."""
    rng = np.random.default_rng(2)
    order, codes = rng.permutation(ITEMS), codebook.encode(vectors)
    codes[1] = codes[0]
    columns = {
        "item_id": [f"item {n}" for n in order],
        "item_idx": pa.array(order, pa.int32()),
        "item_codes": pa.array(list(codes[order]), pa.list_(pa.int32())),
    }
    write_snapshot(tmp_path / "items", pa.table(columns), row_group_size=100)
    write_codebook(tmp_path / "codebook.json", codebook)
    return tmp_path, codes


def export(folder):
    spec = {"items": f"{folder}/items", "codebook": f"{folder}/codebook.json", "out_dir": f"{folder}/out"}
    (folder / "spec.json").write_text(json.dumps(spec))
    return main(["export-codes", "--spec", f"{folder}/spec.json"])


def walk(nodes, node=0, path=()):
    """All paths of the trie from the root, with the rows of their items."""
    row = nodes[node]
    path = path if node == 0 else (*path, row["token"])
    if not row["num_children"]:
        yield path, [*range(row["first_item"], row["first_item"] + row["num_items"])]
    for child in range(row["first_child"], row["first_child"] + row["num_children"]):
        yield from walk(nodes, child, path)


def test_the_export_has_each_items_tokens_and_the_trie_of_them(snapshot):
    folder, codes = snapshot
    assert export(folder) == 0
    about = json.loads((folder / "out" / "result.json").read_text())
    rows = pq.read_table(folder / "out" / "items.parquet").to_pylist()
    assert {row["item_idx"]: row["item_codes"] for row in rows} == dict(enumerate(codes.tolist()))
    for row in rows:
        assert row["item_id"] == f"item {row['item_idx']}"
        assert row["tokens"] == [SIZE * level + code for level, code in enumerate(row["item_codes"])]
    by_tokens = {}
    for place, row in enumerate(rows):
        by_tokens.setdefault(tuple(row["tokens"]), []).append(place)
    nodes = pq.read_table(folder / "out" / "trie.parquet").to_pylist()
    assert dict(walk(nodes)) == by_tokens
    prefixes = {tokens[:length] for tokens in by_tokens for length in range(LEVELS + 1)}
    assert about["nodes"] == len(nodes) == len(prefixes) and about["paths"] == len(by_tokens)
    assert about["collisions"] == sum(len(its) for its in by_tokens.values() if len(its) > 1) / ITEMS > 0
    assert (about["vocabulary"], about["offsets"], about["sizes"]) == (24, [0, 8, 16], [SIZE] * LEVELS)
    assert (folder / "out" / "codebook.json").read_bytes() == (folder / "codebook.json").read_bytes()


@pytest.mark.parametrize(
    ("levels", "said"),
    [([SIZE] * 2, "must have 2 codes each"), ([SIZE, SIZE, 2], "codes that the codebook .* has not")],
)
def test_another_codebook_than_that_of_the_items_is_refused(snapshot, levels, said, capsys):
    folder, _ = snapshot
    write_codebook(folder / "codebook.json", Codebook(tuple(np.eye(size, WIDTH) for size in levels)))
    assert export(folder) == 2
    assert not (folder / "out").exists()
    assert re.search(said, capsys.readouterr().err)
