"""Says in lines for people what was found."""

from collections.abc import Iterator

from learn_spark.inspect.folder import Seen
from learn_spark.inspect.roles import Roles
from learn_spark.inspect.tally import RangeTally, Tally

SAMPLES = 3


def findings(roles: Roles) -> Iterator[str]:
    """The log, the catalogue, their columns, and what is left out."""
    for seen, guess in roles.sources or [(roles.log, roles.guess)]:
        yield f"log: {_place(seen)}"
        yield from _columns(seen)
        yield from (f"  {line}" for line in guess.said)
    if roles.log.drift:
        yield f"  some of the files lack {', '.join(roles.log.drift)}"
    if roles.log.from_path:
        yield f"  from the files' paths: {', '.join(roles.log.from_path)}"
    if roles.catalogue:
        share = f"{roles.catalogue.coverage:.0%} of the items that were seen in the log are in it"
        yield f"catalogue: {_place(roles.catalogue.seen)}; {share}"
        if not roles.catalogue.coverage:
            yield f"  no id is in both: {_both_ids(roles)}"
        yield from _columns(roles.catalogue.seen)
        yield from (f"  {line}" for line in roles.catalogue.guess.said)
    for name, reason in roles.left_out.items():
        yield f"left out: {name}: {reason}"
    for line in [*roles.log.unread, *(roles.catalogue.seen.unread if roles.catalogue else ())]:
        yield f"not read: {line}"


def _both_ids(roles: Roles) -> str:
    """Some ids of the log and of its catalogue, side by side."""
    assert roles.catalogue is not None
    sides = {"log": roles.guess, "catalogue": roles.catalogue.guess}
    told = (f"{name} {', '.join(list(own.columns[own.column('item_id')].counts)[:3])}" for name, own in sides.items())
    return "; ".join(told)


def _place(seen: Seen) -> str:
    layout = seen.layout
    kind = layout.format
    if kind == "csv":
        header = "with a header line" if layout.has_header else "without a header line"
        kind = f"csv, delimiter {layout.delimiter!r}, {layout.encoding}, {header}"
        kind += "" if layout.quote else ", never quoted"
        kind += ", escapes by \\" if layout.escape == "\\" else ""
        kind += ", line breaks within quotes" if layout.multiline else ""
        kind += f", {layout.skip_lines} lines above it" if layout.skip_lines else ""
        kind += "".join(f", unsure: {each}" for each in layout.unsure)
    kind += "".join(f", a row per element of {each}" for each in layout.explode)
    days = f", days {seen.days[0]} .. {seen.days[1]}" if seen.days else ""
    files = f"{len(seen.paths)} file{'s' if len(seen.paths) > 1 else ''}"
    return f"{files} {seen.files} in {seen.folder}{days}: {kind}"


def _columns(seen: Seen) -> Iterator[str]:
    for name in seen.columns:
        values = [row.get(name, "") for row in seen.rows[:2000]]
        empty = sum(not value.strip() for value in values) / len(values)
        samples = list(dict.fromkeys(" ".join(value.split())[:40] for value in values if value.strip()))[:SAMPLES]
        yield f"    {name}: {' | '.join(samples) or 'nothing'}{f' ({empty:.0%} empty)' if empty else ''}"


def counted(tally: Tally, counts: list[RangeTally]) -> Iterator[str]:
    """How many events, users and rows each range has."""
    many = "about " if tally.every > 1 else ""
    yield (
        f"{many}{len(tally.days) * tally.every:,} events of {tally.num_users:,} users and {tally.num_items:,} items"
        f" on {len(tally.event_days()):,} days"
    )
    if tally.every > 1:
        yield f"of every {tally.every} rows one was read: what follows counts those"
    for each in counts:
        what = "sequences" if each.range.as_of else "samples, negatives not counted"
        dates = f", as-of dates: {len(each.range.as_of)}" if each.range.as_of else ""
        yield (
            f"  {each.range.name:<14} {each.range.start} .. {each.range.end}{dates}: {each.events:,} events,"
            f" {each.users:,} users, {each.rows:,} {what}"
        )
    by_reason: dict[str, int] = {}
    for (reason, _), number in tally.bad.items():
        by_reason[reason] = by_reason.get(reason, 0) + number
    if by_reason:
        yield f"  no events: {', '.join(f'{reason} {n:,}' for reason, n in by_reason.items())} of {tally.rows:,} rows"
    yield from (f"  not read: {line}" for line in tally.unread)
