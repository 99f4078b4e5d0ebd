"""What systems that use a language model need beside vectors: the model, and the items' texts."""

from collections.abc import Mapping
from pathlib import Path

from learn_spark.bridge.snapshots import export, snapshot_folder
from learn_spark.config.load import Config
from learn_spark.embedding.encoders import model_source
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import current_texts
from learn_spark.errors import ConfigError
from learn_spark.runs.ledger import fingerprint_of
from learn_spark.runs.steps import Context
from models.contract.failures import BadInput
from models.contract.language_models import LanguageModelConfig
from models.contract.model_folder import CAUSAL, content_digest, locate
from models.contract.strict import parse_settings
from models.contract.whole_files import read_json


def language_model(config: Config, changes: Mapping[str, object]) -> LanguageModelConfig:
    """The language model, with the digest of its files: by default the text encoder's model.

    Args:
        config: its section `embedding` gives the default.
        changes: settings that differ from the defaults.

    Raises:
        ConfigError: there is no such model, or it is not a causal decoder.
        BadInput: the settings do not fit.
    """
    encoder = config.embedding
    own = {} if "model" in changes else {"model": encoder.model, "revision": encoder.revision, "dtype": encoder.dtype}
    settings = parse_settings(LanguageModelConfig, own | dict(changes), "llm")
    try:
        folder = locate(model_source(settings.model, config.lake.options), settings.revision)
        kind = read_json(folder / "config.json", f"model folder {folder}").get("model_type")
        if kind not in CAUSAL:
            raise ConfigError(
                f"{settings.model} is a {kind}, not a causal decoder ({', '.join(CAUSAL)}): set the system's"
                " model: {llm: {model: …}} to one, in comparison.define"
            )
        return settings.model_copy(update={"model": str(folder), "digest": content_digest(folder)})
    except BadInput as error:
        raise ConfigError(f"llm.model: {error}") from error


def item_texts(context: Context) -> Path:
    """A snapshot of the prompts of `embed_items` by item_idx; written once per version of the tables."""
    texts = current_texts(context, template(context.config.embedding.template))
    rows = texts.join(context.tables.read("item_index"), on="item_id").selectExpr("item_idx", "prompt AS text")
    version = context.tables.version("item_text")
    return export(context, rows, _texts_name(context), ("item_idx",), "item_text", version, seed=0)


def item_texts_folder(context: Context) -> Path:
    """The folder that `item_texts` writes."""
    return snapshot_folder(context, _texts_name(context))


def _texts_name(context: Context) -> str:
    versions = context.tables.versions(("item_text", "item_index"))
    return f"item-texts-{fingerprint_of(versions, template(context.config.embedding.template).version)}"
