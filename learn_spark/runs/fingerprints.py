"""What a day is made from, as one hash: code version, config sections, outside input, and the days that it needs."""

from collections.abc import Callable, Iterable, Mapping
from datetime import date

from learn_spark import __version__
from learn_spark.config.load import Config
from learn_spark.runs.ledger import Rows, fingerprint
from learn_spark.runs.steps import Source, Step
from models.contract.settings import identity


class Marks:
    """Expected fingerprints: code version, config sections, outside input, and the marks of a day's needs.

    Args:
        config: the run's.
        steps: by name.
        recorded: the ledger's rows, for outside input that is gone; asked once.
    """

    def __init__(self, config: Config, steps: Mapping[str, Step], recorded: Callable[[], Rows] = dict) -> None:
        self._config = config
        self._steps = steps
        self._recorded = recorded
        self._known: dict[tuple[str, date], str] = {}
        self._sections: dict[str, object] = {}
        self._sources: dict[str, Source] = {}

    def __call__(self, name: str, day: date) -> str:
        if (name, day) not in self._known:
            step = self._steps[name]
            source = self._source(step).identity(day) if step.source else None
            upstream = [self(*need) for need in step.needs(self._config, day)]
            sections = {section: self._section(section) for section in step.sections}
            self._known[name, day] = fingerprint(__version__, name, day, sections, source, upstream)
        return self._known[name, day]

    def touched_by(
        self, changed: Iterable[tuple[str, date]], rows: Iterable[tuple[str, date]]
    ) -> list[tuple[str, date]]:
        """Those of `rows` that were made from `changed`, directly or not; models, and what only they use, are not."""
        reached = dict.fromkeys(changed, True)

        def reaches(pair: tuple[str, date]) -> bool:
            if pair not in reached:
                step = self._steps[pair[0]]
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
            known = {day: row.source for (name, day), row in self._recorded().items() if name == step.name}
            self._sources[step.name] = step.source(self._config, known)
        return self._sources[step.name]

    def _section(self, name: str) -> object:
        if name not in self._sections:
            self._sections[name] = identity(getattr(self._config, name))
        return self._sections[name]
