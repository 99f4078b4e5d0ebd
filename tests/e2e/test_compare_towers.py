"""`compare-towers` on the journey's lake."""

import json
from pathlib import Path

import pytest

from tests.builders.commands import run_here

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_tower_variants_are_compared_by_one_command(finished: Path) -> None:
    asked = ("--systems", "variant_1,variant_3", "--seeds", "1", "--set", "comparison.resamples=20")
    planned = run_here(finished, "compare-towers", *asked, "--dry-run")
    assert planned.code == 0, planned.err[-5000:]
    assert planned.summary["trainings"] == ["variant_1 with seed 1", "variant_3 with seed 1"]
    assert "trainings: 2 of 2 are missing\n  variant_1 with seed 1\n" in planned.out
    chosen = run_here(finished, "compare-towers", *asked)
    assert chosen.code == 0, chosen.err[-5000:]
    assert (
        "no test row was looked at" in chosen.err
        and chosen.summary["comparison"]["name"] == "compare_towers_validation"
    )
    assert not (finished / "output" / "comparison" / "compare_towers.json").exists()
    done = run_here(finished, "compare-towers", *asked, "--final")
    assert done.code == 0, done.err[-5000:]
    compared = json.loads((finished / "output" / "comparison" / "compare_towers.json").read_text())
    assert list(compared["systems"]) == ["variant_1", "variant_3"]
    assert all(0 < row["metrics"]["recall_at_50"]["mean"] < 1 for row in compared["systems"].values())
    page = (finished / "output" / "comparison" / "compare_towers.html").read_text()
    assert page.count("<svg") >= 2 and "Variant 3 (content itself)" in page, "bars and training curves"
