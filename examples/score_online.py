"""One user and his or her candidates, scored in one stateless process without learn_spark or models; prints latencies.

    learn-spark export_online --config conf/demo.yaml --out build/online
    python examples/score_online.py --programs build/online --matrix build/demo/lake/_artifacts/matrix/<key>

Needs numpy, and torch (`--format pt2`) or onnxruntime (`--format onnx`). Without `--matrix` content vectors are random;
the times are the same.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Program = Callable[..., list[np.ndarray]]
NAMES = ("user_tower", "item_tower", "cvr")


def main(argv: Sequence[str] | None = None) -> int:
    """Scores again and again; prints the best candidates and the time of each part, in milliseconds."""
    args = arguments().parse_args(argv)
    about = json.loads((args.programs / "result.json").read_text(encoding="utf-8"))
    user_tower, item_tower, cvr = (loaded(args, name, about["programs"][name]) for name in NAMES)
    hist, hist_content, cand, cand_content = request(args, about["sizes"])
    took: dict[str, list[float]] = {"user": [], "items": [], "cvr": [], "all": []}
    for _ in range(args.repeats):
        at = [time.perf_counter()]
        (user_1K,) = user_tower(hist_content[None], hist[None], np.array([len(hist)]))
        at.append(time.perf_counter())
        (item_NK,) = item_tower(cand_content, cand)
        at.append(time.perf_counter())
        _, score_N = cvr(np.repeat(user_1K, len(item_NK), axis=0), item_NK)
        at.append(time.perf_counter())
        for name, seconds in zip(took, [*np.diff(at), at[-1] - at[0]], strict=True):
            took[name].append(1000 * seconds)
    best_n = np.argsort(-score_N)[:5]
    print("best candidates:", ", ".join(f"{cand[n]} ({score_N[n]:.4f})" for n in best_n))
    print(
        f"{args.format}, {args.threads} threads: {len(hist)} items of history, {len(cand)} candidates, ms per request"
    )
    for name, values in took.items():
        p50, p95 = np.percentile(values[len(values) // 5 :], [50, 95])  # the first ones warm up
        print(f"  {name:<6} p50 {p50:7.2f}  p95 {p95:7.2f}")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True, help="the folder of export_online")
    parser.add_argument("--matrix", type=Path, help="the content matrix's folder")
    parser.add_argument("--format", choices=("pt2", "onnx"), default="pt2")
    parser.add_argument("--history", type=int, default=50, help="items of the user's history (50)")
    parser.add_argument("--candidates", type=int, default=500, help="items to score (500)")
    parser.add_argument("--repeats", type=int, default=100, help="requests (100)")
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (1)")
    return parser


def loaded(args: argparse.Namespace, name: str, program: dict) -> Program:
    """A program as a function of numpy arrays."""
    file = str(args.programs / program["files"][args.format])
    if args.format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda *values: session.run(None, dict(zip(program["inputs"], values, strict=True)))
    import torch

    torch.set_num_threads(args.threads)
    module = torch.export.load(file).module()

    def run(*values: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(value) for value in values))
        return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]

    return run


def request(args: argparse.Namespace, sizes: dict[str, int]) -> tuple[np.ndarray, ...]:
    """item_idx and content of a made-up user's history and candidates."""
    rng = np.random.default_rng(0)
    hist_len = min(args.history, sizes["max_history"])
    if args.matrix is None:
        hist, cand = np.arange(1, hist_len + 1), np.arange(1, args.candidates + 1)
        vectors = rng.normal(size=(max(hist_len, args.candidates) + 1, sizes["content_dim"]))
    else:
        meta = json.loads((args.matrix / "meta.json").read_text(encoding="utf-8"))
        file = args.matrix / meta.get("vectors", "vectors.f16")
        vectors = np.memmap(file, dtype="<f2", mode="r", shape=(meta["rows"], meta["dim"]))
        hist, cand = rng.integers(1, meta["rows"], hist_len), rng.integers(1, meta["rows"], args.candidates)
    return hist, vectors[hist].astype(np.float32), cand, vectors[cand].astype(np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
