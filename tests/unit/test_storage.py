"""Locations in a store, tested against an S3 server."""

import pickle
from pathlib import Path

import pytest

from learn_spark.errors import ConfigError, TemporaryError
from learn_spark.storage import (
    Location,
    hadoop_settings,
    place_of,
    require_mounted,
)
from tests.builders.object_store import SECRET, ObjectStore, object_store  # noqa: F401 - a fixture
from tests.builders.stores import assert_a_large_file_comes_back, assert_files_come_and_go, assert_one_of_many_creates

ONE_TRY = {"config_kwargs": {"retries": {"max_attempts": 0}}}


@pytest.fixture
def bucket(object_store: ObjectStore) -> Location:  # noqa: F811
    return object_store.bucket()


def test_a_path_stays_a_path_and_a_uri_is_spelled_as_spark_spells_it():
    assert type(place_of("/data/lake")) is type(Path())
    for text in ("s3://bucket/lake", "s3a://bucket/lake/", "S3A://bucket//lake"):
        assert str(place_of(text)) == "s3a://bucket/lake"
    assert str(place_of("s3a://bucket") / "a" / "b c=1%") == "s3a://bucket/a/b c=1%"
    for text in ("hdfs://name:8020/lake", "hdfs:///lake", "HDFS://name/lake//x/"):
        assert str(place_of(text)) == text.replace("HDFS", "hdfs").replace("//x/", "/x")
    assert str(place_of("hdfs:///lake").parent) == "hdfs://"


@pytest.mark.parametrize(
    "text",
    ["gs://bucket/lake", "s3a:/bucket/lake", "s3a://", "s3a:///lake", "s3a://key:word@bucket/lake", "hdfs:/x", "x:/"],
)
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match="no path|names no bucket"):
        place_of(text)


def test_no_call_takes_a_store_for_a_local_path():
    for call in (open, Path):
        with pytest.raises(TypeError, match="s3a://bucket/lake lies in a store"):
            call(place_of("s3a://bucket/lake"))


def test_options_travel_and_are_never_shown():
    place = place_of("s3a://bucket/lake", {"secret": SECRET})
    again = pickle.loads(pickle.dumps(place / "x"))
    assert again.options == {"secret": SECRET}
    assert SECRET not in f"{place!r} {place} {place / 'x'!r}"


def test_a_file_is_written_read_listed_and_gone(bucket):
    assert_files_come_and_go(bucket / "any", "a b%2Bü.json")


def test_what_others_write_is_seen_at_once(bucket, object_store):  # noqa: F811
    assert bucket.glob("*") == []
    Location(bucket.uri, object_store.options | {"default_block_size": 5 << 20}).joinpath("new").write_bytes(b"1")
    assert [place.name for place in bucket.glob("*")] == ["new"]


def test_of_many_who_create_a_file_at_once_one_succeeds(bucket):
    assert_one_of_many_creates(bucket)


def test_a_large_file_goes_up_and_down_unchanged(bucket, tmp_path):
    assert_a_large_file_comes_back(bucket, tmp_path)


def test_a_bucket_that_is_not_there_is_one_line(object_store):  # noqa: F811
    missing = Location("s3a://nobody-made-it/lake", object_store.options)
    assert not (missing / "x").exists()
    with pytest.raises(ConfigError, match="s3a://nobody-made-it/lake/x: The specified bucket does not exist"):
        (missing / "x").write_bytes(b"x")
    with pytest.raises(ConfigError, match="bucket does not exist"):
        (missing / "x").create(b"x")


def test_access_that_is_refused_is_one_line(bucket, object_store, monkeypatch):  # noqa: F811
    told = ("403 Forbidden", "InvalidAccessKeyId", "The key does not exist in our records.")
    monkeypatch.setattr(object_store, "refuse", lambda request: told)
    for call in ((bucket / "x").exists, lambda: (bucket / "x").write_bytes(b"")):
        with pytest.raises(ConfigError, match="the store refuses access") as raised:
            call()
        assert SECRET not in str(raised.value)


def test_a_store_that_is_busy_for_long_is_to_be_tried_again(bucket, object_store, monkeypatch):  # noqa: F811
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    file = Location(f"{bucket}/x", object_store.options | ONE_TRY)
    told = ("503 Service Unavailable", "SlowDown", "Please reduce your request rate.")
    monkeypatch.setattr(object_store, "refuse", lambda request: told)
    for call in (lambda: file.write_bytes(b""), lambda: file.create(b""), file.exists):
        with pytest.raises(TemporaryError, match="try again later"):
            call()


def test_a_store_that_cannot_be_reached_is_to_be_tried_again(monkeypatch):
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    options = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9", **ONE_TRY}
    with pytest.raises(TemporaryError, match="try again later"):
        (Location("s3a://bucket", options) / "x").read_bytes()


def test_sparks_client_reaches_the_store_as_options_and_environment_say(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert hadoop_settings({}) == {}, "Amazon's, by the default chain"
    options = {"key": "k", "secret": "s", "endpoint_url": "https://s3.shop", "client_kwargs": {"region_name": "fr"}}
    assert hadoop_settings(options) == {
        "spark.hadoop.fs.s3a.access.key": "k",
        "spark.hadoop.fs.s3a.secret.key": "s",
        "spark.hadoop.fs.s3a.endpoint": "https://s3.shop",
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.endpoint.region": "fr",
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://of-the-environment")
    assert hadoop_settings({})["spark.hadoop.fs.s3a.endpoint"] == "http://of-the-environment"
    assert hadoop_settings(options)["spark.hadoop.fs.s3a.endpoint"] == "https://s3.shop"


def test_each_store_is_given_what_is_meant_for_it():
    options = {"endpoint_url": "https://s3.shop", "dfs.client.use.datanode.hostname": True}
    told = hadoop_settings(options)
    assert told["spark.hadoop.dfs.client.use.datanode.hostname"] == "true"
    assert told["spark.hadoop.fs.s3a.endpoint"] == "https://s3.shop"


def test_wrong_options_are_one_line(object_store):  # noqa: F811
    place = Location("s3a://bucket/x", object_store.options | {"secrt": SECRET})
    with pytest.raises(ConfigError, match=r"lake\.options: .*secrt") as raised:
        place.read_bytes()
    assert SECRET not in str(raised.value)


def test_a_place_in_a_store_is_refused_where_only_a_path_serves():
    with pytest.raises(
        ConfigError, match=r"compare does not work with lake\.root in a store yet, and it is s3a://bucket"
    ):
        require_mounted(Location("s3a://bucket"), "compare")
