"""Which recorded days an upgrade takes over, tested on the ledger of a demo lake that version 0.1.0 wrote."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError
from learn_spark.pipeline import STEPS, as_plan, pipeline_days
from learn_spark.runs.adopt import plan_adoption
from learn_spark.runs.earlier import PACKAGE_VERSION
from learn_spark.runs.fingerprints import Fingerprints
from learn_spark.runs.ledger import Recorded
from learn_spark.runs.plan import Standing

# Step versions as of 0.1.0, whatever was raised since.
FIRST = {name: replace(step, version=1) for name, step in STEPS.items()}
ROOT = Path(__file__).parents[2]
AS_IT_WAS = ["evaluation.rivals=[]"]
LEDGER = ROOT / "tests" / "fixtures" / "lake_0_1_0" / "ledger.json"


@pytest.fixture
def rows():
    """The ledger that `make demo` of 0.1.0 left: by step and day a fingerprint and the state of the files."""
    recorded = json.loads(LEDGER.read_text())
    return {
        (step, date.fromisoformat(day)): Recorded(
            step, date.fromisoformat(day), fingerprint, "r.1", 0, 0, 0.0, {}, False, source
        )
        for step, days in recorded.items()
        for day, (fingerprint, source) in days.items()
    }


def demo(tmp_path, *settings):
    """The demo's config as of 0.1.0. The raw files are missing, so they count as unchanged since they were read."""
    return load_config(ROOT / "conf" / "demo.yaml", [*AS_IT_WAS, f"ingest.path={tmp_path}", *settings])


def missing(config, rows, steps=FIRST):
    plan = as_plan(pipeline_days(config)).missing(Standing(config, Fingerprints(config, steps, lambda: rows), rows))
    return [step.name for step, _ in plan]


def planned(config, rows, steps=FIRST, accepted=()):
    return plan_adoption(config, steps, Fingerprints(config, steps, lambda: rows), rows, accepted)


def adopted(rows, plan):
    return {day: replace(row, fingerprint=plan.adopted.get(day, row.fingerprint)) for day, row in rows.items()}


def refused_steps(plan):
    return {step for step, _ in plan.refused}


def test_a_lake_of_0_1_0_is_taken_over(tmp_path, rows):
    config = demo(tmp_path)
    with pytest.raises(ConfigError, match="learn-spark adopt"):
        missing(config, rows)
    plan = planned(config, rows)
    assert plan.adopted.keys() == rows.keys() and not plan.refused and not plan.current
    after = adopted(rows, plan)
    assert missing(config, after) == []
    again = planned(config, after)
    assert set(again.current) == rows.keys() and not again.adopted


def test_rivals_are_other_settings_of_the_report_alone(tmp_path, rows):
    assert refused_steps(planned(demo(tmp_path, "evaluation.rivals=[als]"), rows)) == {"evaluate_features"}


def test_the_old_formula_gives_what_0_1_0_wrote(tmp_path, rows):
    old = Fingerprints(demo(tmp_path), STEPS, lambda: rows, PACKAGE_VERSION)
    assert {day: old(*day) for day in rows} == {day: row.fingerprint for day, row in rows.items()}


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("cvr.train.learning_rate=0.5", {"train_cvr", "write_features", "evaluate_features"}),
        ("evaluation.resamples=77", {"evaluate_features"}),
        ("sequences.history_length=49", set(STEPS) - {"ingest_events", "embed_items"}),
        ("features.gates.min_pair_auc=0.1", set()),
        ("towers.train.run.threads=1", set()),
    ],
)
def test_days_of_another_config_are_refused_with_what_is_made_from_them(tmp_path, rows, setting, refused):
    plan = planned(demo(tmp_path, setting), rows)
    assert refused_steps(plan) == refused
    assert {step for step, _ in plan.adopted} == set(STEPS) - refused
    reasons = list(dict.fromkeys(plan.refused.values()))
    assert all("other settings" in reason or reason.startswith("made from days of") for reason in reasons)
    assert any(line.startswith("refused  ") for line in plan.lines()) is bool(refused)


def test_other_raw_files_are_named_and_can_be_accepted(tmp_path, rows):
    day = date(2010, 12, 1)
    (tmp_path / f"{day}.csv.gz").write_bytes(b"other")
    config = demo(tmp_path)
    plan = planned(config, rows)
    assert "other names, sizes or times" in plan.refused["ingest_events", day]
    assert "train_towers" in refused_steps(plan)
    assert ("ingest_events", date(2011, 6, 1)) in plan.adopted  # no file of it is read with the changed day's
    accepted = planned(config, rows, accepted=["ingest_events"])
    assert accepted.adopted.keys() == rows.keys()
    after = adopted(rows, accepted)
    assert missing(config, after) == []


def test_a_raised_version_refuses_its_step_and_what_follows_unless_accepted(tmp_path, rows):
    config = demo(tmp_path)
    now = adopted(rows, planned(config, rows))
    raised = FIRST | {"train_cvr": replace(STEPS["train_cvr"], version=2)}
    plan = planned(config, now, raised)
    assert plan.refused["train_cvr", config.windows.cvr_end] == "made by version 1 of the step, which is 2 now"
    assert planned(config, rows, raised).refused == plan.refused, "what 0.1.0 made is version 1"
    assert refused_steps(plan) == {"train_cvr", "write_features", "evaluate_features"}
    assert {step for step, _ in plan.current} == set(STEPS) - refused_steps(plan)
    accepted = planned(config, now, raised, accepted=["train_cvr"])
    assert not accepted.refused and {step for step, _ in accepted.adopted} == refused_steps(plan)
    after = adopted(now, accepted)
    assert missing(config, after, raised) == []


def test_an_unknown_step_cannot_be_accepted(tmp_path, rows):
    with pytest.raises(ConfigError, match="--accept names train_cvrs; there are ingest_events, "):
        planned(demo(tmp_path), rows, accepted=["train_cvrs"])


@pytest.mark.process
def test_a_release_of_the_package_makes_no_day_another(tmp_path):
    """The package's version does not count. Runs in a separate process, where nothing has read the version before."""
    code = (
        "import learn_spark; learn_spark.__version__ = '9.9.9'\n"
        "from datetime import date\n"
        "from learn_spark.config.load import load_config\n"
        "from learn_spark.pipeline import STEPS\n"
        "from learn_spark.runs.fingerprints import Fingerprints\n"
        f"config = load_config({str(ROOT / 'conf' / 'demo.yaml')!r}, {[*AS_IT_WAS, f'ingest.path={tmp_path}']})\n"
        "print(Fingerprints(config, STEPS)('evaluate_features', config.windows.end))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    config = demo(tmp_path)
    assert done.stdout.strip() == Fingerprints(config, STEPS)("evaluate_features", config.windows.end)
