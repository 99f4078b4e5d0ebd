"""The content embedding stage: item texts, vectors of the new ones, the matrix that the models read."""

import time
from collections.abc import Collection, Sequence
from datetime import date

from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.matrix import extend_matrix, matrix_path, planned_extension
from learn_spark.embedding.prompts import template
from learn_spark.embedding.store import encode_new_texts, require_few_bad, write_item_text
from learn_spark.embedding.vector_health import require_health
from learn_spark.errors import ConfigError
from learn_spark.runs.ledger import StepResult
from learn_spark.runs.steps import Context
from models.contract.content_matrix import open_matrix
from models.contract.failures import BadInput


def lost_matrix(context: Context, days: Collection[date]) -> Collection[date]:
    """The given days if the content matrix is not whole, else none."""
    try:
        open_matrix(matrix_path(context))
    except BadInput:
        return days
    return ()


def embed_items(context: Context, days: Sequence[date]) -> StepResult:
    """Gives every item first seen before the last of `days` a text, a vector and a row of the matrix.

    Reads items and item_index; writes item_text, content_embeddings and the content matrix. Only new texts are encoded:
    the model never reads a text again that any item has had under this encoder.

    Raises:
        ConfigError: there are no items, or the encoder, template, GPUs or reduction cannot be used.
        QualityError: the encoder has changed, too many texts have no usable vector, the vectors are not healthy, or the
            matrix's reduction is lost. New vectors are kept, the matrix stays as it was.
    """
    settings = context.config.embedding
    chosen = template(settings.template)
    encoder = encoder_id(context.config)
    texts = write_item_text(context, chosen, before=max(days))
    if not texts.items:
        raise ConfigError(f"there are no items before {max(days)}: run ingest_events first")
    started = time.monotonic()
    encoded = encode_new_texts(context, chosen, encoder)
    seconds = time.monotonic() - started
    bad = require_few_bad(context, chosen, encoder, texts.texts)
    extension = planned_extension(context, chosen, encoder, max(days))
    gates = encoded.gates
    if extension.is_needed:
        with extension.held():
            gates = [*gates, *require_health(extension, settings)]
            extend_matrix(extension)
    return StepResult(
        rows_in=texts.items,
        rows_out=encoded.texts,
        details={
            "items": texts.items,
            "texts": texts.texts,
            "texts_new": encoded.texts,
            "texts_empty": encoded.empty,
            "texts_encoded": encoded.work.texts,
            "texts_bad": bad,
            "tokens": encoded.work.tokens,
            "seconds": round(seconds, 2),
            "device_seconds": round(encoded.work.device_seconds, 2),
            "encoder_id": encoder,
            "dim": extension.meta.dim,
            "template_version": chosen.version,
            "matrix": str(extension.folder / extension.meta.vectors),
            "matrix_rows": extension.meta.rows,
            "reduction": extension.meta.reduction.model_dump() if extension.meta.reduction else None,
            "gates": [gate.as_json() for gate in gates],
        },
    )
