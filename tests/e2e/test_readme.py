"""The README's snippets run as they stand, on the journey's tables."""

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.commands import ROOT, Done

pytestmark = pytest.mark.e2e

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_one_for_each_reader() -> None:
    assert [next(w for w in ("spark.read", "duckdb", "polars") if w in text) for text in SNIPPETS] == [
        "spark.read",
        "duckdb",
        "polars",
    ]


@pytest.mark.filterwarnings("ignore:Sortedness of columns")
def test_all_readers_find_the_same_rows(journey: tuple[Path, Done], spark: SparkSession) -> None:
    counts = []
    for text in SNIPPETS:
        names = {"spark": spark}
        exec(text.replace("build/demo/lake", str(journey[0] / "lake")), names)
        rows = names["rows"]
        counts.append(rows.count() if "spark.read" in text else len(rows))
    assert counts[0] == counts[1] == counts[2] > 1000
