"""The errors that a job reports, each with the exit code a scheduler acts on."""


class LearnError(Exception):
    """Base of everything a job raises on purpose; `exit_code` tells the scheduler what to do."""

    exit_code = 1


class ConfigError(LearnError):
    """A wrong config, argument or input layout; retrying cannot help."""

    exit_code = 2


class QualityError(LearnError):
    """A data-quality gate stopped the job before anything was published."""

    exit_code = 3


class ReleaseRefused(QualityError):
    """A release stopped at its gates; its row in `releases` has the figures, and the report shows them."""


class TemporaryError(LearnError):
    """Something outside is busy or full; the same command may work later."""

    exit_code = 75


NOTHING_TO_DO = 99
