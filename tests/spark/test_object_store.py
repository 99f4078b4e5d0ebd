"""A lake and its logs in a store, compared with the same on a file system."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from learn_spark.config.load import load_config
from learn_spark.embedding.udf import embed_function
from learn_spark.errors import ConfigError
from learn_spark.ingest.job import ingest_events
from learn_spark.lake import lease
from learn_spark.lake.catalog import lake_at, register
from learn_spark.lake.days import ONE_DAY
from learn_spark.lake.delta_jars import require_store_clients
from learn_spark.lake.identity import FILE, newest_version, read_identity
from learn_spark.lake.lease import living_holder
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.tables import Tables
from learn_spark.storage import Location, hadoop_settings
from tests.builders.commands import Done, as_settings, run_here
from tests.builders.contexts import make_context, make_tables
from tests.builders.encoders import save_tiny_bert
from tests.builders.items import with_embedding
from tests.builders.logs import line, write_day
from tests.builders.object_store import SECRET, ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.reading import rows
from tests.builders.transfer import download, upload
from tests.conftest import CONF

pytestmark = [pytest.mark.spark, pytest.mark.process]

TTL = 4.0
DAYS = [date(2011, 11, 1), date(2011, 11, 2)]


@pytest.fixture
def reached(spark: SparkSession, object_store: ObjectStore, monkeypatch) -> Iterator[ObjectStore]:  # noqa: F811
    """Configures the session for the store, as a session built for such a config is."""
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    for key, value in hadoop_settings(object_store.options).items():
        conf.set(key.removeprefix("spark.hadoop."), value)
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    yield object_store


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for day in DAYS:
        lines = [line(StockCode=f"a{n}", InvoiceDate=f"{day} 08:{n:02d}:00") for n in range(20)]
        write_day(tmp_path / "logs a+b", str(day), [*lines, line(CustomerID="")])
    return tmp_path / "logs a+b"


def test_what_is_read_from_a_store_and_written_to_one_is_what_a_file_system_has(spark, reached, logs, tmp_path):
    bucket = reached.bucket()
    root, raw = bucket / "lake", upload(logs, bucket / "logs a+b")
    places = [(root, raw), (tmp_path / "lake", logs)]
    configs = [load_config(CONF / "test.yaml", [f"lake.root={a}", f"ingest.path={b}"]) for a, b in places]
    with lake_lock(root):
        for config in configs:
            assert ingest_events(make_context(spark, config), DAYS).rows_out == 40
        tables = Tables(spark, root)
        tables.rewrite("rejects", tables.read("rejects", tables.version("rejects")), "true")
        tables.compact("rejects")
        tables.vacuum("rejects", 200)
        assert tables.committed_at("rejects", tables.version("rejects")) is not None
        assert tables.read("rejects", 1).count() == 2
    copy = download(root, tmp_path / "copy")
    for name in ("interactions", "rejects", "items", "item_index"):
        assert rows(copy, name) == rows(tmp_path / "lake", name), name
    beside = DeltaTable(str(root / "interactions").replace("s3a:", "s3:"), storage_options=_for_delta_rs(reached))
    assert beside.version() == newest_version(root, "interactions")
    assert read_identity(root).tables.keys() >= {"interactions", "intervals"}


@pytest.mark.long
def test_what_is_lost_in_a_store_is_made_again(spark, reached, logs, tmp_path):
    root, raw = reached.bucket() / "lake", upload(logs, reached.bucket() / "logs")
    told = (f"lake.root={root}", f"ingest.path={raw}", f"lake.options={json.dumps(reached.options)}")

    def run(*command: str) -> Done:
        return run_here(tmp_path, *command, *as_settings(*told))

    assert run("ingest_events", "--start", str(DAYS[0]), "--end", str(DAYS[1] + ONE_DAY)).code == 0
    names = ("interactions", "rejects", "items", "item_index")
    whole = {name: rows(download(root, tmp_path / "whole"), name) for name in names}
    uri = str(root / "interactions").replace("s3a:", "s3:")
    table = DeltaTable(uri, storage_options=_for_delta_rs(reached))
    lost = table.file_uris()[0].replace("s3:", "s3a:")
    root.at(lost).unlink()
    (root / "rejects" / "_delta_log").remove()
    refused = run("ingest_events", "--start", str(DAYS[0]), "--end", str(DAYS[1]))
    assert (refused.code, "learn-spark repair" in refused.err) == (2, True), refused.err
    for command, code in ((("repair", "--dry-run"), 0), (("repair",), 0), (("repair", "--deep"), 99)):
        done = run(*command)
        assert done.code == code, done.err
        is_hurt = code == 0
        assert (f"table interactions: {lost.rpartition('interactions/')[2]} is gone" in done.out) == is_hurt, done.out
        assert ("table rejects is gone" in done.out) == is_hurt
    assert {name: rows(download(root, tmp_path / "repaired"), name) for name in names} == whole
    assert (root / "_lost").is_dir(), "what lay in the table's place is kept"


@pytest.mark.long
def test_an_encoder_in_a_store_and_samples_there_are_read_as_from_a_disk(spark, reached, tmp_path, monkeypatch):
    monkeypatch.setenv("LEARN_SPARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(spark.sparkContext.environment, "LEARN_SPARK_CACHE", str(tmp_path / "of the workers"))
    bucket, folder = reached.bucket(), save_tiny_bert(tmp_path / "model")
    model = upload(folder, bucket / "model")
    config = load_config(CONF / "test.yaml", [f"lake.options={json.dumps(reached.options)}"])
    texts = spark.createDataFrame([("red mug",), ("blue lamp",)], "title string")
    vectors = []
    for place in (folder, model):
        embed = embed_function(with_embedding(config, model=str(place)))
        vectors.append([row.vector for row in texts.select(embed("title").alias("vector")).collect()])
    assert vectors[0] == vectors[1] and any(vectors[0][0])
    assert list((tmp_path / "of the workers").rglob("model.safetensors")), "the workers brought a copy of their own"
    tables = Tables(spark, tmp_path / "lake")
    for kind in ("delta", "parquet"):
        tables.export(texts, bucket / kind, kind)
        assert {row.title for row in tables.read_samples(bucket / kind).collect()} == {"red mug", "blue lamp"}
    with pytest.raises(ConfigError, match="samples cannot be read as parquet at s3a://"):
        tables.read_samples(bucket / "nowhere")


def _for_delta_rs(store: ObjectStore) -> dict[str, str]:
    return {**store.environment, "AWS_ALLOW_HTTP": "true"}


# Adds a row whenever its stdin says so; its reason says which. A driver of its own, JVM and all.
_WRITER = """
import json, sys
from learn_spark.cli.troubles import known_trouble
from learn_spark.config.load import load_config
from learn_spark.errors import TemporaryError
from learn_spark.lake import lease
from learn_spark.lake.days import ONE_DAY
from learn_spark.lake.lease import living_holder
from learn_spark.lake.lock import lake_lock
from learn_spark.lake.session import build_session
from learn_spark.lake.tables import Tables
conf, root, ttl = json.loads(sys.argv[1])
lease.TTL = ttl
config = load_config(conf, [f"lake.root={root}"])
spark = build_session(config, "writer")
tables = Tables(spark, config.lake.root)
with lake_lock(config.lake.root):
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin):
        try:
            columns = f"'writer {number}' AS reason, NULL AS raw, 'file' AS source_file, DATE'2011-11-01' AS ds"
            tables.append("rejects", spark.sql(f"SELECT {columns}"))
            print("added", flush=True)
        except TemporaryError as error:
            print("refused:", error, flush=True)
        except Exception as error:
            print("failed:", " ".join(str(known_trouble(error) or error).split()), flush=True)
"""


@pytest.fixture
def writer(spark: SparkSession, reached: ObjectStore, monkeypatch) -> Iterator[tuple[Location, subprocess.Popen]]:
    """A lake, and another driver process that writes to it."""
    monkeypatch.setattr(lease, "TTL", TTL)
    root = reached.bucket() / "lake"
    with lake_lock(root):
        make_tables(spark, root)
    told = json.dumps([str(CONF / "test.yaml"), root.uri, TTL])
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"},
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield root, process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.long
def test_a_driver_that_was_stopped_adds_nothing_after_another_took_over(spark, reached, writer, monkeypatch):
    root, process = writer
    answers = [_asked(process) for _ in range(2)]
    assert answers == ["added\n"] * 2
    is_held, may_go = Event(), Event()

    def hold_its_data(request: dict[str, Any]) -> None:
        if request["REQUEST_METHOD"] == "PUT" and request["PATH_INFO"].endswith(".parquet"):
            is_held.set()
            may_go.wait(100)

    with monkeypatch.context() as held:
        held.setattr(reached, "refuse", hold_its_data)
        _ask(process)  # it looks at its lease, and is stopped while it writes
        assert is_held.wait(60)
    os.killpg(process.pid, signal.SIGSTOP)
    while living_holder(root):
        time.sleep(0.1)
    with lake_lock(root):
        _add(spark, Tables(spark, root), "ours 0")
        os.killpg(process.pid, signal.SIGCONT)
        may_go.set()
        answers.append(process.stdout.readline())
        answers.append(_asked(process))  # it looks again
        _add(spark, Tables(spark, root), "ours 1")
    assert [answer.split()[0] for answer in answers] == ["added", "added", "failed:", "refused:"], answers
    kept = sorted(row.reason for row in Tables(spark, root).read("rejects").collect())
    assert kept == ["ours 0", "ours 1", "writer 0", "writer 1"]


def _ask(writer: subprocess.Popen) -> None:
    writer.stdin.write("\n")
    writer.stdin.flush()


def _asked(writer: subprocess.Popen) -> str:
    _ask(writer)
    return writer.stdout.readline()


def _add(spark: SparkSession, tables: Tables, reason: str) -> None:
    columns = f"'{reason}' AS reason, NULL AS raw, 'file' AS source_file, DATE'2011-11-01' AS ds"
    tables.append("rejects", spark.sql(f"SELECT {columns}"))


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (("403 Forbidden", "InvalidAccessKeyId", "The key does not exist."), 2, "the store refuses access"),
        (("404 Not Found", "NoSuchBucket", "The specified bucket does not exist"), 2, "bucket does not exist"),
        (("503 Service Unavailable", "SlowDown", "Please reduce your request rate."), 75, "try again later"),
    ],
)
def test_a_store_that_refuses_ends_a_command_in_one_line_with_nothing_written(
    spark, reached, tmp_path, monkeypatch, answer, code, said
):
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    monkeypatch.setattr(reached, "refuse", lambda request: answer)
    root = "s3a://bucket/lake"
    options = "lake.options={config_kwargs: {retries: {max_attempts: 0}}}"
    done = run_here(tmp_path, "ingest_events", "--set", f"lake.root={root}", "--set", options)
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert SECRET not in done.err
    monkeypatch.undo()


@pytest.mark.long
def test_tables_in_a_store_have_names(spark, reached):
    root = reached.bucket() / "lake"
    tables = make_tables(spark, root)
    spark.sql("CREATE SCHEMA stored")  # this session's catalog is older than its way to the store
    for _ in range(2):
        register(spark, "stored", root)
    assert lake_at(spark, "stored") == root
    with lake_lock(root):
        tables.append("item_index", spark.createDataFrame([("mug", 1)], "item_id string, item_idx int"))
    assert [row.item_id for row in spark.table("stored.item_index").collect()] == ["mug"]
    spark.sql("DROP SCHEMA stored CASCADE")
    tables.require_own({})


def test_a_bucket_that_is_not_there_is_one_line(spark, reached, tmp_path):
    done = run_here(tmp_path, "ingest_events", "--set", "lake.root=s3a://nobody-made-it/lake")
    assert (done.code, "bucket does not exist" in done.err, done.err.count("\n")) == (2, True, 1), done.err


def test_a_spark_without_the_stores_client_says_how_to_get_it(spark, monkeypatch):
    monkeypatch.setattr("learn_spark.lake.delta_jars.STORE_CLIENT", "org.apache.hadoop.fs.s3a.NotThere")
    with pytest.raises(ConfigError, match=r"s3a://bucket: .*--packages org\.apache\.hadoop:hadoop-aws:3\.4\.\d,"):
        require_store_clients(spark, [Location("hdfs://name"), Location("s3a://bucket")])


def test_what_does_not_work_in_a_store_says_so(spark, reached, tmp_path):
    done = run_here(tmp_path, "compare", "--prepare", "trainings.sh", "--set", "lake.root=s3a://bucket/lake")
    assert (done.code, "does not work with lake.root in a store yet" in done.err) == (2, True), done.err


def test_a_table_that_is_gone_is_refused_as_on_a_file_system(spark, reached, tmp_path):
    root = reached.bucket() / "lake"
    with lake_lock(root):
        make_tables(spark, root)
        assert (root / FILE).is_file()
        for name in (root / "rejects").matching("**"):
            (root / "rejects" / name).unlink()
        with pytest.raises(ConfigError, match=f"{root}: table rejects is gone"):
            Tables(spark, root).require_own({})
