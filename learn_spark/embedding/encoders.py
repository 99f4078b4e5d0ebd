"""The encoder that the config asks for: its folder, and the id under which its vectors are stored."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from learn_spark.config.load import Config
from learn_spark.errors import ConfigError
from learn_spark.lake.folder_copies import folder_copy
from learn_spark.storage import SCHEME, Location, place_of
from models.contract import model_folder
from models.contract.failures import BadInput

PACKAGE_PREFIX = "package:"
VERSION = 1  # of the encoding: raise it when vectors would differ, so that they get another id


def encoder_id(config: Config) -> str:
    """The name under which this config's vectors are stored: equal on every machine for equal files and settings.

    Raises:
        ConfigError: the model cannot be found, or lacks a file or the layer.
    """
    settings = config.embedding
    folder = model_dir(config)
    asked = (settings.revision, settings.pooling, settings.max_tokens, settings.dtype)
    try:
        layer = model_folder.early_stop(folder, settings.layer)
    except BadInput as error:
        raise ConfigError(f"embedding.{error}") from error
    try:
        made_by = model_folder.encoder_id(folder, *asked, layer)
    except BadInput as error:
        raise ConfigError(f"embedding.model: {error}") from error
    return made_by if VERSION == 1 else f"{made_by}-v{VERSION}"


def model_dir(config: Config) -> Path:
    """The checked folder of the config's model.

    Raises:
        ConfigError: the model cannot be found or lacks a file.
    """
    try:
        return model_folder.locate(model_source(config.embedding.model, config.lake.options), config.embedding.revision)
    except BadInput as error:
        raise ConfigError(f"embedding.model: {error}") from error


@cache
def _brought(place: Location) -> Path:
    """The model's local copy; the store is asked once per process, so the model cannot change while it runs."""
    return folder_copy(place)


def model_source(model: str, options: Mapping[str, Any] | None = None) -> str:
    """Resolves `embedding.model`: a local folder or hub name stays, a folder in a store is copied to this machine.

    `package:NAME/FOLDER` becomes the folder in that installed package, which is located without importing it.

    Args:
        model: as in the config.
        options: how stores are reached.

    Raises:
        ConfigError: the package or the folder does not exist.
    """
    if SCHEME.match(model):
        try:
            place = place_of(model, options)
        except ValueError as error:
            raise ConfigError(f"embedding.model: {error}") from None
        return str(_brought(place) if isinstance(place, Location) else place)
    if not model.startswith(PACKAGE_PREFIX):
        return model
    package, _, inner = model.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"embedding.model {model}: package {package} is not installed; run pip install {package.replace('_', '-')}"
        )
    folder = Path(spec.submodule_search_locations[0], inner)
    if not folder.is_dir():
        raise ConfigError(f"embedding.model {model}: package {package} holds no folder {inner!r}")
    return str(folder)
