"""Aligned LLM embeddings for recommendation, as Spark batch jobs."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learn_spark.api import Lake, build_sequences, embed, open_lake, session

__version__ = "0.2.0"  # setup.py reads it here
__all__ = ["Lake", "build_sequences", "embed", "open_lake", "session"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the API offers
    """Imports the API on first use: Spark is slow to import, and Spark's Python workers import this package too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from learn_spark import api

    return getattr(api, name)


if "pyspark.worker" in sys.modules:  # a Spark Python worker imports this module before any other of the package
    from learn_spark.bridge.workers import keep_archive_listings

    keep_archive_listings()
