"""Baichuan2-7B's equations for one text, written out with the model's weight names (arXiv 2309.10305, section 2)."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def last_hidden_states(folder: Path, ids: list[int]) -> Tensor:
    """Hidden states [L, D] after the last norm, in double precision."""
    config = json.loads((folder / "config.json").read_text())
    weights = {}
    for shard in folder.glob("*.safetensors"):
        weights |= {name: values.double() for name, values in load_file(shard).items()}
    hidden = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        part = {
            name.removeprefix(f"model.layers.{layer}."): values
            for name, values in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = rms_norm(hidden, part["input_layernorm.weight"], config["rms_norm_eps"])
        packed = normed @ part["self_attn.W_pack.weight"].T
        hidden = hidden + attention(packed, config["num_attention_heads"]) @ part["self_attn.o_proj.weight"].T
        normed = rms_norm(hidden, part["post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate = normed @ part["mlp.gate_proj.weight"].T
        up = normed @ part["mlp.up_proj.weight"].T
        hidden = hidden + (gate * torch.sigmoid(gate) * up) @ part["mlp.down_proj.weight"].T
    return rms_norm(hidden, weights["model.norm.weight"], config["rms_norm_eps"])


def attention(packed: Tensor, heads: int) -> Tensor:
    """Causal softmax attention of each head over rotated queries and keys."""
    length, width = packed.shape[0], packed.shape[1] // 3
    size = width // heads
    outputs = []
    for head in range(heads):
        query, key, value = (
            packed[:, part * width + head * size : part * width + (head + 1) * size] for part in range(3)
        )
        scores = rotated(query) @ rotated(key).T / size**0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        outputs.append(torch.softmax(scores.masked_fill(future, float("-inf")), dim=1) @ value)
    return torch.cat(outputs, dim=1)


def rotated(vectors: Tensor) -> Tensor:
    """Rotary embedding: features i and i + d/2 of position p are rotated by the angle p / 10000^(2i/d)."""
    length, size = vectors.shape
    half = size // 2
    angles = torch.arange(length).double()[:, None] / 10000 ** (2 * torch.arange(half).double() / size)
    left, right = vectors[:, :half], vectors[:, half:]
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=1)


def rms_norm(vectors: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm over the last axis."""
    return vectors / (vectors.pow(2).mean(dim=-1, keepdim=True) + epsilon).sqrt() * weight
