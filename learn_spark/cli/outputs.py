"""Reports and summaries if `output.dir` lies in a store: written on this machine, uploaded when a command ends."""

import json
import uuid
from contextlib import suppress
from pathlib import Path

from learn_spark.bridge.folders import require_writable
from learn_spark.config.sections import OutputSettings
from learn_spark.evaluation.summary import SUMMARY
from learn_spark.storage import Location
from models.contract.whole_files import write_whole

_SENT = ".sent.json"


def require_outputs(output: OutputSettings) -> None:
    """Checks, before hours of work, that files can be written to `output.dir`.

    Raises:
        ConfigError: they cannot.
        TemporaryError: the disk is full, or the store does not answer.
    """
    require_writable(output.folder, "output.dir")
    if isinstance(output.dir, Location):
        probe = output.dir / f".{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()


def send_outputs(output: OutputSettings) -> None:
    """Uploads the files that have changed since the last upload, the summary last; does nothing for a local folder.

    Raises:
        LearnError: the upload failed.
    """
    if not isinstance(output.dir, Location) or not output.folder.is_dir():
        return
    sent: dict[str, list[int]] = {}
    with suppress(FileNotFoundError, ValueError):
        sent = json.loads((output.folder / _SENT).read_bytes())
    found = {str(file.relative_to(output.folder)): file for file in output.folder.rglob("*") if _is_whole(file)}
    for name in sorted(found, key=lambda name: (name == SUMMARY, name)):
        stat = found[name].stat()
        state = [stat.st_size, stat.st_mtime_ns]
        if sent.get(name) != state:
            (output.dir / name).send(found[name])
            sent[name] = state
            write_whole(output.folder / _SENT, json.dumps(sent))


def _is_whole(file: Path) -> bool:
    """Whether a file is complete: while it is being written, its name begins with a dot."""
    return file.is_file() and not file.name.startswith(".")
