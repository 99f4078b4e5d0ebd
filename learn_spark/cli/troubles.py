"""Turns errors into one line: known troubles of machine and lake, and unexpected errors, whose stack goes to a file."""

import re
import traceback
from collections.abc import Callable
from pathlib import Path

from learn_spark.config.secrets import redacted
from learn_spark.errors import ConfigError, LearnError, TemporaryError
from models.contract.failures import BadInput, is_disk_full

_LONGEST = 400  # most characters of a library's message
_JVM_STACK = re.compile(r"\n\s+at \S+\(|\nJVM stacktrace:|\nDriver stacktrace:|\nTraceback ")
_REFUSED = re.compile(r"^models\.contract\.failures\.BadInput: (.+)", re.MULTILINE)  # in a Python worker of Spark
_DENIED = re.compile(r"(?:Caused by: )?([^\n]*(?:Read-only file system|Permission denied)[^\n]*)")
_NAMELESS = "while reading file ."  # Comet's message; only its cause names the file, without the first slash
_NAMED_BELOW = re.compile(r"for file /?(\S+\.parquet)")
_PY4J_PREFIX = re.compile(r"^An error occurred while calling \S+\.\s*:?\s*")


def in_a_line(error: Exception, keep: Callable[[str], Path]) -> LearnError:
    """Turns any error into one with a one-line message; `keep` writes an unknown error's stack to a file."""
    known = known_trouble(error)
    if known:
        return known
    return LearnError(f"{_cause(error)}; the whole error is in {keep(''.join(traceback.format_exception(error)))}")


def known_trouble(error: Exception) -> LearnError | None:
    """A one-line error for a known trouble of machine, lake or input; None for any other error."""
    text = redacted(str(error))
    if refused := text if isinstance(error, BadInput) else _first(_REFUSED.search(text)):
        return ConfigError(refused)
    if is_disk_full(error):
        return TemporaryError(f"no space left on device; free some under lake.root or spark.local.dir: {text[:300]}")
    if re.search("Concurrent(Modification|Append|Transaction)Exception", text):
        return TemporaryError(f"another writer committed at the same time: {text[:300]}")
    if denied := _first(_DENIED.search(text)):
        return ConfigError(f"a file cannot be read or written: {denied.strip()[:_LONGEST]}")
    if "FILE_NOT_EXIST" in text or "FileNotFoundException" in text:
        named = re.search(r"\S+\.parquet", text)
        return ConfigError(
            f"a data file is gone, deleted or vacuumed by something else than maintain_tables:"
            f" {named.group() if named else text[:300]}; `learn-spark repair` makes it again"
        )
    return None


def _first(found: re.Match[str] | None) -> str | None:
    return found[1] if found else None


def _cause(error: Exception) -> str:
    """Where it failed, and the error's kind and message without stacks."""
    where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    if type(error).__module__.startswith("py4j") and not hasattr(error, "java_exception"):
        return f"{where}Spark's JVM is gone: it was killed, or ended for lack of memory"
    whole = redacted(str(error))
    line = " ".join(_PY4J_PREFIX.sub("", _JVM_STACK.split(whole)[0]).split())
    if named := _NAMED_BELOW.search(whole):
        line = line.replace(_NAMELESS, f"{_NAMELESS.removesuffix('.')}/{named[1]}.")
    short = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    return f"{where}{type(error).__name__}: {short}" if short else f"{where}{type(error).__name__}"
