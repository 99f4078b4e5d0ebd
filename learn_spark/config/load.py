"""A YAML file over those that it extends, `--set` on top, checked as a whole before any work."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator

from learn_spark.config.comparison import ComparisonSettings
from learn_spark.config.ingest import IngestSettings
from learn_spark.config.model_sections import (
    CvrSettings,
    EmbeddingSettings,
    EvaluationSettings,
    FeatureSettings,
    Launch,
    ReleaseSettings,
    RetrievalSettings,
    StreamSettings,
    TowersSettings,
    TrainingSettings,
)
from learn_spark.config.presets import DEFAULT_PRESET, PRESETS, Preset
from learn_spark.config.renamed import renamed
from learn_spark.config.secrets import (
    Referred,
    redacted,
    redacted_conf,
    redacted_options,
    references,
    remember,
    with_environment,
)
from learn_spark.config.sections import (
    LakeSettings,
    MlflowSettings,
    OutputSettings,
    SampleSettings,
    ScaleSettings,
    SequenceSettings,
    SparkSettings,
    WindowSettings,
)
from learn_spark.config.yaml_text import read_yaml, read_yaml_file
from learn_spark.errors import ConfigError
from learn_spark.storage import SCHEME, Location, place_of, reached_by
from models.contract.event_types import check_weights
from models.contract.settings import NO_URL
from models.contract.strict import Settings, explained

PATH_KEYS = ("lake.root", "output.dir", "ingest.path", "ingest.items.path", "comparison.test_rows.path")
DEFAULT_PATHS = {
    "lake": {"root": str(LakeSettings().root)},
    "output": {"dir": str(OutputSettings().dir)},
    "ingest": {"path": str(IngestSettings().path)},
}


class Config(Settings):
    """The whole config of a run; first what everybody must set."""

    preset: Preset = DEFAULT_PRESET
    """Values under yours. recommended: what did better than the paper's on logs that were tried (docs/your_logs.md).
    paper: the paper's towers and conversion model. What you set yourself stands above either."""
    ingest: IngestSettings = IngestSettings()
    lake: LakeSettings = LakeSettings()
    output: OutputSettings = OutputSettings()
    windows: WindowSettings = WindowSettings()
    sequences: SequenceSettings = SequenceSettings()
    samples: SampleSettings = SampleSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    towers: TowersSettings = TowersSettings.model_validate(PRESETS[DEFAULT_PRESET]["towers"])
    cvr: CvrSettings = CvrSettings.model_validate(PRESETS[DEFAULT_PRESET]["cvr"])
    retrieval: RetrievalSettings = RetrievalSettings()
    features: FeatureSettings = FeatureSettings()
    releases: ReleaseSettings = ReleaseSettings()
    spark: SparkSettings = SparkSettings()
    mlflow: MlflowSettings = MlflowSettings()
    stream: StreamSettings = StreamSettings()
    training: TrainingSettings = TrainingSettings()
    comparison: ComparisonSettings = ComparisonSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    scale: ScaleSettings = ScaleSettings()

    _written: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    @property
    def launch(self) -> Launch:
        """Where what may train in several processes does."""
        return Launch(self.towers.run.launcher, self.towers.ranks, self.training.environment)

    def as_text(self) -> str:
        """All settings as YAML for people: `${NAME}` where the environment gave a value, and no secrets."""
        values = self.model_dump(mode="json")
        values["spark"]["conf"] = redacted_conf(values["spark"]["conf"])
        values["lake"]["options"] = redacted_options(values["lake"]["options"])
        for path, written in self._written.items():
            inner = values
            for key in path[:-1]:
                inner = inner[key] if isinstance(inner, dict) and key in inner else {}
            if isinstance(inner, dict) and isinstance(inner.get(path[-1]), str | int | float | bool):
                inner[path[-1]] = written
        return redacted(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @property
    def in_stores(self) -> list[Location]:
        """The places of the lake, the logs and other tables that lie in a store."""
        places = (getattr(holder, name) for holder, name in self._read_by_spark())
        return [place for place in places if isinstance(place, Location)]

    def _read_by_spark(self) -> list[tuple[Settings, str]]:
        """The sections that name a place, and the key."""
        rows = self.comparison.test_rows
        own = [rows] if rows else []
        return [(self.lake, "root"), *((each, "path") for each in (*self.ingest.all_files(), *own))]

    @model_validator(mode="after")
    def _mlflow_has_a_place(self) -> Self:
        if isinstance(self.output.dir, Location) and self.mlflow.tracking_uri is None:
            raise ValueError(
                f"output.dir is {self.output.dir}, where MLflow can keep no SQLite file: name its server in"
                " mlflow.tracking_uri"
            )
        return self

    @model_validator(mode="after")
    def _stores_are_reached(self) -> Self:
        """Every place in a store takes along how it is reached."""
        for holder, name in ((self.output, "dir"), *self._read_by_spark()):
            object.__setattr__(holder, name, reached_by(getattr(holder, name), self.lake.options))
        return self

    @model_validator(mode="after")
    def _event_types_exist(self) -> Self:
        known = set(self.ingest.event_types)
        asked = {
            "sequences": {*self.sequences.history_events, *self.sequences.target_events},
            "samples": {*self.samples.exposure_events, *self.samples.conversion_events},
            **{f"samples.other_labels.{name}": {*label.events} for name, label in self.samples.other_labels.items()},
        }
        for section, names in asked.items():
            if names - known:
                raise ValueError(
                    f"{section} names event types {sorted(names - known)}; ingest.event_types has {sorted(known)}"
                )
        return self

    @model_validator(mode="after")
    def _weights_are_of_targets(self) -> Self:
        check_weights(
            self.towers.loss.event_type_weights,
            self.sequences.event_types,
            self.sequences.types_of_targets(self.towers.loss.pairs),
        )
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        """Observed labels need room for what follows in every window, log-Q sampled ones; weights are of labels."""
        samples, windows = self.samples, self.windows
        if unknown := sorted(self.cvr.label_weights.keys() - samples.other_labels.keys()):
            known = f"has {', '.join(samples.names_of_others)}" if samples.other_labels else "names none"
            raise ValueError(f"cvr.label_weights weighs {', '.join(unknown)}; samples.other_labels {known}")
        if samples.labels == "sampled":
            return self
        if self.cvr.log_q:
            raise ValueError("cvr.log_q corrects sampled negatives, but samples.labels is observed: set it false")
        ends = (windows.towers_end, windows.cvr_end, windows.ranker_train_end, windows.end)
        rooms = {f"the samples' window from {a} to {b}": (b - a).days for a, b in zip(ends, ends[1:], strict=False)}
        rooms["cvr.validation_days"] = self.cvr.validation_days
        reaches = {"conversion_days": samples.conversion_days}
        reaches |= {f"other_labels.{name}.days": label.days for name, label in samples.other_labels.items()}
        for key, reach in reaches.items():
            for name, days in rooms.items():
                if days <= reach:
                    raise ValueError(
                        f"samples.{key} ({reach}) leaves no exposure whose label is known in {name} ({days} days): it"
                        " must be less"
                    )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Self:
        if self.ingest.start >= self.windows.first_as_of:
            raise ValueError(
                f"windows.first_as_of ({self.windows.first_as_of}) must come after ingest.start ({self.ingest.start})"
            )
        reach = timedelta(days=self.sequences.target_days)
        if self.windows.towers_end - 2 * reach < self.windows.first_as_of:
            raise ValueError(
                f"windows.towers_end ({self.windows.towers_end}) leaves no training as-of date: it must lie at least"
                f" twice sequences.target_days ({reach.days}) after first_as_of ({self.windows.first_as_of})"
            )
        if self.windows.towers_end + reach > self.windows.end:
            raise ValueError(
                f"windows.end ({self.windows.end}) must lie at least sequences.target_days ({reach.days})"
                f" after towers_end ({self.windows.towers_end}): retrieval is tested there"
            )
        longest = max(self.sequences.history_length, self.sequences.target_length)
        if self.towers.model.max_len < longest:
            raise ValueError(f"towers.model.max_len ({self.towers.model.max_len}) is below the sequences' {longest}")
        return self

    @model_validator(mode="after")
    def _reader_reads_the_lake(self) -> Self:
        if self.stream.reader == "petastorm" and set(str(self.lake.root)) & set(NO_URL):
            raise ValueError(
                f"lake.root {str(self.lake.root)!r}: Petastorm cannot read paths with ?, # or a line end; choose"
                " another, or stream.reader: arrow"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, overlays and checks a config.

    What no file sets has its default. Relative paths in a file are taken from that file's folder, those that no file
    sets from the first one's; in `overrides`, from the working directory.

    Args:
        path: the YAML file; with `extends: other.yaml` it changes the values of a file beside it.
        overrides: `section.key=value` strings, the value in YAML.

    Raises:
        ConfigError: with one line that names the key, the file and the reason.
    """
    file = Path(path)
    try:
        values = overlay(_absolute_paths(DEFAULT_PATHS, file.parent), PRESETS[DEFAULT_PRESET])
        values = overlay(values, _read_with_base(file, ()))
        for text in overrides:
            values = overlay(values, _with_preset(_absolute_paths(_parse_override(text), Path.cwd())))
        remember(values, set(PATH_KEYS))
        if old := renamed(values):
            raise ConfigError(f"{file}: {'; '.join(old)}")
        return _checked(file, values)
    except RecursionError:
        raise ConfigError(f"{file}: the config, or a --set, is nested too deeply") from None
    except ConfigError as error:
        raise ConfigError(redacted(str(error))) from None


def _checked(file: Path, values: dict[str, Any]) -> Config:
    written = references(values)
    hidden = [("spark",), ("mlflow",), ("lake", "options"), *written]
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {explained(error, Config, hidden)}") from None
    except OverflowError as error:
        raise ConfigError(f"{file}: a day or a number of days is out of range: {error}") from None
    config._written.update({path: text.written for path, text in written.items()})
    return config


def _read_with_base(file: Path, above: Sequence[Path]) -> dict[str, Any]:
    """The values of a file over those of the file that it extends, paths made absolute."""
    if file.resolve() in above:
        raise ConfigError(f"{above[-1]}: `extends: {file.name}` goes in a circle")
    values = _read_values(file)
    parent = values.pop("extends", None)
    values = _with_preset(_absolute_paths(values, file.parent))
    if parent is None:
        return values
    base_file = file.parent / str(parent)
    if not base_file.is_file():
        raise ConfigError(
            f"{file}: `extends: {parent}`, but there is no {base_file}: without `extends`, all keys have their defaults"
        )
    base = _read_with_base(base_file, (*above, file.resolve()))
    if isinstance(base.get("ingest"), dict) and "mapping" in (values.get("ingest") or {}):
        base["ingest"].pop("mapping", None)  # a log's mapping is whole: it inherits no columns
    return overlay(base, values)


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """The values over those of the preset that they name; an unknown name is left to the check."""
    name = values.get("preset")
    return overlay(PRESETS[name], values) if isinstance(name, str) and name in PRESETS else values


def _read_values(file: Path) -> dict[str, Any]:
    values = read_yaml_file(file)
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file} must hold a mapping of sections, not {type(values).__name__}")
    return _from_environment(values, str(file))


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write section.key=value")
    value = read_yaml(raw, f"--set {key}: the value")
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return _from_environment(value, "--set")


def _from_environment(values: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return with_environment(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """The base's values with those of `top` over them, key by key."""
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = overlay(merged[key], value)
        else:
            merged[key] = value
    return merged


def _absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    for dotted in PATH_KEYS:
        *sections, key = dotted.split(".")
        if sections[0] == "ingest":  # below
            continue
        inner: Any = values
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            change: Any = {key: _absolute(inner[key], folder, dotted)}
            for section in reversed(sections):
                change = {section: change}
            values = overlay(values, change)
    return values | {"ingest": _with_paths(values["ingest"], folder, "ingest")} if "ingest" in values else values


def _with_paths(source: Any, folder: Path, key: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """A copy of a section whose path is absolute, and those of its sources, its catalogue and all their lookups."""
    if not isinstance(source, dict):
        return source
    changed = dict(source)
    if isinstance(source.get("path"), str):
        changed["path"] = _absolute(source["path"], folder, f"{key}.path")
    if "items" in source:
        changed["items"] = _with_paths(source["items"], folder, f"{key}.items")
    if isinstance(sources := source.get("sources"), list):
        changed["sources"] = [_with_paths(each, folder, f"{key}.sources.{n}") for n, each in enumerate(sources)]
    if isinstance(lookups := source.get("lookups"), dict):
        changed["lookups"] = {
            name: _with_paths(each, folder, f"{key}.lookups.{name}") for name, each in lookups.items()
        }
    return changed


def _absolute(path: str, folder: Path, key: str) -> str:
    if SCHEME.match(path):
        return _in_store(path, key)
    try:
        absolute = str((folder.absolute() / path).resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a NUL byte, or links in a circle
        raise ConfigError(f"`{key}`: {path!r} is no path: {error}") from None
    return Referred.of(absolute, path.written, path.found) if isinstance(path, Referred) else absolute


def _in_store(uri: str, key: str) -> str:
    try:
        place = str(place_of(uri))
    except ValueError as error:
        raise ConfigError(f"`{key}`: {error}") from None
    return Referred.of(place, uri.written, uri.found) if isinstance(uri, Referred) else place
