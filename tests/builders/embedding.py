"""The embedding stage in a process of its own: `python -m tests.builders.embedding LAKE DAY SETTINGS_AS_JSON`."""

import json
import sys
from datetime import date

from learn_spark.config.load import load_config
from learn_spark.embedding.job import embed_items
from learn_spark.lake.session import build_session
from tests.builders.commands import CONFIG
from tests.builders.items import step_context, with_embedding


def main(lake: str, day: str, settings: str) -> None:
    """Embeds the lake's items first seen before the day."""
    config = with_embedding(load_config(CONFIG, [f"lake.root={lake}"]), **json.loads(settings))
    spark = build_session(config, "embedding")
    embed_items(step_context(spark, config), [date.fromisoformat(day)])
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
