"""The lock of a lake in a store: processes that race for it, are killed, or are stopped and continue."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from threading import Barrier
from typing import Any

import pytest

from learn_spark.errors import TemporaryError
from learn_spark.lake.lease import Lease, living_holder, newest_epoch
from learn_spark.lake.lock import lake_lock, lease_of, without_writers
from learn_spark.storage import Location
from tests.builders.object_store import ObjectStore, object_store  # noqa: F401 - a fixture

TTL = 3.0  # the store's clock has whole seconds
# Takes the lake when it gets a line on stdin, and then prints for every further line whether it may still commit.
_HOLDER = """
import json, sys
from learn_spark.errors import TemporaryError
from learn_spark.lake.lease import Lease
from learn_spark.storage import Location
uri, options, ttl = json.loads(sys.argv[1])
lease, call = Lease(Location(uri, options), ttl), None
print("ready", flush=True)
for line in sys.stdin:
    try:
        call = lease.check if call else lease.take
        call()
        print("ok", lease.epoch, flush=True)
    except TemporaryError as error:
        print("refused:", error, flush=True)
"""


class Holder:
    """A process that can take the lake."""

    def __init__(self, root: Location) -> None:
        told = json.dumps([root.uri, root.options, TTL])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.answer() == "ready"

    def ask(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def asked(self) -> str:
        self.ask()
        return self.answer()


@pytest.fixture
def root(object_store: ObjectStore) -> Location:  # noqa: F811
    return object_store.bucket() / "lake"


@pytest.fixture
def holder(root: Location) -> Iterator[Callable[[], Holder]]:
    started: list[Holder] = []

    def start() -> Holder:
        started.append(Holder(root))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdin.close()
        each.process.stdout.close()


def taken(root: Location) -> Lease:
    """The lake's lease, taken as soon as it is free."""
    for _ in range(100):
        lease = Lease(root, TTL)
        try:
            lease.take()
        except TemporaryError:
            time.sleep(0.1)
            continue
        return lease
    raise AssertionError("nobody lets it go")


@pytest.mark.process
def test_of_those_who_race_one_gets_the_lake(root, holder, object_store, monkeypatch):  # noqa: F811
    racers, at_once = [holder() for _ in range(4)], Barrier(4)

    def wait_for_all(request: dict[str, Any]) -> None:
        if request["REQUEST_METHOD"] == "PUT" and "/epochs/" in request["PATH_INFO"]:
            at_once.wait(30)

    monkeypatch.setattr(object_store, "refuse", wait_for_all)
    for each in racers:
        each.ask()
    answers = [each.answer() for each in racers]
    assert sorted(answer.split()[0] for answer in answers) == ["ok", "refused:", "refused:", "refused:"]
    assert newest_epoch(root) == 0


@pytest.mark.process
def test_one_who_is_killed_holds_the_lake_until_its_time_is_over(root, holder):
    first = holder()
    assert first.asked() == "ok 0"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    killed_at = time.monotonic()
    with pytest.raises(TemporaryError, match=rf"another run works on the lake .*process {first.process.pid} on"):
        Lease(root, TTL).take()
    lease = taken(root)
    assert time.monotonic() - killed_at > TTL / 2  # less a second of the store's clock and a heartbeat's age
    assert lease.epoch == 1
    lease.release()


@pytest.mark.process
def test_one_who_lives_keeps_the_lake_and_one_who_ends_gives_it_at_once(root, holder):
    first = holder()
    first.asked()
    time.sleep(2 * TTL)
    assert first.asked() == "ok 0"
    with pytest.raises(TemporaryError):
        Lease(root, TTL).take()
    lease = Lease(root / "other", TTL)
    lease.take()
    lease.release()
    assert living_holder(root / "other", TTL) is None
    again = Lease(root / "other", TTL)
    again.take()
    assert again.epoch == 1
    again.release()


@pytest.mark.process
def test_one_who_was_stopped_commits_nothing_when_it_wakes_up(root, holder):
    first = holder()
    first.asked()
    first.process.send_signal(signal.SIGSTOP)
    lease = taken(root)
    first.ask()
    first.process.send_signal(signal.SIGCONT)
    assert "nothing more is written" in first.answer()
    time.sleep(TTL / 2)  # its own heartbeats must not restore the lease
    assert "nothing more is written" in first.asked()
    lease.check()
    lease.release()


@pytest.mark.process
def test_one_who_was_stopped_and_not_replaced_gives_up_as_well(root, holder):
    first = holder()
    first.asked()
    first.process.send_signal(signal.SIGSTOP)
    time.sleep(TTL + 1)
    first.process.send_signal(signal.SIGCONT)
    assert "nothing more is written" in first.asked()


def test_a_store_that_does_not_answer_ends_the_hold(root, object_store, monkeypatch):  # noqa: F811
    lease = Lease(root.at(root.uri), TTL)
    lease.take()
    monkeypatch.setattr(object_store, "refuse", lambda request: ("403 Forbidden", "AccessDenied", "no"))
    time.sleep(TTL + 1)
    monkeypatch.undo()
    with pytest.raises(TemporaryError, match="nothing more is written"):
        lease.check()
    lease.release()


def test_nothing_is_written_without_the_lock_and_local_lakes_have_none(root, tmp_path):
    assert lease_of(tmp_path) is None
    with pytest.raises(TemporaryError, match="does not hold it"):
        lease_of(root)
    with lake_lock(root) as unlock:
        assert lease_of(root).epoch == 0
        with pytest.raises(TemporaryError, match="another run works on the lake"), without_writers(root):
            pass
        unlock()
    with pytest.raises(TemporaryError, match="does not hold it"):
        lease_of(root)


def test_who_reads_beside_a_writer_is_told_so(root):
    with pytest.raises(TemporaryError, match="another run works on the lake"), without_writers(root), lake_lock(root):
        pass
    with without_writers(root):
        pass


def test_a_lake_that_is_being_taken_is_busy_though_nobody_has_said_who(object_store: ObjectStore) -> None:  # noqa: F811
    root = object_store.bucket() / "lake"
    (root / "_lease" / "epochs" / "00000000").write_bytes(b"")
    with pytest.raises(TemporaryError, match=r"another run works on the lake .* \(a process that is starting\)"):
        Lease(root).take()
