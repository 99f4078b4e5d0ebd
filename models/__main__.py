"""The torch side's own process: `python -m models <command> --spec spec.json`.

Commands read one JSON spec and write the spec's out_dir; progress and errors go to stderr, nothing to stdout.
Exit codes: 0 done, 2 bad spec or data, 3 the loss is not finite (the last good model is saved). A training that
was killed goes on when the same command is given again. Under torchrun, whose own exit code tells nothing, the
code and the reason are also written beside the spec, as failure.json.
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

# command: (module with `run(spec)`, its spec class, help); the module is imported when it is asked for.
COMMANDS = {
    "train-towers": ("models.training.train_towers", "TowersSpec", "train user and item towers"),
    "train-sequential": (
        "models.training.train_sequential",
        "SequentialSpec",
        "train a sequential baseline by item ids",
    ),
    "train-notellm": ("models.training.train_notellm", "NoteLLMSpec", "train a text encoder on items that go together"),
    "train-prompts": ("models.training.train_prompts", "PromptSpec", "train a language model on histories as prompts"),
    "train-cvr": ("models.training.train_cvr", "CVRSpec", "train the conversion model"),
    "export-online": (
        "models.export.online_programs",
        "OnlineSpec",
        "write towers and conversion model as programs for a server",
    ),
    "export-vectors": (
        "models.export.item_vectors",
        "VectorsSpec",
        "write item vectors for retrieval: an index, smaller copies",
    ),
    "evaluate-systems": ("models.evaluation.evaluate_systems", "SystemsSpec", "measure retrieval systems side by side"),
    "evaluate-ranker": (
        "models.evaluation.evaluate_ranker",
        "RankerSpec",
        "measure what the embeddings bring a ranker",
    ),
}
BAD_INPUT, LOSS_NOT_FINITE = 2, 3
FAILURE = "failure.json"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models", description="The torch side of learn-spark.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, _, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--spec", type=Path, required=True, help="JSON file with paths and settings")
    args = parser.parse_args(argv)
    module_name, spec_name, _ = COMMANDS[args.command]

    module = importlib.import_module(module_name)  # first: the ranker's must come before torch

    from models.contract.strict import load_spec
    from models.training.trainer import LossNotFiniteError

    try:
        module.run(load_spec(args.spec, getattr(module, spec_name)))
    except ValueError as error:
        return _failed(BAD_INPUT, f"{args.command}: {error}", args.spec)
    except LossNotFiniteError as error:
        return _failed(LOSS_NOT_FINITE, f"{args.command}: {error}", args.spec)
    return 0


def _failed(code: int, reason: str, spec: Path) -> int:
    from models.training.distributed import is_launched

    print(reason, file=sys.stderr)
    if is_launched() and spec.parent.is_dir():
        partial = spec.with_name(f".{FAILURE}.{os.getpid()}")
        partial.write_text(json.dumps({"code": code, "reason": reason}), encoding="utf-8")
        partial.replace(spec.with_name(FAILURE))
    return code


def leave(code: int) -> None:
    """Ends the process; one of several ranks without the interpreter's own end.

    DistributedDataParallel keeps its process group, and gloo's threads, for as long as the process lives, destroyed
    or not; where one of them still frees a tensor while the interpreter ends, the rank aborts after its work is done.
    """
    distributed = sys.modules.get(
        "models.training.distributed"
    )  # who does not train needs no torch, and has not loaded it
    if distributed is None or not distributed.is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
