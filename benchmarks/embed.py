"""MiniLM on product texts, two threads: ours against sentence-transformers, OpenVINO, and the matrix products alone.

Sizes are the median tokens per text: 8, short names (3 to 24 tokens), and 40, mixed texts (8 to 256); both log-normal,
20,000 texts each (quick: 300). There are two separate tracks. Exact contenders must come within 1e-5 of
sentence-transformers' fp32 vectors. Faithful ones must reach a cosine of 0.999 to them and keep 99% of the ten nearest
neighbours. A contender that does not is recorded as failed, without a ratio.
OpenVINO stands for sentence-transformers' other backends, whose package (optimum) does not accept this version of
transformers. Its compiled model gets our tokens and batches.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import minilm
from benchmarks.child import Task
from benchmarks.harness import Benchmark, Contender, main
from benchmarks.ratios import Ratio, Target

BATCH_SIZES = (16, 32, 64, 128)
TRIED = 512  # texts on which sentence-transformers' best batch size is found
LARGEST_DIFFERENCE, LEAST_COSINE, LEAST_OVERLAP, NEIGHBOURS, QUERIES = 1e-5, 0.999, 0.99, 10, 1000

EXACT, FAITHFUL = "benchmarks.embed:check_exact", "benchmarks.embed:check_faithful"
BENCH = Benchmark(
    name="embed",
    sizes=tuple(minilm.RANGES),
    quick_sizes=tuple(minilm.RANGES),
    prepare="benchmarks.minilm:prepare",
    contenders=(
        Contender("ours", "benchmarks.embed:ours", EXACT),
        Contender("sbert", "benchmarks.embed:with_sentence_transformers", EXACT),
        Contender("openvino", "benchmarks.embed:with_openvino", EXACT),
        Contender("matmuls", "benchmarks.embed:matmuls", "benchmarks.embed:check_nothing"),
        Contender("ours_bf16", "benchmarks.embed:ours_bf16", FAITHFUL),
        Contender("openvino_bf16", "benchmarks.embed:with_openvino_bf16", FAITHFUL),
    ),
    ratios=(
        Ratio("sbert", "ours", Target(">=", 1.5)),
        Ratio("matmuls", "ours", Target(">=", 0.85)),
        Ratio("openvino", "ours"),
        Ratio("sbert", "ours_bf16", Target(">=", 4.5)),
        Ratio("openvino_bf16", "ours_bf16", Target(">=", 1.2)),
    ),
)


def ours(task: Task) -> None:
    """This project's encoder in fp32."""
    _encode(task, "float32")


def ours_bf16(task: Task) -> None:
    """This project's encoder in bf16."""
    _encode(task, "bfloat16")


def with_sentence_transformers(task: Task) -> None:
    """sentence-transformers' `encode`, at the batch size that is fastest on the first texts on this machine."""
    import time

    model, texts = minilm.sentence_transformer(), minilm.texts_of(task)
    seconds = {}
    for size in BATCH_SIZES:
        start = time.perf_counter()
        model.encode(texts[:TRIED], batch_size=size)
        seconds[size] = time.perf_counter() - start
    best = min(seconds, key=seconds.get)
    with task.clock():
        vectors = model.encode(texts, batch_size=best)
    task.figures["batch_size"] = best
    _save(task, vectors)


def with_openvino(task: Task) -> None:
    """OpenVINO's compiled model in fp32, on our tokens and batches."""
    _run_openvino(task, "f32")


def with_openvino_bf16(task: Task) -> None:
    """OpenVINO's compiled model in bf16."""
    _run_openvino(task, "bf16")


def matmuls(task: Task) -> None:
    """Only the matrix products of ours: the same shapes in the same order, through the same oneDNN calls."""
    torch = minilm.torch_on_two_threads()
    from transformers import AutoConfig

    from models.encoder.batching import pack_by_length
    from models.encoder.packed import PackedLinear

    config = AutoConfig.from_pretrained(minilm.FOLDER)
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    square, up, down = (
        PackedLinear(torch.nn.Linear(*shape)) for shape in ((width, width), (width, inner), (inner, width))
    )
    lengths = [len(ids) for ids in minilm.load_encoder("float32").tokenize(minilm.texts_of(task))]
    with task.clock(), torch.inference_mode():
        for rows in pack_by_length(lengths, minilm.BATCH_TOKENS):
            longest = lengths[rows[0]]
            hidden = torch.rand(len(rows), longest, width)
            scores = hidden.view(-1, longest, width // heads)
            for _ in range(config.num_hidden_layers):
                for _ in range(4):
                    square(hidden)
                down(up(hidden))
                torch.bmm(torch.bmm(scores, scores.transpose(1, 2)), scores)


def check_exact(task: Task) -> None:
    """Checks that vectors are within 1e-5 of sentence-transformers'."""
    expected, found = _vectors(task)
    minilm.verdict(task, np.abs(found - expected).max() <= LARGEST_DIFFERENCE, f"{np.abs(found - expected).max():.2g}")


def check_faithful(task: Task) -> None:
    """Checks cosines to sentence-transformers' vectors, and the overlap of nearest neighbours of the first texts."""
    expected, found = (minilm.unit(vectors) for vectors in _vectors(task))
    cosine = (expected * found).sum(axis=1).min()
    before, after = (_neighbours(vectors) for vectors in (expected, found))
    overlap = np.mean([len(set(left) & set(right)) / NEIGHBOURS for left, right in zip(before, after, strict=True)])
    task.figures |= {"cosine": float(cosine), "neighbours": float(overlap), "checksum": "faithful"}
    if cosine < LEAST_COSINE or overlap < LEAST_OVERLAP:
        task.figures["failure"] = f"not faithful: cosine {cosine:.5f}, neighbours {overlap:.4f}"


def check_nothing(task: Task) -> None:
    """Checks nothing, because bare products give no vectors."""
    task.figures["checksum"] = "none"


def _encode(task: Task, dtype: str) -> None:
    encoder, texts = minilm.load_encoder(dtype), minilm.texts_of(task)
    encoder.encode(texts[:64], minilm.BATCH_TOKENS)
    with task.clock():
        vectors, _ = encoder.encode(texts, minilm.BATCH_TOKENS)
    _save(task, vectors)


def _run_openvino(task: Task, precision: str) -> None:
    from models.encoder.batching import pack_by_length

    tokenize, run = minilm.load_encoder("float32").tokenize, _compiled(precision)
    texts = minilm.texts_of(task)
    run([[101, 102]])
    with task.clock():
        tokens = tokenize(texts)
        vectors = np.empty((len(tokens), 384), dtype=np.float32)
        for rows in pack_by_length([len(ids) for ids in tokens], minilm.BATCH_TOKENS):
            vectors[rows] = run([tokens[row] for row in rows])
    _save(task, vectors)


def _compiled(precision: str) -> Callable[[Sequence[Sequence[int]]], np.ndarray]:
    """A function from token lists to their mean-pooled vectors, by OpenVINO's compiled model."""
    torch = minilm.torch_on_two_threads()
    import openvino
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(minilm.FOLDER).eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None].float()
            return (hidden * mask).sum(1) / mask.sum(1)

    example = {name: torch.ones(2, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    model = openvino.convert_model(Pooled(), example_input=example)
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": minilm.THREADS}
    compiled = openvino.compile_model(model, "CPU", settings)

    def run(tokens: Sequence[Sequence[int]]) -> np.ndarray:
        lengths = np.array([len(ids) for ids in tokens])
        ids = np.zeros((len(tokens), lengths.max()), dtype=np.int64)
        for row, row_ids in enumerate(tokens):
            ids[row, : len(row_ids)] = row_ids
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return compiled({"input_ids": ids, "attention_mask": mask})[0]

    return run


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    scores = vectors[:QUERIES] @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def _vectors(task: Task) -> tuple[np.ndarray, np.ndarray]:
    return minilm.vectors_of(task), np.load(task.output / "vectors.npy")


def _save(task: Task, vectors: np.ndarray) -> None:
    task.output.mkdir(parents=True)
    np.save(task.output / "vectors.npy", vectors)


if __name__ == "__main__":
    sys.exit(main(BENCH))
