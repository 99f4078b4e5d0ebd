"""Encodes on a local cluster whose GPUs are made-up addresses; prints the tasks' time spans by GPU share, as JSON.

`python -m tests.builders.gpu_cluster FOLDER MODEL SHARE ...`: two executors with two cores and one GPU each. All
computation is on the CPU.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from learn_spark.config.load import Config, load_config
from learn_spark.embedding import store
from learn_spark.embedding.encoders import encoder_id
from learn_spark.embedding.prompts import TEMPLATES
from learn_spark.embedding.store import encode_new_texts, write_item_text
from learn_spark.lake.session import build_session
from tests.builders.commands import CONFIG
from tests.builders.items import add_items, item_row, step_context, with_embedding

# Each worker that runs this script gets an address of its own, because mkdir succeeds only once per folder.
DISCOVERY = """#!/bin/sh
for number in 3 4 5 6; do
    if mkdir "{folder}/gpu$number" 2>/dev/null; then
        echo "{{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"$number\\"]}}"
        exit
    fi
done
"""


def main(folder: Path, model: str, shares: Sequence[str]) -> None:
    """Runs six tasks on two GPUs, each with the given share of one; every share has a lake of its own."""
    found, store.TEXTS_A_LOADING = {}, 1
    for share in shares:
        config = _with_gpus(load_config(CONFIG, [f"lake.root={folder}/lake-{share}"]), folder)
        config = with_embedding(config, model=model, device="cpu", workers=6, gpu_per_task=float(share))
        spark = build_session(config, "gpus")
        context = step_context(spark, config)
        add_items(context, [item_row(f"{n}", "2011-11-02", " ".join(f"{n:08b}")) for n in range(200)])
        write_item_text(context, TEMPLATES["title"], before=date(2011, 11, 27))
        work = encode_new_texts(context, TEMPLATES["title"], encoder_id(config)).work
        found[share] = {"texts": work.texts, "spans": [asdict(span) for span in work.spans]}
    print(json.dumps(found))
    spark.stop()


def _with_gpus(config: Config, folder: Path) -> Config:
    script = folder / "discover.sh"
    script.write_text(DISCOVERY.format(folder=folder), encoding="utf-8")
    script.chmod(0o755)
    conf = config.spark.conf | {
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
        "spark.executor.resource.gpu.amount": "1",
    }
    cluster = config.spark.model_copy(update={"master": "local-cluster[2,2,1024]", "conf": conf})
    return config.model_copy(update={"spark": cluster})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
