"""The codebook of a release's item codes, and the earlier release whose items keep their codes.

Codes are named by the space and by `features.codes`. All releases with codes of one name share one codebook. It is
written when the first of these releases has passed its gates, and never again.
"""

from pathlib import Path

from pyspark.sql import functions as F

from learn_spark.errors import ConfigError
from learn_spark.lake.schemas import RELEASES
from learn_spark.lake.tables import Tables
from learn_spark.releases.registry import FAILED, Release, newest_release
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from models.contract.codebook import CODEBOOK, Codebook, read_codebook
from models.contract.failures import BadInput
from models.contract.settings import identity
from models.contract.verified import file_digest

CODES, DIGEST = "codes", "codebook"  # among a release's models: the codes' name, SHA-256 of the codebook's file
FOLDER = "codes"
_MODELS = ("towers", "cvr")


def codes_of(context: Context, space: str) -> dict[str, str]:
    """The name of this config's codes in a space of towers, under `CODES`; empty if `features.codes` is off."""
    settings = context.config.features.codes
    return {CODES: fingerprint_of(space, identity(settings))} if settings else {}


def codebook_file(tables: Tables, name: str) -> Path:
    """The path of the codebook of these codes, which may not exist yet."""
    return tables.artifacts.path(FOLDER, name) / CODEBOOK


def known_codebook(tables: Tables, name: str) -> Codebook | None:
    """The codebook of these codes; None if it has not been fitted yet.

    Raises:
        ConfigError: releases have the codes, but their codebook is gone or has changed.
    """
    file = codebook_file(tables, name)
    known = _recorded(tables, name)
    if known is None and not file.is_file():
        return None
    try:
        codebook = read_codebook(file)
    except BadInput as error:
        raise _lost(name, str(error).partition(";")[0]) from None
    if known is not None and file_digest(file) != known:
        raise _lost(name, f"{file} is another one than that of the releases")
    return codebook


def codebook_of(tables: Tables, release: Release) -> Codebook:
    """The codebook of a release.

    Raises:
        ConfigError: the release has no codes, or their codebook is gone or has changed.
    """
    if CODES not in release.models:
        raise ConfigError(
            f"release {release.release_id} has no item codes: set features.codes and run_pipeline --restate"
        )
    codebook = known_codebook(tables, release.models[CODES])
    assert codebook is not None, "a release names its codebook"
    return codebook


def codes_before(tables: Tables, models: dict[str, str]) -> Release | None:
    """The newest release with the same codes but other models, whose items keep their codes; None if there is none."""
    if CODES not in models:
        return None
    name = {CODES: models[CODES]}
    found = [newest_release(tables, name, without={model: models[model]}) for model in _MODELS]
    return max(filter(None, found), key=lambda release: str(release.published_at), default=None)


def _recorded(tables: Tables, name: str) -> str | None:
    """SHA-256 of the codebook by the releases with these codes, also withdrawn and expired ones; None without any."""
    model = F.col("model_versions")
    rows = tables.read(RELEASES.name).where((F.col("status") != FAILED) & (model[CODES] == name))
    found = rows.select(model[DIGEST].alias("digest")).first()
    return found.digest if found else None


def _lost(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"the codebook of the item codes {name} cannot be used ({why}), and no other gives new items fitting codes:"
        f" bring the file back from a backup or from a folder of export_codes, or begin new codes by another"
        f" features.codes.seed and run_pipeline --restate"
    )
