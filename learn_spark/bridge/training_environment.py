"""Where a training process finds Petastorm: in an environment of its own, beside the main one and its newer pyarrow."""

import importlib.util
import sys
from pathlib import Path

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from models.contract.settings import StreamConfig

FOLDER = "petastorm"
_NEEDED = ("petastorm", "pyarrow", "numpy", "pandas")
PACKAGES = (  # the same as in constraints-petastorm.txt, which is not part of an installed package
    *("petastorm==0.13.1", "pyarrow==14.0.2", "numpy==1.26.4", "pandas==2.2.3", "dill==0.4.1", "diskcache==5.6.3"),
    *("future==1.0.0", "pyzmq==27.3.0", "six==1.17.0"),
)


def packages_first(stream: StreamConfig, environment: Path | None) -> list[str]:
    """Folders that must come first on the import path of a training process on this machine.

    Args:
        stream: how the process reads its rows; only Petastorm needs such a folder.
        environment: `training.environment`.

    Raises:
        ConfigError: Petastorm is needed and not found.
    """
    if stream.reader != "petastorm":
        return []
    folder = environment.absolute() if environment else Path(sys.prefix) / FOLDER
    if all((folder / name).is_dir() for name in _NEEDED):
        return [str(folder)]
    if environment is None and _is_held_here():
        return []
    raise ConfigError(
        f"stream.reader is petastorm, but {folder} does not hold {', '.join(_NEEDED)}: choose stream.reader: arrow (the"
        " same rows), let training.environment name such a folder, or make it: `make setup`, or"
        f" pip install --no-deps --target {folder} {' '.join(PACKAGES)}"
    )


def require_petastorm(config: Config) -> None:
    """Checks that a training step will find Petastorm on this machine if it needs it; executors check for themselves.

    Raises:
        ConfigError: Petastorm is needed and not found.
    """
    if config.launch.launcher != "spark":
        packages_first(config.stream, config.training.environment)


def _is_held_here() -> bool:
    """Whether the main environment can run Petastorm, which imports a pyarrow module that pyarrow 15 removed."""
    return (
        importlib.util.find_spec("petastorm") is not None and importlib.util.find_spec("pyarrow.filesystem") is not None
    )
