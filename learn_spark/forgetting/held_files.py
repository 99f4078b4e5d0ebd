"""Files beside the tables that hold, or were made from, forgotten users and items: finds, deletes or rewrites them."""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learn_spark.comparison import content_choice
from learn_spark.config.load import Config
from learn_spark.embedding.matrix import known_meta
from learn_spark.features import canaries
from learn_spark.lake.forget_requests import hash_of
from learn_spark.lake.tables import LOST, Tables
from learn_spark.lake.tombstones import COLUMNS, CUTS
from learn_spark.storage import Location, Place, for_arrow, remove
from models.contract.content_matrix import META, block_digests, open_matrix, vectors_file, write_meta
from models.contract.failures import BadInput
from models.contract.snapshot import MANIFEST
from models.contract.whole_files import read_json

_IDS = {column: kind for kind, column in COLUMNS.items()}
_CUTS = tuple(map(re.compile, (*CUTS, r"[\W_]+")))


@dataclass(frozen=True)
class Sought:
    """The forgotten users and items that files are searched for.

    Attributes:
        salt: the lake's salt.
        hashes: of the forgotten ids, by kind.
        numbers: the forgotten items' numbers.
    """

    salt: str
    hashes: Mapping[str, frozenset[str]]
    numbers: frozenset[int]

    def has(self, kind: str, name: str) -> bool:
        """Whether an id is forgotten."""
        return hash_of(self.salt, name) in self.hashes.get(kind, ())

    def is_named_in(self, text: str) -> bool:
        """Whether a forgotten id of any kind stands in a text as a separate value; see `Tombstones.texts_with_any`."""
        pieces = {text, *(piece for cut in _CUTS for piece in cut.split(text))}
        return any(hash_of(self.salt, piece) in names for piece in pieces if piece for names in self.hashes.values())


@dataclass(frozen=True)
class Doomed:
    """A file or folder that is to be deleted, and why."""

    path: Place
    why: str


def doomed_files(tables: Tables, config: Config, sought: Sought, is_found: bool) -> list[Doomed]:
    """The files to delete: snapshots and others that can be made again, of the lake and of `output.dir`.

    `is_found` says that tables hold, or have held, forgotten ids. Then all ranks go: they name users by another hash,
    which cannot be looked up here.
    """
    snapshots = list(_snapshots(tables, sought))
    ranks = _ranks(tables, config) if is_found or snapshots else ()
    aside = tables.root / LOST
    lost = [Doomed(aside, "what a repair has put aside")] if aside.is_dir() else []
    canaries = [Doomed(folder, "golden rows with their items") for folder in _canaries(tables, sought)]
    tried = [Doomed(folder, "content that was chosen on them") for folder in _choices(config, sought)]
    logs = [*_outputs(config, "logs/*.log"), *sorted(tables.artifacts.path().rglob("*.log"))]
    told = [Doomed(file, "a log that names them") for file in logs if _text_holds(file, sought)]
    return [*snapshots, *ranks, *canaries, *lost, *tried, *told]


def take_away(tables: Tables, config: Config, doomed: Iterable[Doomed]) -> None:
    """Deletes files and folders, also in stores; a folder's manifest goes first, so that it never seems whole."""
    for path in (each.path for each in doomed):
        if isinstance(path, Path) and path.is_dir() and not path.is_symlink():
            (path / MANIFEST).unlink(missing_ok=True)
        if isinstance(path, Path) and path.is_relative_to(config.output.folder):
            if isinstance(config.output.dir, Location):
                config.output.dir.joinpath(*path.relative_to(config.output.folder).parts).remove()
            remove(path)
        else:
            tables.artifacts.discard(path)


def _outputs(config: Config, pattern: str) -> list[Place]:
    """Files of `output.dir`; if that is in a store, files that this machine does not have are named there."""
    output, folder = config.output.dir, config.output.folder
    sent = [output / name for name in output.matching(pattern)] if isinstance(output, Location) else []
    here = sorted(folder.glob(pattern))
    known = {str(file.relative_to(folder)) for file in here}
    return [*here, *(file for file in sent if str(file).removeprefix(f"{output}/") not in known)]


def _snapshots(tables: Tables, sought: Sought) -> Iterator[Doomed]:
    for folder in sorted(tables.artifacts.path("snapshots").glob("*")):
        if folder.name.startswith("."):
            yield Doomed(folder, "a snapshot that is not whole")
        elif folder.is_dir() and snapshot_holds(folder, sought):
            yield Doomed(folder, "a snapshot with their rows")


def _canaries(tables: Tables, sought: Sought) -> Iterator[Path]:
    """Golden rows with forgotten items, whose vectors will be zeros; the next release chooses other rows."""
    for file in sorted(tables.artifacts.path(canaries.FOLDER).glob(f"*/{canaries.FILE}")):
        golden = read_json(file, "canaries")
        if sought.numbers & {*golden["items"], *(number for history in golden["histories"] for number in history)}:
            yield file.parent


def _choices(config: Config, sought: Sought) -> Iterator[Path]:
    """The folder of `choose-content` if its files hold forgotten ids, or are unreadable, as after a killed run."""
    folder = config.output.folder / content_choice.FOLDER_NAME
    for file in _outputs(config, f"{content_choice.FOLDER_NAME}/**/*.parquet"):
        try:
            is_named = _file_holds(file, sought)
        except pa.ArrowInvalid:
            is_named = True
        if is_named:
            yield folder
            return


def _ranks(tables: Tables, config: Config) -> Iterator[Doomed]:
    ranked = [tables.artifacts.path(kind).glob("*/*.npz") for kind in ("comparisons", "evaluation")]
    files = [*(file for found in ranked for file in found), *_outputs(config, "comparison/*_ranks/*.npz")]
    for folder in sorted({file.parent for file in files}, key=str):
        yield Doomed(folder, "ranks of all users' rows")


def snapshot_holds(folder: Path, sought: Sought) -> bool:
    """Whether a snapshot has a row of a forgotten user or item."""
    return any(_file_holds(file, sought) for file in sorted(folder.glob("*.parquet")))


def _file_holds(file: Place, sought: Sought) -> bool:
    with pq.ParquetFile(for_arrow(file)) as parquet:
        names = parquet.schema_arrow.names
        ids = [name for name, kind in _IDS.items() if name in names and sought.hashes.get(kind)]
        numbered = [name for name in names if name in ("item_idx", "hist_items", "tar_items")] if sought.numbers else []
        for batch in parquet.iter_batches(columns=[*ids, *numbered]):
            for name in ids:
                if any(sought.has(_IDS[name], value) for value in batch.column(name).unique().to_pylist() if value):
                    return True
            if any(_numbers(batch.column(name)) & sought.numbers for name in numbered):
                return True
    return False


def _numbers(column: pa.Array) -> set[int]:
    flat = column.flatten() if pa.types.is_list(column.type) else column
    return set(flat.unique().to_pylist())


def _text_holds(file: Place, sought: Sought) -> bool:
    with file.open("rb") as lines:
        return any(sought.is_named_in(line.decode(errors="replace").rstrip("\r\n")) for line in lines)


def matrices_with(tables: Tables, numbers: Iterable[int]) -> dict[Path, list[int]]:
    """Content matrices that hold vectors of these items, in the current or an older file, and the rows to clear."""
    found = {}
    for meta in sorted(tables.artifacts.path("matrix").glob(f"[!.]*/{META}")):
        if meta.parent.name.startswith("random-"):  # random vectors, not content
            continue
        try:
            vectors, about = open_matrix(meta.parent)
        except BadInput:  # its step makes it anew, without texts of these items
            continue
        rows_N = np.array(sorted(number for number in numbers if number < about.rows), dtype=np.int64)
        filled = rows_N[np.any(vectors[rows_N] != 0, axis=1)] if len(rows_N) else rows_N
        older = [file for file in meta.parent.glob("vectors*.f16") if file != vectors_file(meta.parent, about)]
        if len(filled) or any(_is_filled(file, about.dim, rows_N) for file in older):
            found[meta.parent] = filled.tolist()
    return found


def _is_filled(file: Path, dim: int, rows_N: np.ndarray) -> bool:
    """Whether any of these rows of a file is not all zeros."""
    num_rows = file.stat().st_size // (2 * dim)
    vectors = np.memmap(file, dtype="<f2", mode="r", shape=(num_rows, dim))
    return bool(np.any(vectors[rows_N[rows_N < num_rows]] != 0))


def without_rows(folder: Path, rows: list[int]) -> None:
    """Writes a matrix's next file with zeros in these rows, and deletes older files, which open mappings keep.

    A matrix without a usable meta is deleted.
    """
    meta = known_meta(folder)
    if meta is None:
        shutil.rmtree(folder)
        return
    before = vectors_file(folder, meta)
    if rows:
        generations = [int(file.stem.rpartition("-")[2]) for file in folder.glob("vectors-*.f16")]
        name = f"vectors-{max(generations, default=0) + 1}.f16"
        shutil.copyfile(before, folder / name)
        vectors = np.memmap(folder / name, dtype="<f2", mode="r+", shape=(meta.rows, meta.dim))
        vectors[rows] = 0
        vectors.flush()
        meta = meta.model_copy(update={"vectors": name, "blocks": None})
        digests = tuple(block_digests(folder / name, meta.rows, meta.dim, range(meta.num_blocks)))
        write_meta(folder, meta.model_copy(update={"blocks": digests}))
    for file in folder.glob("vectors*.f16"):
        if file.name != meta.vectors:
            file.unlink()
