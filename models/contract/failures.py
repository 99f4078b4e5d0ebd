"""What ends a command of the torch side, each with its exit code; any other exception is a fault of the program."""

import errno


class BadInput(ValueError):
    """What who started the command can mend: a spec, a folder, a file, a package that is not installed."""

    exit_code = 2


class LossNotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the last good model has been saved."""

    exit_code = 3


class Busy(RuntimeError):
    """Something outside is busy or full; the same command may work later."""

    exit_code = 75


UNEXPECTED = 1
_FULL = ("No space left on device", "Disk quota exceeded")


def is_disk_full(error: BaseException | str) -> bool:
    """Whether an error, or what it says, is that of a full disk; libraries wrap the system's own in theirs."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in _FULL)
