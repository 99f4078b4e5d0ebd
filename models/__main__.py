"""The torch side's own process: `python -m models <command> --spec spec.json`.

Commands read one JSON spec and write the spec's out_dir; progress and errors go to stderr, nothing to stdout.
Exit codes: 0 done, 2 bad spec or data, 3 the loss is not finite (the last good model is saved), 1 anything else, whose
traceback is in the out_dir's error.log. A training that was killed goes on when the same command is given again. Under
torchrun, whose own exit code tells nothing, the code and the reason are also written beside the spec, as failure.json.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from models.contract.commands import COMMANDS
from models.contract.failures import UNEXPECTED, BadInput, LossNotFiniteError
from models.contract.result import is_launched, write_error_log, write_failure


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
        importlib.import_module(spec.module).run(spec)
    except (BadInput, LossNotFiniteError) as error:
        code, reason = error.exit_code, f"{args.command}: {error}"
    except Exception as error:  # a fault of the program, or of the machine
        told = " ".join(f"{type(error).__name__}: {error}".split())
        code, reason = UNEXPECTED, f"{args.command}: {told} (traceback: {write_error_log(folder)})"
    else:
        return 0
    print(reason, file=sys.stderr)
    if is_launched() and args.spec.parent.is_dir():
        write_failure(args.spec.parent, code, reason)
    return code


def leave(code: int) -> None:
    """Ends the process; one of several ranks without the interpreter's own end.

    DistributedDataParallel keeps its process group, and gloo's threads, for as long as the process lives, destroyed
    or not; where one of them still frees a tensor while the interpreter ends, the rank aborts after its work is done.
    """
    if not is_launched():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
