"""No step's code changes unnoticed: its version must be raised, or a note must say that rows do not change."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def step_code():
    spec = importlib.util.spec_from_file_location("step_code", ROOT / "scripts" / "step_code.py")
    module = sys.modules["step_code"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changed_code_has_a_raised_version_or_a_note(step_code):
    lines = step_code.changes(step_code.read_record(), step_code.current_code()).lines()
    assert not lines, "\n".join(lines)


def test_every_command_of_models_belongs_to_a_step_or_is_made_anew_each_time(step_code):
    from models.contract.commands import COMMANDS

    run = {command for commands in step_code.COMMANDS_RUN.values() for command in commands}
    assert COMMANDS.keys() - run - step_code.COMPARISON_INPUTS.keys() == {
        "export-online",
        "export-vectors",
        "export-codes",
        "measure-content",
    }


def test_what_is_left_out_is_there(step_code):
    assert [name for name in step_code.LEFT_OUT if step_code._file_of(name) is None] == []


def test_steps_reach_the_trainers_and_no_other_stage(step_code):
    code = step_code.current_code()
    assert {"models.training.trainer", "models.towers.losses"} <= code["train_towers"].digests.keys()
    assert "models.training.train_cvr" not in code["train_towers"].digests
    assert "models.training.train_towers" in code["compare train-towers"].digests
    assert "models.encoder.encoder" in code["embed_items"].digests
    reached = code["ingest_events"].digests.keys() - {"models.contract.strict"}  # the base of its settings
    assert not [name for name in reached if name.startswith(("models", "learn_spark.sequences"))]


SOURCE = '''
"""Words."""
from a import first, second

LIMIT: int = 3


def rows(frame: object) -> int:
    """More words."""
    kept: list[int] = first(frame)  # why
    print("kept", kept)
    if not kept:
        raise ValueError("nothing is kept")
    return kept + LIMIT


def other():
    return second()
'''


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("More words", "Other words", False),
        ("# why", "# because", False),
        ("frame: object) -> int", "frame: int) -> float", False),
        ("kept: list[int] =", "kept: list[float] =", False),
        ("first(frame)", "first(\n        frame,\n    )", False),
        ('print("kept", kept)', 'print("kept now")', False),
        ("nothing is kept", "all is lost", False),
        ("ValueError", "KeyError", True),
        ("if not kept", "if kept", True),
        ("import first, second", "import second, first", False),
        ("second()", "third()", False),  # rows() does not reach it
        ("first(frame)", "second(frame)", True),
        ("from a import", "from b import", True),
        ("LIMIT: int = 3", "LIMIT: int = 4", True),
        ("kept + LIMIT", "kept - LIMIT", True),
    ],
)
def test_only_what_a_function_does_counts(step_code, tmp_path, monkeypatch, old, new, changed):
    def digests(text):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "m.py").write_text(text)
        step_code._source.cache_clear()
        step_code._file_of.cache_clear()
        return step_code._digests(["models.m.rows"])

    monkeypatch.setattr(step_code, "ROOT", tmp_path)
    try:
        assert SOURCE.count(old) == 1
        assert (digests(SOURCE) != digests(SOURCE.replace(old, new))) is changed
    finally:
        step_code._source.cache_clear()
        step_code._file_of.cache_clear()


def test_a_change_needs_a_version_or_a_note(step_code):
    recorded = {"steps": {"train_cvr": {"version": 1, "modules": {"models.a": "1", "models.b": "2"}}}, "notes": []}
    moved = {"train_cvr": step_code.Code(1, {"models.a": "1", "models.c": "2"})}
    (line,) = step_code.changes(recorded, moved).lines()
    assert line.startswith("train_cvr: models.b, models.c changed. ")
    assert "version= in learn_spark/pipeline.py" in line and 'make rows-unchanged NOTE="why"' in line
    with pytest.raises(ValueError, match=r"models\.b, models\.c changed"):
        step_code.record(recorded, moved, note=None)
    noted = step_code.record(recorded, moved, note="b was moved to c")
    assert noted["notes"][0]["modules"] == ["models.b", "models.c"]
    assert noted["notes"][0]["note"] == "b was moved to c"
    assert step_code.changes(noted, moved).lines() == []


def test_a_raised_version_is_recorded_and_never_lowered(step_code):
    recorded = {"steps": {"train_cvr": {"version": 1, "modules": {"models.a": "1"}}}, "notes": []}
    raised = {"train_cvr": step_code.Code(2, {"models.a": "7"})}
    assert "not recorded yet" in step_code.changes(recorded, raised).lines()[0]
    noted = step_code.record(recorded, raised, note=None)
    assert noted["notes"][0]["raised"] == {"train_cvr": 2}
    assert step_code.changes(noted, raised).lines() == []
    lowered = {"train_cvr": step_code.Code(1, {"models.a": "1"})}
    with pytest.raises(ValueError, match="only go up"):
        step_code.record(noted, lowered, note="back")
