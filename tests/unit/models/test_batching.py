"""Batches by length, and what happens when memory runs out."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.prefetch import prefetched
from models.encoder.batching import pack_by_length, run_batches, shared_prefix
from models.encoder.encoder import Encoder
from models.encoder.packed import PackedLinear, pack_linears
from tests.builders.encoders import save_tiny_llama

TOKENS = [[2, 3, 4], [5] * 40, [6, 7], [8] * 9, [9] * 12, [2, 3, 4], [3]]


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return Encoder.load(save_tiny_llama(tmp_path), None, "mean", 64, "float32", "cpu")


def run_out_above(encoder: Encoder, tokens: int, seen: list[int]) -> None:
    """Makes the model raise torch's out-of-memory error for more than `tokens` padded tokens."""

    def check(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(kwargs["input_ids"].numel())
        if seen[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    encoder._model.register_forward_pre_hook(check, with_kwargs=True)


def test_pack_by_length_keeps_the_budget_and_loses_nobody() -> None:
    lengths = [5, 64, 3, 0, 17, 5, 9, 100]
    batches = [rows.tolist() for rows in pack_by_length(lengths, 64)]
    assert sorted(sum(batches, [])) == [0, 1, 2, 4, 5, 6, 7]
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 64
    assert [lengths[row] for row in sum(batches, [])] == [100, 64, 17, 9, 5, 5, 3]


def test_where_memory_runs_out_batches_shrink_and_vectors_stay(encoder: Encoder) -> None:
    expected = encoder.encode_tokens(TOKENS, 512)
    seen, too_large = [], []
    run_out_above(encoder, 40, seen)
    vectors = encoder.encode_tokens(TOKENS, 512, too_large)
    assert max(seen) > 40 and min(seen) <= 40
    assert not too_large
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_row_that_does_not_fit_alone_is_named_and_loses_no_other(encoder: Encoder) -> None:
    expected = encoder.encode_tokens(TOKENS, 512)
    too_large = []
    run_out_above(encoder, 11, [])
    vectors = encoder.encode_tokens(TOKENS, 512, too_large)
    assert too_large == [1, 4]
    assert np.isnan(vectors[too_large]).all()
    rest = [0, 2, 3, 5, 6]
    np.testing.assert_allclose(vectors[rest], expected[rest], atol=1e-5)


def test_memory_of_the_machine_counts_too() -> None:
    def work(rows: np.ndarray) -> None:
        torch.empty(1 << 62, dtype=torch.uint8)

    assert run_batches(work, [3, 1], 8) == [0, 1]


def test_another_error_is_not_taken_for_memory(encoder: Encoder) -> None:
    with pytest.raises(IndexError, match="index out of range"):
        encoder.encode_tokens([[10_000]], 64)


def test_equal_texts_are_read_once(encoder: Encoder) -> None:
    seen = []
    run_out_above(encoder, 512, seen)
    vectors = encoder.encode_tokens([[2, 3, 4]] * 100_000, 512)
    assert seen == [3]
    assert (vectors == vectors[0]).all()


@pytest.mark.parametrize(
    ("rows", "shared"), [([], 0), ([(1, 2, 3)], 2), ([(1, 2), (1, 2, 3)], 1), ([(1, 2, 9), (1, 2, 4, 1)], 2), ([()], 0)]
)
def test_shared_prefix_leaves_every_row_a_token(rows: list[tuple[int, ...]], shared: int) -> None:
    assert shared_prefix(rows) == shared


def test_the_next_item_is_made_while_one_is_used() -> None:
    second_is_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_is_made.set()
        yield 2

    ahead = prefetched(items(), depth=1)
    assert next(ahead) == 1
    assert second_is_made.wait(timeout=10)
    assert list(ahead) == [2]


def test_an_error_ahead_comes_with_its_item() -> None:
    ahead = prefetched((1 // (2 - number) for number in range(4)), depth=1)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_packed_linear_is_the_linear_layer(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        linear = torch.nn.Linear(96, 40, bias=bias, dtype=dtype)
        packed = torch.nn.Sequential(linear)
        pack_linears(packed)
        is_packed = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        assert isinstance(packed[0], PackedLinear) == is_packed
        inputs = torch.randn(3, 7, 96, dtype=dtype)
        with torch.inference_mode():
            torch.testing.assert_close(packed(inputs), linear(inputs), atol=tolerance, rtol=0)
