"""Deliberately wrong or hostile configs: each is refused quickly, in one line, with exit code 2."""

import time
from pathlib import Path

import pytest

from learn_spark.config.load import load_config
from learn_spark.errors import ConfigError

DEMO = Path(__file__).parents[2] / "conf" / "demo.yaml"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "object": ("x: !!python/object/apply:os.system ['touch pwned']", "python/object/apply"),
    "name": ("x: !!python/name:os.system", "python/name"),
    "tag": ("lake: !evil {root: x}", "'!evil' in line 1"),
    "alias_bomb": (f"{BOMB}\nlake: {{root: *i}}", "aliases (*) stand for more than 100,000 values"),
    "cycle": ("lake: &a {root: *a}", "an alias (*) stands inside of what it stands for"),
    "cycle_in_a_list": ("windows: &a [*a]", "an alias (*) stands inside"),
    "deep": ("lake: " + "[" * 5000 + "]" * 5000, "nested more than 50 levels"),
    "deep_blocks": ("\n".join(" " * n + f"a{n}:" for n in range(200)), "nested more than 50 levels"),
    "twice": ("lake: {root: a}\ncvr: {}\nlake: {root: b}", "`lake` stands twice, in lines 1 and 3"),
    "twice_inside": ("lake:\n  root: a\n  root: b", "`root` stands twice, in lines 2 and 3"),
    "merged_twice": ("x: &a {root: x}\nlake:\n  <<: *a\n  <<: *a", "`<<` stands twice, in lines 3 and 4"),
    "no_such_day": ("windows: {end: 2011-11-31}", "`windows.end`: Input should be a valid date"),
    "no_such_time": ("windows: {end: 2011-12-10T25:61:61}", "`windows.end`: Input should be a valid date"),
    "long_number": ("scale: {items: 1%s}" % ("0" * 400), "`scale.items`: the number does not fit 64 bits"),
    "longer_number": ("scale: {items: 1%s}" % ("0" * 9000), "`scale.items`"),
    "list": ("[1, 2]", "must hold a mapping of sections, not list"),
    "text": ("hello", "not str"),
    "empty": ("", "not NoneType"),
    "nul": ('lake: {root: "a\\0b"}', "`lake.root`: 'a\\x00b' is no path"),
    "nul_in_a_text": ('embedding: {model: "a\\0b"}', "`embedding.model`: the text holds a NUL"),
    "half_a_character": ('mlflow: {experiment: "\\ud800"}', "`mlflow.experiment`: the text holds a NUL or half"),
    "control_character": ("lake: {root: a\x01b}", "special characters are not allowed"),
    "binary": ("lake: {root: !!binary aGVsbG8=}", "`lake.root`"),
    "bad_binary": ("lake: {root: !!binary '\u00e9'}", "failed to convert base64"),
    "number_as_key": ("1: {root: x}", "`1`: Keys should be strings"),
    "null_as_key": ("null: x", "Keys should be strings"),
    "list_as_key": ("? [a, b]\n: x", "unhashable key in line 1"),
    "two_documents": ("lake: {root: a}\n---\nlake: {root: b}", "another document in line 2"),
    "tab": ("lake:\n\troot: x", "in line 2, column 1"),
    "unclosed": ("lake: {root: [a", "expected ',' or ']'"),
    "unknown_alias": ("lake: *none", "undefined alias 'none'"),
    "circle": ("extends: ../folder/own.yaml", "`extends: own.yaml` goes in a circle"),
    "extends_a_folder": ("extends: .", "`extends: .`, but there is no"),
    "extends_a_list": ("extends: [a, b]", "`extends: ['a', 'b']`, but there is no"),
    "set": ("lake: !!set {a, b}", "`lake`: Input should be a valid dictionary"),
    "omap": ("lake: !!omap [a: b]", "`lake`: Input should be a valid dictionary"),
    "infinite": ("cvr: {train: {learning_rate: .inf}}", "should be a finite number"),
    "base_60": ("windows: {end: 190:20:30}", "`windows.end`"),
    "mapping_is_a_list": ("ingest: {mapping: [a, b]}", "`ingest.mapping`: Input should be a valid dictionary"),
    "not_in_the_environment": (
        "mlflow: {tracking_uri: '${NOT_SET_ANYWHERE}'}",
        "`mlflow.tracking_uri` takes ${NOT_SET_ANYWHERE} from the environment, which has no NOT_SET_ANYWHERE",
    ),
}
SETS = (
    "windows.end=2011-11-31",
    "windows.end=9999-12-31",
    "windows.end=0001-01-01",
    "windows.first_as_of=0001-01-01",
    "ingest.start=2011-02-30",
    "ingest.start=0001-01-01",
    "ingest.start=9999-12-31",
    "sequences.target_days=10000000000",
    "sequences.as_of_every_days=10000000000",
    "sequences.history_days=99999999999",
    "sequences.target_days=0",
    "sequences.target_days=-1",
    "sequences.target_days=1.5",
    "sequences.target_days=null",
    "sequences.target_days=[1]",
    "ingest.late_days=10000000000",
    "cvr.validation_days=10000000000",
    "retrieval.popularity_days=10000000000",
    "releases.max_age_days=10000000000",
    "scale.items=1e400",
    "scale.items=.inf",
    "scale.items=-1",
    "scale.items=1_000_000_000_000_000_000_000",
    "spark.conf=3",
    "spark.conf=[a]",
    "spark.conf={a: 1}",
    "spark.conf={a: null}",
    "spark.master=3",
    "spark.driver_memory=[]",
    "spark=x",
    "lake=x",
    "lake.root=3",
    "lake.root=[]",
    "lake.root={a: b}",
    "lake.root.x=3",
    'lake.root="a\\0b"',
    "output.dir=null",
    'ingest.path="\\0"',
    "ingest.mapping=x",
    "ingest.mapping.user_id=x",
    "ingest.event_types=x",
    "ingest.event_types=[[]]",
    "ingest.files=x{y}",
    'ingest.files="{day:%Q}"',
    "ingest.timezone=Mars/One",
    "ingest.timezone=../../etc/passwd",
    'ingest.delimiter=""',
    "ingest.encoding=rot13",
    "ingest.format=xml",
    "embedding.dtype=int8",
    "embedding.model=null",
    "embedding.template=x",
    "towers.ranks=0",
    "towers.ranks=99999999999999999999",
    "towers.run.launcher=ssh",
    "towers.train.seed=-1",
    "towers.train.seed=1e9999",
    "towers.train.epochs=!!python/name:os.system",
    "towers.train.epochs=*a",
    "towers.train.epochs=&a [*a]",
    "cvr.train.learning_rate=.nan",
    "cvr.train.learning_rate=-1",
    "=3",
    ".=3",
    "..a=3",
    "a..b=3",
    "windows=",
    "lake.root=[",
    "lake.root={",
    "lake.root='",
    "extends=x",
    "comparison.seeds=[1000000000000000000000000]",
    "comparison.define={a: 3}",
    "mlflow.tracking_uri=[http://joe:pw@x]",
    "mlflow.tracking_uri=${NOPE_NOT}",
    "towers.model.d_model=7",
    "sequences.history_length=100000000000000000000",
    "samples.labels=[observed]",
    "evaluation.num_seeds=x",
    "windows.end=2011-13-01",
    "windows.towers_end=20111010",
    "a." * 5000 + "b=3",
    "lake.root=" + "[" * 3000,
)


def refused(file: Path, *overrides: str) -> str:
    """The one-line error of a config, which must come within seconds."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    said = str(caught.value)
    assert time.monotonic() - began < 5  # a slow pattern would take minutes
    assert caught.value.exit_code == 2 and "\n" not in said and len(said) < 1000
    return said


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "folder" / "own.yaml"
    file.parent.mkdir()
    text, said = FILES[name]
    file.write_text(text, encoding="utf-8")
    assert said in refused(file)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "own.yaml"], "no code of the file ran"


@pytest.mark.parametrize("override", SETS, ids=lambda text: text[:40])
def test_a_hostile_value_is_refused(override: str) -> None:
    key = override.partition("=")[0]
    said = refused(DEMO, override)
    assert key.partition(".")[0] in said or not key.strip(".")


@pytest.mark.parametrize(("place", "said"), [("/dev/zero", "is not a file"), ("/dev", "is not a file")])
def test_what_is_no_file_is_not_read(place: str, said: str) -> None:
    assert said in refused(Path(place))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("# " + "x" * 1_000_000)
    assert "larger than 1,000,000 bytes" in refused(tmp_path / "own.yaml")


def test_keys_that_are_merged_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "towers: {train: &both {epochs: 3, seed: 4}}\ncvr: {train: {<<: *both, epochs: 5}}\n"
    )
    config = load_config(tmp_path / "own.yaml")
    assert (config.cvr.train.epochs, config.cvr.train.seed) == (5, 4)
