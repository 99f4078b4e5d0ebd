"""An S3 server on loopback, in this process: moto, with write requests handled one at a time."""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from learn_spark.storage import Location

KEY, SECRET = "AKIATESTSOFLEARNSPARK", "a secret of the tests / 42"
_WRITES = {"PUT", "POST", "DELETE"}
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"


@dataclass
class ObjectStore:
    """A running server.

    Attributes:
        endpoint: its address.
        refuse: called with each request; if it returns status, code and message, they are the answer.
        requests: method and path of each request so far.
    """

    endpoint: str
    refuse: Callable[[dict[str, Any]], tuple[str, str, str] | None] = lambda request: None
    requests: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process can reach the store without further settings."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> Location:
        """A new bucket."""
        import s3fs

        name = f"bucket-{uuid.uuid4().hex[:12]}"  # unique, because moto keeps buckets per process, not per server
        s3fs.S3FileSystem(use_listings_cache=False, **self.options).mkdir(name)
        return Location(f"s3a://{name}", self.options)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002, ANN401 - werkzeug's
        pass


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    """One server for the tests of a file; each test makes a bucket of its own."""
    with serving() as store:
        yield store


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """A server that runs as long as the block."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # cached instances may hold the address of an earlier server
    app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
    store = ObjectStore("")

    def serve(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        store.requests.append(f"{request['REQUEST_METHOD']} {request['PATH_INFO']}")
        if told := store.refuse(request):
            status, code, message = told
            body = _ERROR.format(code, message).encode()
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            return (
                [] if request["REQUEST_METHOD"] == "HEAD" else [body]
            )  # an answer to HEAD must have no body, or the client misreads the next answer
        if request["REQUEST_METHOD"] not in _WRITES:
            return app(request, start)
        with lock:  # moto checks for a key and stores it without a lock
            return app(request, start)

    server: BaseWSGIServer = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=_Quiet)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
