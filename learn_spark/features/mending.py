"""Mends lost and damaged files: finds what is hurt and which days must be made again, and clears the way for that.

The usual runner makes the days again, so this module only removes what wrongly counts as done. The order ensures that a
kill at any point leaves more to do, never less: first the ledger's rows are marked stale, then releases whose rows are
gone expire, then dead files are dropped from the tables.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame

from learn_spark.bridge.trained import cvr_path, is_trained, towers_path
from learn_spark.embedding import golden_texts
from learn_spark.embedding.matrix import known_meta, matrix_path
from learn_spark.errors import ConfigError
from learn_spark.features import canaries
from learn_spark.features.item_numbers import numbers_again
from learn_spark.ingest.files import SourceFiles
from learn_spark.lake.days import days_predicate, spans
from learn_spark.lake.forget_requests import requests_of
from learn_spark.lake.frames import frame_of
from learn_spark.lake.identity import OLDER
from learn_spark.lake.live_files import DeadFile
from learn_spark.lake.schemas import FORGOTTEN, INTERVALS, ITEM_INDEX, ITEM_LIFE, RELEASES, TABLES
from learn_spark.lake.tombstones import rows_of
from learn_spark.releases.codebooks import CODES, known_codebook
from learn_spark.releases.registry import EXPIRED, READABLE, Release, find_release, releases, set_status
from learn_spark.releases.release import FEATURE_TABLES
from learn_spark.releases.spaces import models_of
from learn_spark.runs.plan import Standing
from learn_spark.runs.steps import INGEST_EVENTS, Context, StepDay, StepName
from learn_spark.sequences.windows import sample_windows
from learn_spark.storage import Place
from models.contract.content_matrix import vectors_file
from models.contract.damage import matrix_damage, model_damage, snapshot_damage
from models.contract.failures import BadInput
from models.contract.result import RESULT
from models.contract.snapshot import MANIFEST
from models.contract.verified import read_sealed

# The column that says which day's run made a row of the table. Without one, any day's run may have made it.
_DAY_COLUMNS = {
    "interactions": "load_day",
    "items": "load_day",
    "rejects": "ds",
    "user_history": "ds",
    "sequences": "as_of",
    "samples": "ds",
    **dict.fromkeys(FEATURE_TABLES, "ds"),
}
_SHOWN = 3


@dataclass
class Hurt:
    """What is lost or damaged.

    Attributes:
        tables: the tables that are gone, foreign, older than the ledger or without a readable log, and why.
        files: dead data files of the other tables.
        artifacts: for each damaged snapshot, model, matrix or golden rows, the file whose removal makes it count as not
            made, and what is wrong.
    """

    tables: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[DeadFile]] = field(default_factory=dict)
    artifacts: Mapping[Place, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether a table is hurt."""
        return name in self.tables or name in self.files

    def lines(self) -> list[str]:
        """A line per table and folder."""
        lines = [f"table {name} {why}" for name, why in self.tables.items()]
        for name, dead in self.files.items():
            named = "; ".join(f"{file.path} {file.why}" for file in dead[:_SHOWN])
            more = f" and {len(dead) - _SHOWN} more" if len(dead) > _SHOWN else ""
            lines.append(f"table {name}: {named}{more}")
        return lines + list(self.artifacts.values())


def find_hurt(context: Context, deep: bool = False) -> Hurt:
    """Checks all tables' files (sizes and footers, or with `deep` every row), and every byte of the artifacts.

    Models with missing files, and a matrix that is not whole, are not reported: their steps notice that by themselves
    (`Step.lost`).
    """
    tables = context.tables
    ledger_is_hurt = INTERVALS.name in tables.wrong({}) or any(_dead(context, INTERVALS.name, deep))
    hurt = Hurt(tables.wrong({} if ledger_is_hurt else context.ledger.seen()))
    for name in TABLES:
        if name not in hurt.tables and tables.exists(name):
            why, dead = _dead(context, name, deep)
            if why:
                hurt.tables[name] = why
            elif dead:
                hurt.files[name] = dead
    if not ledger_is_hurt:  # it names the models
        hurt.artifacts = _damaged(context, deep)
    return hurt


def _damaged(context: Context, deep: bool) -> Mapping[Place, str]:
    """For each damaged artifact, the file without which it counts as not made, and what is wrong.

    In a store all artifacts are checked, but every byte only with `deep`; local copies were verified when made.
    """
    if isinstance(context.tables.root, Path):
        return dict(_damaged_files(context))
    return context.tables.artifacts.damage(deep)


def _damaged_files(context: Context) -> Iterator[tuple[Path, str]]:
    for manifest in sorted(context.tables.artifacts.path("snapshots").glob(f"[!.]*/{MANIFEST}")):
        if why := snapshot_damage(manifest.parent):
            yield manifest, why
    for model in (towers_path(context), cvr_path(context)):
        if is_trained(model) and (why := model_damage(model)):
            yield model / RESULT, why
    matrix = matrix_path(context)
    if (meta := known_meta(matrix)) and vectors_file(matrix, meta).is_file() and (why := matrix_damage(matrix)):
        yield vectors_file(matrix, meta), why
    for golden in (canaries, golden_texts):
        for file in sorted(context.tables.artifacts.path(golden.FOLDER).glob(f"*/{golden.FILE}")):
            try:
                read_sealed(file, "golden rows")
            except BadInput as error:
                yield file, str(error)


def _dead(context: Context, name: str, deep: bool) -> tuple[str | None, list[DeadFile]]:
    """What is wrong with a table's log, and the dead files that it names."""
    try:
        return None, context.tables.dead_files(name, deep)
    except Py4JJavaError as error:
        said = str(error.java_exception).splitlines()[0][:200]
        return f"has a log that cannot be read ({said})", []


def days_hurt(context: Context, hurt: Hurt) -> set[StepDay]:
    """The recorded days whose rows are lost, at least in part."""
    steps = context.fingerprint.steps
    made_by: dict[str, StepName] = {table: step.name for step in steps.values() for table in step.writes}
    rows = context.ledger.recorded()
    found: set[StepDay] = set()
    for name in hurt.tables.keys() | hurt.files.keys():
        if name in (ITEM_INDEX.name, FORGOTTEN.name, ITEM_LIFE.name, INTERVALS.name):  # rebuilt, or only a shortcut
            continue
        days = [day for step, day in rows if step == made_by[name]]
        if hurt.tables.get(name, "").startswith(OLDER):
            version = context.tables.version(name)
            days = [day for day in days if rows[made_by[name], day].wrote.get(name, 0) > version]
        if name in hurt.files:
            days = [day for day in days if any(_may_have_made(context, name, file, day) for file in hurt.files[name])]
        found |= {(made_by[name], day) for day in days}
    return found


def _may_have_made(context: Context, name: str, file: DeadFile, day: date) -> bool:
    """Whether the run of a day may have made rows of a file."""
    config, column = context.config, _DAY_COLUMNS.get(name)
    held = file.days(column) if column else None
    if name == "interactions" and held is None and (of_events := file.days("ds")):
        before, after = config.ingest.reach
        held = of_events[0] - timedelta(days=after), of_events[1] + timedelta(days=before)
    if held is None or (name == "sequences" and config.sequences.protocol == "leave_one_out"):
        return True
    if name == "samples":
        return any(w.end == day and w.start <= held[1] and held[0] < w.end for w in sample_windows(config))
    return held[0] <= day <= held[1]


def require_sources(context: Context, days: Collection[StepDay]) -> None:
    """Refuses days that cannot be made again because their log files are gone.

    Raises:
        ConfigError: log files of days that have to be ingested again are gone; the message names the days.
    """
    now, rows = SourceFiles(context.config, {}), context.ledger.recorded()
    ingested = sorted(day for step, day in days if step == INGEST_EVENTS)
    unrecorded = [day for day in ingested if (INGEST_EVENTS, day) not in rows]
    held = _delivered(context) if unrecorded else ()
    gone = []
    for day in ingested:
        source = rows[INGEST_EVENTS, day].source if day not in unrecorded else None
        was = json.loads(source) if source else [day in held or day not in unrecorded, False]
        if any(had and not has for had, has in zip(was, json.loads(now.state(day)), strict=True)):
            gone.append(day)
    if gone:
        raise ConfigError(
            f"events of {spans(gone)} cannot be made again: their log files below {context.config.ingest.path} are"
            f" gone; bring those back, or the table's own files from a backup"
        )


def _delivered(context: Context) -> set[date]:
    """The days whose deliveries have events."""
    return {row.load_day for row in context.tables.read("interactions").select("load_day").distinct().collect()}


def require_codebook(context: Context, hurt: Hurt) -> None:
    """Refuses a lake that has lost the codebook of this config's item codes: another would change all items' codes.

    Raises:
        ConfigError: the codebook is gone or has changed; the message names the file and the ways out.
    """
    name = models_of(context).get(CODES)
    if name is not None and not hurt.has(RELEASES.name):
        known_codebook(context.tables, name)


def require_same(context: Context, days: Collection[StepDay]) -> None:
    """Refuses days that would get other rows than they had.

    Raises:
        ConfigError: a day was made from other code, config or input.
    """
    now = Standing.of(context)
    other = sorted(pair for pair in days if now.is_other(pair))
    if other:
        step, day = other[0]
        raise ConfigError(
            f"rows of {step} of {day} are lost ({len(other)} days in all), and were made from other code, config or"
            f" input than now; repair with the config that made them, or add --restate"
        )


def clear(context: Context, hurt: Hurt, days: Collection[StepDay]) -> None:
    """Removes what wrongly counts as done, so that the runner makes it again.

    Raises:
        ConfigError: item numbers that nothing else holds are lost; in that case nothing has been changed.
    """
    tables = context.tables
    numbers = _numbers(context, hurt) if hurt.has(ITEM_INDEX.name) else None
    steps: set[StepName] = {step for step, _ in days}
    for step in steps:
        context.invalidate(step, [day for name, day in days if name == step], scope="own")
    _clear_table(context, RELEASES.name, hurt)
    set_status(tables, _releases_hurt(context, hurt), EXPIRED)
    if numbers is not None:
        tables.put_back(ITEM_INDEX.name, numbers, is_there=ITEM_INDEX.name not in hurt.tables)
    cleared = {INTERVALS.name, RELEASES.name, ITEM_INDEX.name, FORGOTTEN.name}
    if hurt.has(FORGOTTEN.name):
        rows = rows_of(requests_of(tables.root))
        frame = frame_of(context.spark, rows, FORGOTTEN.columns_ddl).coalesce(1)
        tables.put_back(FORGOTTEN.name, frame, is_there=FORGOTTEN.name not in hurt.tables)
    if ITEM_LIFE.name in hurt.files:
        states = {day for file in hurt.files[ITEM_LIFE.name] for day in file.days("ds") or ()}
        tables.delete(ITEM_LIFE.name, days_predicate("ds", states))  # whole days: half a state is useless
        cleared.add(ITEM_LIFE.name)
    for name in TABLES:
        if name not in cleared:
            _clear_table(context, name, hurt)
    for file in hurt.artifacts:
        file.unlink(missing_ok=True)


def mend_ledger(context: Context, hurt: Hurt, deep: bool) -> None:
    """Makes the rest of the ledger readable, then checks the artifacts; days with lost rows count as never done."""
    _clear_table(context, INTERVALS.name, hurt)
    hurt.artifacts = _damaged(context, deep)


def _clear_table(context: Context, name: str, hurt: Hurt) -> None:
    if name in hurt.files:
        context.tables.drop_files(name, hurt.files[name])
    elif hurt.tables.get(name, "").startswith(OLDER):
        context.tables.accept(name)
    elif name in hurt.tables:
        context.tables.create_anew(name)


def _numbers(context: Context, hurt: Hurt) -> DataFrame:
    name = ITEM_INDEX.name
    is_there = name in hurt.files or hurt.tables[name].startswith(OLDER)
    return numbers_again(context, hurt.files.get(name, ()), is_there, hurt.tables.keys() | hurt.files.keys())


def _releases_hurt(context: Context, hurt: Hurt) -> list[Release]:
    """The readable releases that have lost rows which they show."""
    names = [name for name in FEATURE_TABLES if hurt.has(name)]
    if not names:
        return []
    readable = [each.release_id for each in releases(context.tables) if each.status in READABLE]
    loaded = [find_release(context.tables, release_id) for release_id in readable]
    return [release for release in loaded if any(_has_lost(context, release, name, hurt) for name in names)]


def _has_lost(context: Context, release: Release, name: str, hurt: Hurt) -> bool:
    if name in hurt.tables:
        is_older = hurt.tables[name].startswith(OLDER)
        return not is_older or release.tables.get(name, 0) > context.tables.version(name)
    for file in hurt.files[name]:
        days, least, most = file.days("ds"), file.least.get("release_id", ""), file.most.get("release_id", "~")
        if days is None or any(
            days[0] <= day <= days[1] and least <= part.release_id <= most for day, part in release.parts.items()
        ):
            return True
    return False
