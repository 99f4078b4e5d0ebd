"""Lets a person confirm what was found, question by question; Enter means yes."""

from collections.abc import Callable, Iterable

from learn_spark.errors import ConfigError
from learn_spark.inspect.first_config import FirstConfig
from learn_spark.inspect.roles import Roles

Ask = Callable[[str], str]
ROLES = {
    "user_id": "who acts",
    "item_id": "on what",
    "event_ts": "when",
    "event_type": "the kind of event",
    "title": "what the item is called",
}


def ask(question: str) -> str:
    """Asks on the terminal.

    Raises:
        ConfigError: nobody is there to answer.
    """
    try:
        return input(question).strip()
    except EOFError:
        raise ConfigError("nobody answers: give --yes to take what was found") from None


def confirm_roles(roles: Roles, answer: Ask) -> None:
    """Asks about each role's column and about the catalogue, and changes `roles` by the answers."""
    guess = roles.guess
    for role, meaning in ROLES.items():
        if role == "title" and roles.catalogue:
            continue
        now = guess.column(role) or str(guess.mapping.get(role, {}).get("constant", "none"))
        chosen = _choice(f"{role} ({meaning})", now, guess.columns, answer)
        if chosen is None:
            continue
        options: dict[str, object] = {}
        if role == "event_ts":
            how = guess.columns[chosen].spelling
            if how is None:
                raise ConfigError(f"the values of {chosen} are no times: {', '.join(guess.columns[chosen].given[:3])}")
            options = how.options
        if role == "event_type":
            guess.event_types = []
        guess.put(role, chosen, options)
    if roles.catalogue and not _yes(f"item names from {roles.catalogue.seen.files}?", answer):
        roles.left_out[roles.catalogue.seen.files] = "not wanted"
        roles.catalogue = None


def confirm_targets(found: FirstConfig, answer: Ask) -> list[str] | None:
    """Asks which kinds of event are to be predicted; None keeps the ones that were found."""
    kinds = found.values["ingest"]["event_types"]
    now = found.values["sequences"]["target_events"]
    if len(kinds) < 2:
        return None
    given = answer(f"target events ({', '.join(now)}), Enter or some of {', '.join(kinds)}: ")
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in kinds]
    if unknown:
        raise ConfigError(f"there are no events {', '.join(unknown)}; there are {', '.join(kinds)}")
    return wanted or None


def _choice(what: str, now: str, names: Iterable[str], answer: Ask) -> str | None:
    """The column that the answer names, None to keep the current one; asks again if there is no such column."""
    known = list(names)
    while True:
        given = answer(f"{what}: {now}? Enter, or another of {', '.join(known)}: ")
        if not given or given == now:
            return None
        if given in known:
            return given


def _yes(question: str, answer: Ask) -> bool:
    return answer(f"{question} Enter for yes, n for no: ").lower() not in ("n", "no")
