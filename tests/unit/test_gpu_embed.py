"""The GPU benchmark of the encoder, at a size that a CPU runs in a second."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.gpu_embed import main, real_flop


def test_every_contender_is_measured_and_written(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    tiny = ["--models", "tiny", "--tokens", "3000", "--rounds", "1", "--matmul-width", "64", "--batch-tokens", "512"]
    assert main([*tiny, "--device", "cpu", "--dtype", "float32", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert set(result["models"]["tiny"]) == {"padded", "ours", "sbert"}
    assert all(
        figures["tokens_s"] > 0 and figures["share_of_matmul"] > 0 for figures in result["models"]["tiny"].values()
    )


def test_flop_of_a_text_by_hand() -> None:
    config = BertConfig(vocab_size=9, hidden_size=4, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    attention, inner = 4 * 4 * 4, 2 * 4 * 8
    expected = 2 * (attention + inner) * 5 + 4 * 4 * (3**2 + 2**2)
    assert real_flop(BertModel(config), [[1, 2, 3], [4, 5]]) == pytest.approx(expected)
    assert torch.get_default_dtype() is torch.float32
