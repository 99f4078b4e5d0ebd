"""`learn-spark init` and a dry run before the first run: without Spark, on the real files."""

import io
from pathlib import Path

import pytest

from learn_spark.cli.main import main
from learn_spark.config.load import load_config
from learn_spark.storage import Location, write_whole
from tests.builders.commands import as_settings
from tests.builders.field_logs import Event, field_events, write_lines, write_table
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.transfer import upload


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a log and a catalogue; the working directory is another new folder."""
    rows = (
        (f"a{e.user}", f"c{e.user % 7}", f"{e.item:05}", f"{e.time:%d/%m/%Y %H:%M}", e.kind) for e in field_events()
    )
    names = ("account_no", "customer", "sku", "time", "action")
    write_table(tmp_path / "shop" / "events.csv", names, rows)
    items = ({"sku": f"{n:05}", "name": Event(0, n, field_events(1)[0].time, "").title} for n in range(60))
    write_lines(tmp_path / "shop" / "items.jsonl", items)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "shop"


@pytest.fixture
def shop_in_a_store(shop: Path, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:  # noqa: F811
    """The same folder in a bucket, reached by environment variables."""
    for name, value in {**object_store.environment, "LEARN_SPARK_CACHE": f"{tmp_path}/cache"}.items():
        monkeypatch.setenv(name, value)
    return upload(shop, object_store.bucket() / "raw" / "shop")


def answers(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_yes_writes_a_config_counts_the_files_and_names_the_next_command(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes", "--path", str(shop), "--out", "mine.yaml"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("next       learn-spark run_pipeline --config mine.yaml\n")
    assert "600 events of 7 users and 60 items on 60 days" in said.out
    assert "interactions" in said.out and "1. ingest_events" in said.out
    assert "catalogue: 1 file items.jsonl" in said.err
    config = load_config("mine.yaml")
    assert config.ingest.items is not None and config.ingest.items.files == "items.jsonl"
    assert config.lake.root == Path.cwd() / "mine-run" / "lake"
    assert config.preset == "recommended" and config.towers.model.content_residual
    assert main(["init", "--yes", "--path", str(shop), "--out", "mine.yaml"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["run_pipeline", "--config", "mine.yaml", "--dry-run"]) == 0
    assert "600 events of 7 users" in capsys.readouterr().out


def test_answers_change_what_was_found(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers: the logs' path, another user column, an unknown column (asked again), no catalogue, other targets."""
    answers(monkeypatch, str(shop), "account_no", "", "", "nonsense", "", "n", "cart, view")
    assert main(["init", "--out", "mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert "item names from items.jsonl?" in said and said.count("event_type (the kind of event)") == 2
    config = load_config("mine.yaml")
    assert config.ingest.mapping.user_id.column == "account_no"
    assert config.ingest.items is None
    assert config.sequences.target_events == ["cart", "view"]
    assert "600 events of 30 users" in said


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        ([], [], "nobody answers: give --yes"),
        (["--yes"], [], "--path is missing"),
        (["--path", "SHOP"], ["", "", "account_no"], "the values of account_no are no times: a"),
        (["--path", "SHOP"], ["", "", "", "", "", "rent"], "there are no events rent; there are "),
        (["--yes", "--path", "/nowhere/at/all"], [], "does not exist"),
        (["--yes", "--path", "SHOP", "--out", "/proc/mine.yaml"], [], "/proc/mine.yaml cannot be written"),
    ],
)
def test_what_cannot_go_on_ends_in_one_line(
    shop: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    given: list[str],
    said: str,
) -> None:
    answers(monkeypatch, *given)
    assert main(["init", *(str(shop) if each == "SHOP" else each for each in arguments)]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("init: error: "))
    assert said in line


def test_a_dry_run_finds_a_lost_column_and_an_empty_window(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes", "--path", str(shop), "--out", "mine.yaml"]) == 0
    capsys.readouterr()

    def dry_run(command: str, *settings: str) -> str:
        assert main([command, "--config", "mine.yaml", "--dry-run", *as_settings(*settings)]) == 2
        return capsys.readouterr().err

    moved = "ingest.mapping.user_id.column=client"
    assert "events.csv has no column client; it has account_no, action, customer, sku, time" in dry_run(
        "run_pipeline", moved
    )
    late = "windows={end: 2024-09-01, ranker_train_end: 2024-06-01}"
    said = dry_run("run_pipeline", late)
    assert "no rows for ranker_test" in said and "events lie on 55 of 59 days" in said
    assert "change windows.ranker_train_end, windows.end" in said
    assert "no file matches" in dry_run("run_pipeline", "ingest.files=other.csv")
    assert main(["ingest_events", "--config", "mine.yaml", "--dry-run", "--set", late]) == 0, (
        "windows are not its affair"
    )


def test_logs_in_a_store_are_looked_at_and_named_as_they_lie_there(
    shop_in_a_store: Location,
    object_store: ObjectStore,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["init", "--yes", "--path", str(shop_in_a_store), "--out", "mine.yaml"]) == 0
    said = capsys.readouterr()
    assert "600 events of 7 users and 60 items on 60 days" in said.out
    assert str(shop_in_a_store) in said.err and "_looked_at" not in said.err + said.out
    config = load_config("mine.yaml")
    assert str(config.ingest.path) == str(shop_in_a_store) == str(config.ingest.items.path)
    brought = len(_fetched(object_store))
    assert main(["run_pipeline", "--config", "mine.yaml", "--dry-run"]) == 0
    assert "600 events of 7 users" in capsys.readouterr().out
    assert len(_fetched(object_store)) == brought, "the copies are there"
    lines = (shop_in_a_store / "events.csv").read_text().splitlines(keepends=True)
    write_whole(shop_in_a_store / "events.csv", "".join(lines[:-1]))
    assert main(["run_pipeline", "--config", "mine.yaml", "--dry-run"]) == 0
    assert "599 events of" in capsys.readouterr().out, "a file that has changed is brought again"
    monkeypatch.setenv("LEARN_SPARK_INSPECT_GB", "1e-6")
    assert main(["run_pipeline", "--config", "mine.yaml", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "are not counted" in said.err and "events of" not in said.out
    assert main(["inspect", "--path", str(shop_in_a_store)]) == 2
    assert "LEARN_SPARK_INSPECT_GB is 1e-06: name a folder" in capsys.readouterr().err


def test_one_file_of_a_store_and_what_is_none(shop_in_a_store: Location, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--path", f"{shop_in_a_store}/events.csv"]) == 0
    said = capsys.readouterr()
    assert f"path: {shop_in_a_store}\n" in said.out and "files: events.csv" in said.out
    assert "_looked_at" not in said.err + said.out
    write_whole(shop_in_a_store / "broken.csv", b"\x00\x01\x02")
    for name, why in (("nothing", "holds no files"), ("broken.csv", "broken.csv"), ("items.jsonl", "items.jsonl")):
        assert main(["inspect", "--path", f"{shop_in_a_store}/{name}"]) == 2
        error = capsys.readouterr().err
        assert str(shop_in_a_store) in error and why in error and "_looked_at" not in error, error
    assert main(["inspect", "--path", "gs://bucket/logs"]) == 2
    assert "PATH: 'gs://bucket/logs' is no path" in capsys.readouterr().err


def _fetched(store: ObjectStore) -> list[str]:
    return [request for request in store.requests if request.startswith("GET") and request.endswith((".csv", ".jsonl"))]
