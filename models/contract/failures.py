"""What ends a command of the torch side, each with its exit code; any other exception is a fault of the program."""


class BadInput(ValueError):
    """What who started the command can mend: a spec, a folder, a file, a package that is not installed."""

    exit_code = 2


class LossNotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the last good model has been saved."""

    exit_code = 3


UNEXPECTED = 1
