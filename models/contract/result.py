"""`result.json`: what a command leaves for whoever started it."""

import json
from collections.abc import Mapping
from pathlib import Path

RESULT = "result.json"


def write_result(folder: Path, values: Mapping[str, object]) -> None:
    """Writes it into the folder, whole or not at all: its existence says that the command has finished."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{RESULT}"
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / RESULT)
