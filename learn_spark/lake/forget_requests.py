"""Requests to forget users and items: files beside the tables, so that any command sees one that is not finished.

A request holds salted hashes, never ids. It is written before anything is deleted, and says `done` at the very end.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from learn_spark.errors import ConfigError
from learn_spark.storage import Place, write_whole

OPEN, DONE = "open", "done"
CERTIFICATE = "certificate.json"
_FOLDER = ("_artifacts", "forgetting")
_REQUEST = "request.json"


@dataclass(frozen=True)
class Request:
    """A request to forget users and items.

    Attributes:
        request: its id, a hash of what is to be forgotten: the same list is the same request.
        salt: the lake's salt.
        asked_at: when it was first made, UTC.
        hashes: of the ids, by kind.
        state: open or done.
        found: what the searches found, by place.
    """

    request: str
    salt: str
    asked_at: str
    hashes: Mapping[str, Sequence[str]]
    state: str = OPEN
    found: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Kinds and hashes."""
        return [(kind, name) for kind, names in self.hashes.items() for name in names]

    def count(self, kind: str) -> int:
        """How many ids of a kind it names."""
        return len(self.hashes.get(kind, ()))

    def ended(self) -> "Request":
        """The same request with the state done."""
        return replace(self, state=DONE)


def hash_of(salt: str, name: str) -> str:
    """The hash of one id."""
    return hashlib.sha256(f"{salt}{name}".encode()).hexdigest()


def request_id(pairs: Iterable[tuple[str, str]]) -> str:
    """The id for a set of kinds and hashes."""
    return hashlib.sha256("\n".join(" ".join(pair) for pair in sorted(pairs)).encode()).hexdigest()[:12]


def requests_of(root: Place) -> list[Request]:
    """All requests of a lake, the oldest first.

    Raises:
        ConfigError: the file of one is damaged.
    """
    folder, pattern = root.joinpath(*_FOLDER), f"*/{_REQUEST}"
    if isinstance(folder, Path):
        found = [file for file in folder.glob(pattern) if not file.parent.name.startswith(".")]
    else:
        found = [folder / name for name in folder.matching(pattern)]
    return sorted(map(_read, found), key=lambda one: one.asked_at)


def open_requests(root: Place) -> list[Request]:
    """The requests that are not finished, the oldest first."""
    return [request for request in requests_of(root) if request.state == OPEN]


def write_request(root: Place, request: Request) -> None:
    """Replaces the request's file as a whole."""
    write_whole(place_of(root, request) / _REQUEST, json.dumps(asdict(request), indent=1) + "\n")


def place_of(root: Place, request: Request) -> Place:
    """The folder of a request."""
    return root.joinpath(*_FOLDER, request.request)


def salt_of(requests: Sequence[Request]) -> str:
    """The lake's salt: that of its requests, or a new one."""
    return requests[0].salt if requests else secrets.token_hex(16)


def _read(file: Place) -> Request:
    try:
        return Request(**json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): bring it back from a backup, or remove its folder and"
            f" forget the same list again"
        ) from None
