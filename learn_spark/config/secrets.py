"""What no text may show: keys and passwords of the config. Whatever writes a text about a run asks here first.

A secret is what a `${NAME}` of the config stands for, what `spark.redaction.regex` finds among `spark.conf`, and the
password in a URI. Configs that are loaded make their secrets known for as long as the process lives.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from learn_spark.errors import ConfigError

HIDDEN = "*********(redacted)"  # as Spark writes it
REDACTION_KEY = "spark.redaction.regex"
SPARK_REDACTION = "(?i)secret|password|token|access[.]?key"  # Spark's default of it
_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_SHORT = 8  # a shorter secret is looked for as a word of its own
_PLAIN = re.compile(r"[-+\d.:e]{0,5}|\d{4}-\d\d-\d\d|true|false|null|yes|no", re.IGNORECASE)  # in any text, no secret
_NAMES_A_SECRET = re.compile(r"(?i)secret|passw|token|access.?key|credential|signature|^pwd$|^sig$")
_USER_INFO = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?:[^\s/?#@:'\"]*:[^\s/?#'\"]*|(?<=https://)[^\s/?#'\"]+)@", re.IGNORECASE
)
_IN_QUERY = re.compile(
    r"([?&;](?:sig|pwd|[^\s=&;]*(?:secret|passw|token|access.?key|credential|signature)[^\s=&;]*)=)[^\s&;'\"]+",
    re.IGNORECASE,
)
_known: dict[str, str] = {}  # a secret in every form that it may be written in: what is shown instead


class Referred(str):
    """A text with what the environment had for its `${NAME}`s.

    Attributes:
        written: the text as the config has it.
        found: what stood for each `${NAME}`.
    """

    written: str
    found: Mapping[str, str]

    @classmethod
    def of(cls, text: str, written: str, found: Mapping[str, str]) -> "Referred":
        """The text, and how it came about."""
        made = cls(text)
        made.written, made.found = written, found
        return made


def with_environment(values: Any, key: str = "") -> Any:  # noqa: ANN401 - what YAML holds
    """The values with what the environment has for every `${NAME}` in their texts.

    Raises:
        ConfigError: a variable is not set; names it and the key.
    """
    if isinstance(values, Mapping):
        return {name: with_environment(inner, f"{key}.{name}" if key else str(name)) for name, inner in values.items()}
    if isinstance(values, list):
        return [with_environment(inner, key) for inner in values]
    if not isinstance(values, str) or not (named := _REFERENCE.findall(values)):
        return values
    if missing := [name for name in named if name not in os.environ]:
        raise ConfigError(f"`{key}` takes ${{{missing[0]}}} from the environment, which has no {missing[0]}: export it")
    found = {name: os.environ[name] for name in named}
    return Referred.of(_REFERENCE.sub(lambda match: found[match[1]], values), values, found)


def references(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Referred]:  # noqa: ANN401
    """The texts with a `${NAME}`, by the keys that lead to them."""
    return {place: value for place, value in _texts(values, path) if isinstance(value, Referred)}


def remember(values: Mapping[str, Any], plain: set[str]) -> None:
    """Makes a config's secrets known.

    Args:
        values: the config's, as the files and `--set` have them, with the environment's.
        plain: dotted keys of paths: they are said wherever files are named, also where they come from the environment.
    """
    spark = values.get("spark")
    conf = spark.get("conf") if isinstance(spark, Mapping) else None
    for _, value in _secret_settings(conf if isinstance(conf, Mapping) else {}):
        _keep(value, HIDDEN)
        for name, part in re.findall(r"([^\s=]+)=(\S+)", value):  # -Dpassword=… among Java's options
            if _NAMES_A_SECRET.search(name):
                _keep(part, HIDDEN)
    for path, text in _texts(values):
        if path[:2] == ("lake", "options") and _is_secret_option(path):
            _keep(text, HIDDEN)
        if isinstance(text, Referred) and ".".join(path) not in plain:
            for name, found in text.found.items():
                _keep(found, f"${{{name}}}")
        for secret in _in_uri(text):
            _keep(secret, HIDDEN)


def redacted(text: str) -> str:
    """A text without what it must not show: known secrets, and the passwords of any URI."""
    if _known:
        either = "|".join(_searched(secret) for secret in sorted(_known, key=len, reverse=True))
        text = re.sub(either, lambda match: _known[match[0]], text)
    return _IN_QUERY.sub(rf"\g<1>{HIDDEN}", _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text))


def redaction_pattern() -> str:
    """What `redacted` looks for, as one regular expression for Java's log."""
    known = [rf"\Q{secret}\E" for secret in sorted(_known, key=len, reverse=True) if r"\E" not in secret]
    return "|".join([*known, r"(?<=://)[^\s/?#@:]*:[^\s/?#]*(?=@)"])


def redacted_conf(conf: Mapping[str, str]) -> dict[str, str]:
    """`spark.conf` as a page may show it."""
    hidden = dict(_secret_settings(conf))
    return {key: HIDDEN if key in hidden else redacted(value) for key, value in conf.items()}


def redacted_options(options: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`lake.options` as a page may show it."""
    shown: dict[str, Any] = {}
    for name, value in options.items():
        place = (*path, name)
        inner = redacted_options(value, place) if isinstance(value, Mapping) else value
        shown[name] = HIDDEN if _is_secret_option(place) else inner
    return shown


def _is_secret_option(path: tuple[str, ...]) -> bool:
    return path[-1] == "key" or any(_NAMES_A_SECRET.search(name) for name in path)


def _secret_settings(conf: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Settings of Spark whose key or value Spark's redaction finds.

    Raises:
        ConfigError: the config's own `spark.redaction.regex` is no regular expression.
    """
    own = conf.get(REDACTION_KEY)
    try:
        patterns = [re.compile(SPARK_REDACTION), *([re.compile(own)] if isinstance(own, str) else [])]
    except re.error as error:
        raise ConfigError(f"`spark.conf.{REDACTION_KEY}` is no regular expression: {error}") from None
    for key, value in conf.items():
        if key != REDACTION_KEY and any(each.search(str(key)) or each.search(str(value)) for each in patterns):
            yield str(key), str(value)


def _texts(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:  # noqa: ANN401
    if isinstance(values, str):
        yield path, values
    elif isinstance(values, Mapping):
        for key, inner in values.items():
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(values, list):
        for inner in values:
            yield from _texts(inner, path)


def _in_uri(text: str) -> Iterator[str]:
    """The password of a URI, and what its query calls one."""
    if "://" not in text:
        return
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    if password or (user and parts.scheme in ("http", "https")):
        yield password or user
    for item in re.split("[&;]", parts.query):
        name, _, value = item.partition("=")
        if value and _NAMES_A_SECRET.search(name):
            yield value


def _keep(secret: str, shown: str) -> None:
    if not _PLAIN.fullmatch(secret.strip()):
        written = json.dumps(secret)[1:-1]
        for form in (secret, unquote(secret), quote(secret, safe=""), written, html.escape(secret), repr(secret)[1:-1]):
            _known.setdefault(form, shown)


def _searched(secret: str) -> str:
    return re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
