"""Makes a first config for unknown files. No Spark."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from learn_spark.config.ingest import IngestSettings
from learn_spark.config.sources import SourceSettings
from learn_spark.inspect.columns import MOST_KINDS
from learn_spark.inspect.events_of_rows import NOT_WANTED
from learn_spark.inspect.findings import counted, findings
from learn_spark.inspect.folder import Seen
from learn_spark.inspect.guess import Guess, ordered
from learn_spark.inspect.layout import Layout
from learn_spark.inspect.proposal import Proposal, propose
from learn_spark.inspect.roles import Roles
from learn_spark.inspect.tally import Tally, tally_of

_WANTED = (  # words of the events that a ranker is to bring about, the most valuable first
    ("purchase", "buy", "order", "pay", "transaction", "checkout", "conversion"),
    ("like", "fav", "long_view", "follow", "cart", "download", "install"),
    ("click", "play", "listen", "read", "watch"),
)
_FEW_ROWS, _FEW_SAMPLES, _FEW_ITEMS = 6_000, 2_000, 200
_PARTITION_BYTES = 64 << 20
_NO_TITLE = "no title was found: the item's id stands for it; better give `items`, a catalogue with names"
_HEAD = """\
# A first guess from the files themselves: check every line, above all the mapping and the event types. Every key is in
# conf/base.yaml; what the dates mean, in docs/your_logs.md. What lies in each range:
"""


class _Plain(yaml.SafeDumper):
    """YAML without anchors, which people would have to look up."""

    def ignore_aliases(self, data: object) -> bool:
        return True


@dataclass
class FirstConfig:
    """A guessed config.

    Attributes:
        roles: what the files are.
        values: the config.
        tally, proposal: what was counted, and the windows that follow from it.
        said: what else a person should know.
    """

    roles: Roles
    values: dict[str, Any]
    tally: Tally
    proposal: Proposal
    said: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """All findings."""
        yield from findings(self.roles)
        yield from self.said
        yield from counted(self.tally, self.proposal.counts)

    def text(self) -> str:
        """The config as YAML, with the counts above it."""
        told = "".join(f"# {line}\n" for line in counted(self.tally, self.proposal.counts))
        if self.proposal.refusal:
            told += f"# These windows will not do: {self.proposal.refusal}\n"
        body = yaml.dump(
            self.values, Dumper=_Plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
        )
        return f"{_HEAD}{told}\n{body}"


def config_of(roles: Roles, name: str, targets: list[str] | None = None) -> FirstConfig:
    """The config for what was found.

    Args:
        roles: what the files are.
        name: lake and output will be in the folder `<name>-run` beside the config.
        targets: the kinds of event to predict; by default the most valuable ones of which there are enough.

    Raises:
        ConfigError: the files hold no event that can be read.
    """
    log, guess = roles.log, roles.guess
    sources = roles.sources or [(log, guess)]
    if roles.catalogue is None:
        for _, own in sources:
            if "title" not in own.mapping:
                own.mapping["title"] = {"column": own.column("item_id")}
                own.said.append(_NO_TITLE)
    ingest = _source(log, guess, ordered(guess.mapping))
    if roles.sources:
        parts = [_source(seen, own, ordered(own.mapping)) for seen, own in roles.sources]
        ingest = {key: value for key, value in parts[0].items() if all(part.get(key) == value for part in parts)}
        ingest["sources"] = [{key: part[key] for key in part if key not in ingest} for part in parts]
        guess.event_types = [kind for _, own in roles.sources for kind in own.event_types]
    if roles.catalogue:
        ingest["items"] = _source(roles.catalogue.seen, roles.catalogue.guess, roles.catalogue.mapping)
    ingest["start"] = date(1971, 1, 1)
    draft = IngestSettings.model_validate({**ingest, "event_types": _all_types(guess)})
    tally = tally_of(draft, _files(draft, sources), known=False)
    first, last, strays = tally.span()
    said = [f"{strays} events lie far from all others and are left out: the log is {first} .. {last}"] if strays else []
    if log.days:
        first = min(log.days[0], last)
    kinds = guess.event_types or [kind for kind, _ in _by_frequency(tally)][:MOST_KINDS]
    ingest |= {"start": first, "event_types": kinds, **_gates(tally, first)}
    values: dict[str, Any] = {
        "lake": {"root": f"{name}-run/lake"},
        "output": {"dir": f"{name}-run/output"},
        "ingest": ingest,
        "sequences": {"history_events": list(kinds)},
        "embedding": {"template": _template(roles)},
        "spark": _spark(log),
    }
    proposal = _proposal(tally, values, [targets] if targets else _dear(kinds))
    for section, days in proposal.values.items():
        values[section] = values.get(section, {}) | days
    _fit_small(values, tally, proposal)
    order = ("lake", "output", "ingest", "windows", "sequences")
    return FirstConfig(roles, {**{key: values[key] for key in order}, **values}, tally, proposal, said)


def _dear(kinds: list[str]) -> list[list[str]]:
    """Lists of kinds that can be the targets, the most valuable first; the last list has all kinds."""
    dear = [[kind for kind in kinds if any(word in kind.lower() for word in words)] for words in _WANTED]
    return [*filter(None, dear), list(kinds)]


def _proposal(tally: Tally, values: dict[str, Any], choices: list[list[str]]) -> Proposal:
    """Windows for the first choice of targets of which each range has some; sets `target_events` to that choice."""
    proposals: list[tuple[list[str], Proposal]] = []
    for wanted in choices:
        values["sequences"]["target_events"] = wanted
        proposals.append((wanted, propose(tally, values)))
        if proposals[-1][1].refusal is None:
            break
    good = [pair for pair in proposals if pair[1].refusal is None]
    values["sequences"]["target_events"], proposal = (good or proposals[:1])[0]
    return proposal


def _files(draft: IngestSettings, sources: list[tuple[Seen, Guess]]) -> Iterator[tuple[SourceSettings, Path]]:
    for settings, (seen, _) in zip(draft.each(), sources, strict=True):
        yield from ((settings, file) for file in seen.paths)


def folder_name(folder: Path) -> str:
    """The folder's name after its parent's, so that two folders `logs` get different names."""
    return "-".join(part for part in (folder.parent.name, folder.name) if part) or "logs"


def _all_types(guess: Guess) -> list[str]:
    """The kinds that the mapping gives; without any, one name will do, since all kinds are counted."""
    return guess.event_types or ["event"]


def _by_frequency(tally: Tally) -> list[tuple[str, int]]:
    return Counter(tally.names[kind] for kind in tally.kinds.tolist()).most_common()


def _source(seen: Seen, guess: Guess, mapping: dict[str, dict[str, object]]) -> dict[str, Any]:
    """A source's section of the config: where its files are, and how their reading differs from the defaults."""
    layout = seen.layout
    given = {
        "delimiter": layout.delimiter,
        "encoding": layout.encoding,
        "quote": layout.quote or None,
        "escape": layout.escape if layout.quote else '"',
        "multiline": layout.multiline,
        "skip_lines": layout.skip_lines,
        "comment": layout.comment or None,
        "columns": None if layout.has_header else layout.columns,
        "nulls": sorted(
            {marker for name in _used(mapping) if name in guess.columns for marker in guess.columns[name].nulls}
        ),
        "explode": _explode(layout),
    }
    defaults = {name: each.default for name, each in SourceSettings.model_fields.items()}
    dialect = {key: value for key, value in given.items() if value not in (defaults[key], [])}
    if layout.format == "csv":
        dialect = {"delimiter": layout.delimiter} | dialect
    return {"path": str(seen.folder), "files": seen.files, "format": layout.format, **dialect, "mapping": mapping}


def _explode(layout: Layout) -> object:
    if not layout.separator:
        return list(layout.explode) or None
    return {"columns": list(layout.explode), "separator": layout.separator, "pattern": layout.pattern}


def _used(mapping: dict[str, dict[str, object]]) -> list[str]:
    return [str(part["column"]) for part in mapping.values() if "column" in part]


def _gates(tally: Tally, first: date) -> dict[str, Any]:
    """A reject limit as high as the worst day's share of unusable rows, if that is above the default limit."""
    days, counts = tally.event_days(), Counter(tally.days.tolist())
    bad: Counter[date] = Counter()
    for (reason, day), number in tally.bad.items():
        if reason != NOT_WANTED:
            bad[day if day and day >= first else days[0]] += number
    shares = [number / (number + counts[day.toordinal()]) for day, number in bad.items()]
    share = math.ceil(max(shares, default=0.0) * 100) / 100
    return {"gates": {"max_reject_share": share}} if share > 0.05 else {}


def _template(roles: Roles) -> str:
    """The template for the fields that items have, and for their language."""
    guess = roles.catalogue.guess if roles.catalogue else roles.guess
    titles = guess.columns[guess.column("title")].given[:200]
    is_chinese = sum(any("\u3400" <= char <= "\u9fff" for char in title) for title in titles) > len(titles) / 2
    if {"category", "brand"} & set(guess.mapping):
        return "brief_zh" if is_chinese else "brief"
    return "title"


def _spark(log: Seen) -> dict[str, Any]:
    """Settings for small logs: with Spark's default of 200 partitions, most of the time goes into empty tasks."""
    partitions = max(4, math.ceil(log.size * 5 / _PARTITION_BYTES))
    return {"shuffle_partitions": partitions, "ui": False} if partitions < 200 else {}


def _fit_small(values: dict[str, Any], tally: Tally, proposal: Proposal) -> None:
    """Adapts the config to few rows: small batches, and gates that a handful of items can pass."""
    rows = {each.range.name: each.rows for each in proposal.counts}
    if rows.get("train", 0) < _FEW_ROWS:
        values["towers"] = {"train": {"batch_size": 32}}
    gates: dict[str, Any] = {}
    if tally.num_items < _FEW_ITEMS:
        gates |= {"min_effective_rank": 1.0, "max_mean_cosine": 1.0}
        values["embedding"]["gates"] = {"min_effective_rank": 1.0}
    if rows.get("cvr validation", 0) < _FEW_SAMPLES:
        gates["min_pair_auc"] = 0.0
    if gates:
        values["features"] = {"gates": gates}
