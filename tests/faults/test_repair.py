"""Really lost, cut or changed files on a small lake, and the command that makes their content again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from learn_spark.lake.identity import FILE
from learn_spark.lake.schemas import TABLES
from tests.builders.commands import Done, as_settings, run_here
from tests.builders.logs import WEEK, line, write_day
from tests.builders.reading import rows, versions

pytestmark = pytest.mark.spark

DAYS = [f"2011-11-0{number}" for number in range(1, 8)]
FILLED = ("interactions", "rejects", "items", "item_index", "user_history", "sequences", "samples")


class Lake:
    """A lake with its own copy of the logs. Commands run in this process, on the tests' session."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "lake"

    def run(self, *command: str) -> Done:
        settings = [f"windows.{key}={value}" for key, value in WEEK.items()]
        settings += [f"ingest.path={self.folder}/logs", "ingest.start=2011-11-01", "ingest.late_days=1"]
        settings += ["sequences.target_days=1", "sequences.history_length=4"]
        return run_here(self.folder, *command, *as_settings(*settings))

    def fill(self) -> Done:
        return self.run("run_pipeline", "--steps", "ingest_events,build_sequences")

    def content(self) -> dict[str, list[str]]:
        return {name: rows(self.root, name) for name in FILLED}

    def copy(self, folder: Path) -> "Lake":
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Lake(folder)

    def live(self, pattern: str) -> list[Path]:
        """The data files that match `pattern` and are in the table's newest version."""
        name = pattern.split("/")[0]
        files = {Path(file.removeprefix("file://")) for file in DeltaTable(str(self.root / name)).file_uris()}
        found = sorted(file for file in self.root.glob(pattern) if file in files)
        assert found, pattern
        return found


@pytest.fixture(scope="module")
def whole(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of seven days and nine users; every delivery but the first has one line that is late by a day."""
    lake = Lake(tmp_path_factory.mktemp("whole"))
    for number, day in enumerate(DAYS):
        events = [(day, user) for user in range(9)] + [(DAYS[max(number - 1, 0)], 9)]
        lines = [
            line(
                InvoiceNo=f"{number}{user}", CustomerID=f"{user}.0", StockCode=f"i{(user + number) % 7}", InvoiceDate=at
            )
            for at, user in ((f"{of} 1{user}:00:00", user) for of, user in events)
        ]
        write_day(lake.folder / "logs", day, [*lines, line(InvoiceNo="x", InvoiceDate="never")])
    done = lake.fill()
    assert done.code == 0, done.err
    return lake


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)


def overwrite(file: Path) -> None:
    """Fills a file with zeros of the same length, so that it is no Parquet file any more."""
    file.write_bytes(b"\0" * file.stat().st_size)
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)


def lose_table(name: str) -> Callable[[Lake], None]:
    return lambda lake: shutil.rmtree(lake.root / name)


def damage(how: Callable[[Path], None], *patterns: str) -> Callable[[Lake], None]:
    return lambda lake: [how(file) for pattern in patterns for file in lake.live(pattern)[:1]]


def cut_log(lake: Lake) -> None:
    log = lake.root / "user_history" / "_delta_log"
    cut(max(log.glob("*.json")))


CASES = {
    "events": damage(lose, "interactions/ds=2011-11-03/*"),
    "cut": damage(cut, "user_history/ds=2011-11-05/*", "sequences/*/*", "samples/ds=2011-11-05/*"),
    "zeros": damage(overwrite, "items/*", "rejects/ds=2011-11-02/*"),
    "numbers": damage(lose, "item_index/*"),
    "numbers_table": lose_table("item_index"),
    "log": cut_log,
    "events_table": lose_table("interactions"),
    "ledger": lose_table("intervals"),
    "several": lambda lake: [lose_table(name)(lake) for name in ("user_history", "releases", "items")],
}


@pytest.mark.parametrize("hurt", CASES.values(), ids=CASES)
def test_what_is_lost_is_found_and_made_again(tmp_path: Path, whole: Lake, hurt: Callable[[Lake], None]) -> None:
    lake, before = whole.copy(tmp_path), whole.content()
    hurt(lake)
    if (lake.root / "user_history").exists() and hurt is not cut_log:
        kept = versions(lake.root)
        plan = lake.run("repair", "--dry-run")
        assert plan.code == 0 and plan.summary["hurt"], plan.err
        assert versions(lake.root) == kept, "a plan changes nothing"
    done = lake.run("repair")
    assert done.code == 0, done.err
    assert done.out.startswith("hurt: table "), done.out
    assert lake.content() == before
    assert lake.fill().code == 99
    assert lake.run("audit_leakage").code == 0
    assert lake.run("repair", "--deep").code == 99, "nothing is hurt any more"


def test_a_whole_lake_has_nothing_to_repair(whole: Lake) -> None:
    before = versions(whole.root)
    done = whole.run("repair", "--deep")
    assert (done.code, done.summary["hurt"], done.summary["plan"]) == (99, [], {}), done.err
    assert versions(whole.root) == before


def test_what_cannot_be_made_again_is_named_and_nothing_is_changed(tmp_path: Path, whole: Lake) -> None:
    lake = whole.copy(tmp_path)
    damage(lose, "interactions/ds=2011-11-03/*")(lake)
    (lake.folder / "logs" / "2011-11-03.csv.gz").unlink()
    before = versions(lake.root)
    done = lake.run("repair")
    assert done.code == 2
    assert "events of 2011-11-03 cannot be made again: their log files" in done.err.splitlines()[-1]
    assert versions(lake.root) == before


def test_numbers_of_items_without_an_event_are_never_given_anew(
    tmp_path: Path, whole: Lake, spark: SparkSession
) -> None:
    lake = whole.copy(tmp_path)
    spark.createDataFrame([("only in a catalogue", 8)], "item_id string, item_idx int").coalesce(1).write.format(
        "delta"
    ).mode("append").save(str(lake.root / "item_index"))
    for file in lake.live("item_index/*"):
        file.unlink()
    done = lake.run("repair")
    assert done.code == 2
    assert "1 items without an event had numbers that nothing else holds" in done.err.splitlines()[-1]
    assert "backup" in done.err and "another lake.root" in done.err
    lake = whole.copy(tmp_path / "both")
    lose_table("item_index")(lake)
    lose_table("interactions")(lake)
    done = lake.run("repair")
    assert done.code == 2 and "looked up in interactions, which is hurt as well" in done.err


def test_rows_of_another_config_are_not_made_again_by_this_one(tmp_path: Path, whole: Lake) -> None:
    lake = whole.copy(tmp_path)
    damage(lose, "user_history/ds=2011-11-05/*")(lake)
    done = lake.run("repair", "--set", "sequences.history_days=20")
    assert done.code == 2 and "--restate" in done.err.splitlines()[-1], done.err
    assert lake.run("repair", "--restate", "--set", "sequences.history_days=20").code == 0


def test_a_lost_ledger_is_refused(tmp_path: Path, whole: Lake) -> None:
    lake = whole.copy(tmp_path)
    shutil.rmtree(lake.root / "intervals")
    assert lake.fill().code == 2
    (lake.root / FILE).unlink()  # as in lakes of earlier versions, which must notice it, too
    assert lake.fill().code == 2
    assert set(TABLES) > set(versions(lake.root))
