"""What a day is made from, as one hash: code version, config sections, outside input, and the days that it needs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from learn_spark.config.load import Config
from learn_spark.runs.ledger import Rows, fingerprint_of
from learn_spark.runs.steps import Source, Step
from models.contract.settings import identity


def settings_of(config: Config, step: Step) -> dict[str, object]:
    """The settings that a step's result depends on, by config section, and further settings that these name."""
    own = {name: identity(getattr(config, name)) for name in step.sections}
    return own | dict(step.named(config) if step.named else {})


@dataclass(frozen=True)
class Scheme:
    """How fingerprints describe a step's code and settings.

    Attributes:
        code: gives the version of a step's code.
        settings: gives what a step's result depends on in the config, by section.
        version: the steps' version that the scheme stands for; None for the present versions.
    """

    code: Callable[[Step], object]
    settings: Callable[[Config, Step], Mapping[str, object]]
    version: int | None = None


VERSIONS = Scheme(lambda step: step.version, settings_of)


class Fingerprints:
    """Expected fingerprints: code version, config sections, outside input, and the fingerprints of a day's needs.

    Args:
        config: of the run.
        steps: by name.
        recorded: gives the ledger's rows, for outside input that is gone; called once per step.
        scheme: how code and settings are described.
        given: may give the fingerprint of a needed day, to be used instead of the expected one.
    """

    def __init__(
        self,
        config: Config,
        steps: Mapping[str, Step],
        recorded: Callable[[], Rows] = dict,
        scheme: Scheme = VERSIONS,
        given: Callable[[tuple[str, date]], str | None] = lambda need: None,
    ) -> None:
        self._config = config
        self.steps = steps
        self._recorded = recorded
        self._scheme = scheme
        self._given = given
        self._known: dict[tuple[str, date], str] = {}
        self._settings: dict[str, Mapping[str, object]] = {}
        self._sources: dict[str, Source] = {}

    def __call__(self, name: str, day: date) -> str:
        if (name, day) not in self._known:
            step = self.steps[name]
            source = self._source(step).identity(day) if step.source else None
            upstream = [self._given(need) or self(*need) for need in step.needs(self._config, day)]
            code, settings = self._scheme.code(step), self._settings_of(step)
            self._known[name, day] = fingerprint_of(code, name, day, settings, source, upstream)
        return self._known[name, day]

    def touched_by(
        self, changed: Iterable[tuple[str, date]], rows: Iterable[tuple[str, date]]
    ) -> list[tuple[str, date]]:
        """Recorded days downstream of `changed`. Stops at training steps: late events never make a model stale."""
        reached = dict.fromkeys(changed, True)

        def reaches(pair: tuple[str, date]) -> bool:
            if pair not in reached:
                step = self.steps[pair[0]]
                needs = () if step.trains else step.needs(self._config, pair[1])
                reached[pair] = any(reaches(need) for need in needs)
            return reached[pair]

        start = set(reached)
        return [pair for pair in sorted(rows) if pair not in start and reaches(pair)]

    def source_state(self, step: Step, day: date) -> str | None:
        """What the ledger keeps of the outside input of a step's day."""
        return self._source(step).state(day) if step.source else None

    def _source(self, step: Step) -> Source:
        if step.name not in self._sources:
            assert step.source is not None, f"{step.name} has no outside input"
            known = {day: row.source for (name, day), row in self._recorded().items() if name == step.name}
            self._sources[step.name] = step.source(self._config, known)
        return self._sources[step.name]

    def _settings_of(self, step: Step) -> Mapping[str, object]:
        if step.name not in self._settings:
            self._settings[step.name] = self._scheme.settings(self._config, step)
        return self._settings[step.name]
