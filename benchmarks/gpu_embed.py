"""Tokens/s of the encoder on a GPU, and their share of the matmul rate that the same run measures.

    python -m benchmarks.gpu_embed                                  # needs only torch and transformers
    python -m benchmarks.gpu_embed --models 7b --tokens 2000000 --output gpu.json

Models have the published shapes and random weights, so they cost the same as trained ones. Texts are random ids with
log-normal lengths, median 40 tokens, 8 to 256. Contenders are interleaved, and the best round counts: `ours` (batches
by length within a budget of tokens), `padded` (the texts in their given order, 32 per batch, padded to the longest)
and, if it is installed, `sbert` (sentence-transformers' own sorting, padding and pooling, given the same ids).
FLOP are counted as 2 per weight of a linear layer and token, and 4 x length x width per layer and token for attention;
causal models need half of the latter, which is not deducted. Only real tokens count, so padding lowers the share.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, BertConfig, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

from models.encoder.encoder import DTYPES, Encoder

MEDIAN, SPREAD, FEWEST, MOST = 40, 0.8, 8, 256
PADDED_BATCH = 32
MATMUL_WIDTH = 8192

_BAICHUAN2 = {"vocab_size": 125696, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
CONFIGS: dict[str, PretrainedConfig] = {
    "minilm": BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12),
    "0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
    ),
    "7b": LlamaConfig(hidden_size=4096, **_BAICHUAN2),
    "tiny": BertConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
}


@dataclass
class PadOnly:
    """A tokenizer for texts that are ids already."""

    pad_id: int = 0

    def ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """The ids, which the texts hold as words."""
        return [[int(word) for word in text.split()][:max_tokens] for text in texts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the given models, prints lines for each, and writes the figures as JSON."""
    options = _options(arguments)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    peak = matmul_rate(device, dtype, options.matmul_width)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    result = {"device": name, "dtype": options.dtype, "torch": torch.__version__, "matmul_tflop_s": peak / 1e12}
    print(f"{name}: matmul {peak / 1e12:.2f} TFLOP/s", file=sys.stderr)
    result["models"] = {}
    for model in options.models:
        result["models"][model] = measure(model, device, dtype, options, peak)
    written = json.dumps(result, indent=1)
    if options.output:
        options.output.write_text(written + "\n", encoding="utf-8")
    print(written)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_embed")
    parser.add_argument("--models", nargs="+", choices=sorted(CONFIGS), default=["minilm", "0.5b", "7b"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=500_000, help="real tokens a round, about")
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--matmul-width", type=int, default=MATMUL_WIDTH)
    parser.add_argument("--output", type=Path)
    return parser.parse_args(arguments)


def measure(
    name: str, device: torch.device, dtype: torch.dtype, options: argparse.Namespace, peak: float
) -> dict[str, dict[str, float]]:
    """Tokens/s of every contender, and its share of `peak` FLOP/s. Checks that all give the same vectors first."""
    model = random_model(CONFIGS[name], device, dtype)
    tokens = random_tokens(options.tokens, CONFIGS[name].vocab_size)
    flop = real_flop(model, tokens)  # before the encoder packs the linear layers on a CPU
    contenders = _contenders(model, tokens, options.batch_tokens)
    expected = contenders["padded"](tokens[:64])
    for contender, encode in contenders.items():
        difference = _largest_angle(encode(tokens[:64]), expected)
        if difference > 1e-2:
            raise RuntimeError(
                f"{name}: {contender} gives other vectors than the padded loop (1 - cosine {difference:.3g})"
            )
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(options.rounds):
        for contender, encode in contenders.items():
            start = time.perf_counter()
            encode(tokens)  # returns vectors on the CPU, so it waits for the device
            seconds[contender] = min(seconds[contender], time.perf_counter() - start)
    real = sum(map(len, tokens))
    figures = {
        contender: {"tokens_s": real / taken, "share_of_matmul": flop / taken / peak}
        for contender, taken in seconds.items()
    }
    for contender, values in figures.items():
        told = f"{values['tokens_s']:>12,.0f} tokens/s {values['share_of_matmul']:>6.1%} of matmul"
        print(f"{name:<8}{contender:<8}{told}", file=sys.stderr)
    return figures


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A random model of the config, made directly on the device in its dtype, so that a 7B model skips the host."""
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return AutoModel.from_config(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def random_tokens(total: int, vocabulary: int) -> list[list[int]]:
    """Texts (lists of ids) of log-normal length, together at least `total` ids."""
    random = np.random.default_rng(0)
    texts, made = [], 0
    while made < total:
        length = int(np.clip(random.lognormal(np.log(MEDIAN), SPREAD), FEWEST, MOST))
        texts.append(random.integers(1, vocabulary, length).tolist())
        made += length
    return texts


def matmul_rate(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """FLOP/s of a square matrix product, the best of ten runs."""
    left, right = torch.randn(2, width, width, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        _synchronize(device)
        start = time.perf_counter()
        left @ right
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best


def real_flop(model: PreTrainedModel, tokens: Sequence[Sequence[int]]) -> float:
    """FLOP that the real tokens need, without padding."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    pooler = getattr(model, "pooler", None)
    weights -= 0 if pooler is None else pooler.dense.weight.numel()  # it reads only one token per text
    lengths = np.array([len(ids) for ids in tokens], dtype=np.float64)
    config = model.config
    return float(2 * weights * lengths.sum() + 4 * config.num_hidden_layers * config.hidden_size * (lengths**2).sum())


Encode = Callable[[Sequence[Sequence[int]]], np.ndarray]


def _contenders(model: PreTrainedModel, tokens: Sequence[Sequence[int]], batch_tokens: int) -> dict[str, Encode]:
    encoder = Encoder(model, PadOnly(), "mean", MOST)
    found = {
        "padded": lambda rows: _padded_loop(model, rows),
        "ours": lambda rows: encoder.encode_tokens(rows, batch_tokens),
    }
    if find_spec("sentence_transformers"):
        found["sbert"] = _sentence_transformer(model)
    return found


@torch.inference_mode()
def _padded_loop(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    vectors = []
    for start in range(0, len(rows), PADDED_BATCH):
        batch = rows[start : start + PADDED_BATCH]
        inputs = {name: values.to(model.device) for name, values in _padded(batch).items()}
        hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        vectors.append(((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy())
    return np.concatenate(vectors)


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _sentence_transformer(model: PreTrainedModel) -> Encode:
    """sentence-transformers' `encode` with the same model. Texts are ids as words, so it sorts and pads as usual."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    class Given(torch.nn.Module):
        """The module by which sentence-transformers tokenises and runs the model."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.max_seq_length = MOST

        def tokenize(self, texts: Sequence[str], **_: object) -> dict[str, torch.Tensor]:
            return _padded(PadOnly().ids(texts, MOST))

        preprocess = tokenize

        def forward(self, features: dict[str, torch.Tensor], **_: object) -> dict[str, torch.Tensor]:
            inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
            return features | {"token_embeddings": self.model(**inputs).last_hidden_state.float()}

        def save(self, *_: object, **__: object) -> None:
            raise NotImplementedError

    whole = SentenceTransformer(modules=[Given(), Pooling(model.config.hidden_size)], device=str(model.device))
    return lambda rows: whole.encode([" ".join(map(str, ids)) for ids in rows], batch_size=PADDED_BATCH)


def _largest_angle(found: np.ndarray, expected: np.ndarray) -> float:
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    return float(1 - cosine.min())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
