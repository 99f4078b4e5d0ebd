"""The errors that end a command of the torch side, with their exit codes. Any other exception is a bug."""

import errno


class BadInput(ValueError):
    """An error that the caller can fix: in a spec, a folder, a file, or a package that is not installed."""

    exit_code = 2


class LossNotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the last good model has been saved."""

    exit_code = 3


class Busy(RuntimeError):
    """A folder is in use, or a disk is full; the same command may work later."""

    exit_code = 75


UNEXPECTED = 1
_FULL = ("No space left on device", "Disk quota exceeded")


def is_disk_full(error: BaseException | str) -> bool:
    """Whether an error, or its message, is that of a full disk. Libraries wrap the system's error in their own."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in _FULL)
