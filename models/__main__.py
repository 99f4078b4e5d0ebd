"""The torch side's own process: `python -m models <command> --spec spec.json`.

A command reads one JSON spec and writes into the spec's out_dir. Progress and errors go to stderr, nothing to stdout.
Exit codes: 0 done, 2 bad spec or data, 3 the loss is not finite (the last good model is saved), 75 the disk is full or
another process trains in the folder, 130 interrupted, 1 any other error (its traceback is in the out_dir's error.log).
A killed training resumes when the same command is run again. torchrun's own exit code says nothing about the cause, so
under torchrun the code and the reason are also written to failure.json, beside the spec.
"""

import argparse
import importlib
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from models.contract.commands import COMMANDS
from models.contract.failures import UNEXPECTED, BadInput, Busy, LossNotFiniteError, is_disk_full
from models.contract.only_writer import end_with_starter, only_writer
from models.contract.result import is_launched, write_error_log, write_failure
from models.contract.spec import Spec
from models.contract.training_specs import TrainingSpec


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models", description="The torch side of learn-spark.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, spec in COMMANDS.items():
        command = commands.add_parser(name, help=spec.help, description=spec.help)
        command.add_argument("--spec", type=Path, required=True, help="JSON file with paths and settings")
    args = parser.parse_args(argv)
    folder = args.spec.parent
    try:
        spec = COMMANDS[args.command].load(args.spec)
        folder = spec.out_dir
        with only_writer(folder) if _writes_alone(spec) else nullcontext():
            importlib.import_module(spec.module).run(spec)
    except (BadInput, LossNotFiniteError, Busy) as error:
        code, reason = error.exit_code, f"{args.command}: {error}"
    except KeyboardInterrupt:
        code, reason = 130, f"{args.command}: interrupted; the same command goes on where it stopped"
    except Exception as error:  # a fault of the program, or of the machine
        code, reason = _unexpected(args.command, error, folder)
    else:
        return 0
    print(reason, file=sys.stderr)
    if is_launched() and args.spec.parent.is_dir():
        with suppress(OSError):  # a full disk
            write_failure(args.spec.parent, code, reason)
    return code


def _writes_alone(spec: Spec) -> bool:
    """Whether this process must lock the folder: a training's first rank. Other commands have a folder of their own."""
    return isinstance(spec, TrainingSpec) and not (is_launched() and os.environ.get("RANK") != "0")


def _unexpected(command: str, error: Exception, folder: Path) -> tuple[int, str]:
    told = " ".join(f"{type(error).__name__}: {error}".split())
    if is_disk_full(error):
        return Busy.exit_code, f"{command}: no space left on device; free some under {folder}: {told}"
    return UNEXPECTED, f"{command}: {told} (traceback: {write_error_log(folder)})"


def leave(code: int) -> None:
    """Ends the process. A rank under torchrun ends by `os._exit`, which skips the interpreter's shutdown.

    DistributedDataParallel keeps its process group and gloo's threads until the process ends, even after the group was
    destroyed. If such a thread frees a tensor during the interpreter's shutdown, the rank aborts with its work done.
    """
    if not is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end_with_starter()
    leave(main())
