"""What a log's files mean: shapes, filters, and lookups in other files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from learn_spark.config.formats import FilesSettings, Format
from learn_spark.config.mapping import RESERVED, FieldMappings, Name
from learn_spark.storage import Place

LookupName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class LookupSettings(FilesSettings):
    """Files that say more of a line, as the orders beside their lines: a row per key."""

    section: ClassVar[str] = "lookups"

    path: Place
    files: Name | None = None
    format: Format = "csv"
    by: Name
    """The line's column that names the row."""
    key: Name | None = None
    """The column of these files that holds it; null: it is called as `by`."""

    _wanted: tuple[str, ...] = PrivateAttr(())
    _ids: tuple[str, ...] = PrivateAttr(())

    @property
    def names_columns(self) -> str:
        return "`lookups` or the mapping"

    @property
    def key_column(self) -> str:
        """The column that holds the key."""
        return self.key or self.by

    def reading(self, wanted: list[str], ids: list[str]) -> Self:
        """The same with the columns to read beside the key, and those of them that hold ids."""
        copy = self.model_copy()
        copy._wanted, copy._ids = tuple(wanted), tuple(ids)
        return copy

    def source_columns(self) -> list[str]:
        return list(dict.fromkeys([self.key_column, *self._wanted]))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that the lines get."""
        return self._wanted

    def required_columns(self) -> list[str]:
        return [self.key_column] if self.format == "json" else self.source_columns()

    def id_columns(self) -> list[str]:
        return list(dict.fromkeys([self.key_column, *self._ids]))


class SourceSettings(FilesSettings):
    """Files of one format below a folder, or a table, and what their columns mean."""

    LATER: ClassVar[frozenset[str]] = FilesSettings.LATER | {"where", "lookups"}

    if TYPE_CHECKING:  # each has it, at a place of its own among its fields
        mapping: FieldMappings

    where: dict[Name, Annotated[list[str], Field(min_length=1)]] = {}
    """Column: its wanted values, as {status: [paid, sent]}; "" is an empty one. Other lines are not wanted: they are
    counted, and are no rejects. Several columns: all must hold."""

    lookups: dict[LookupName, LookupSettings] = {}
    """Other files that say more of a line, by a name: {order: {files: orders.csv, by: order_id}} makes a column
    `order.user_id` of each column of orders.csv, from the row whose order_id is the line's. key: the column there, if
    it is called otherwise. path is the section's if left out; format and dialect as above, with their defaults. Lines
    without a row, or with several unlike ones, are rejected. If files name a {day}, the row is one of the line's own
    delivery."""

    def lookup_of(self, column: str) -> str | None:
        """The lookup that a column is from; None of one in the source's own files."""
        name = column.partition(".")[0]
        return name if name in self.lookups and column != name else None

    def lookups_read(self) -> dict[str, LookupSettings]:
        """Every lookup with the columns that are read of it."""
        asked, ids = list(dict.fromkeys([*self.mapping.source_columns(), *self.where])), self.mapping.id_columns()

        def of(name: str, columns: list[str]) -> list[str]:
            return [column.removeprefix(f"{name}.") for column in columns if self.lookup_of(column) == name]

        return {name: each.reading(of(name, asked), of(name, ids)) for name, each in self.lookups.items()}

    def has_types(self, column: str | None) -> bool:
        """Whether the files that a column is from have types."""
        lookup = self.lookup_of(column) if column else None
        return (self.lookups[lookup] if lookup else self).is_typed

    def source_columns(self) -> list[str]:
        """Columns that are read from the source's own files: the mapping's, those of `where`, and the lookups' keys."""
        return self._own([*self.mapping.source_columns(), *self.where])

    def required_columns(self) -> list[str]:
        """Those that every file must have. JSON lines may leave keys out: there ids and time alone."""
        mapping = self.mapping
        if self.format == "json":
            return self._own([*mapping.required_columns(), *self.exploded()])
        names = ["event_type"] if getattr(self, "items", None) else ["event_type", "title"]
        fields = [mapping.named().get(name) for name in names]
        needed = [column for field in fields if field and not field.default for column in field.columns()]
        needed = [*mapping.required_columns(), *mapping.id_columns(), *needed, *self.where, *self.exploded()]
        flags = {column for field in fields if field for column in field.flag_columns()}
        return [name for name in self._own(needed) if name not in flags]

    def id_columns(self) -> list[str]:
        return self._own(self.mapping.id_columns())

    def _own(self, columns: list[str]) -> list[str]:
        """Those of the source's own files, and the lookups' keys, each once."""
        keys = [each.by for each in self.lookups.values()]
        return [name for name in dict.fromkeys([*columns, *keys]) if not self.lookup_of(name)]

    @model_validator(mode="before")
    @classmethod
    def _lookups_inherit(cls, values: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        """A lookup lies where the source does, if it says nothing else."""
        lookups = values.get("lookups") if isinstance(values, dict) else None
        if not isinstance(lookups, dict) or "path" not in values:
            return values
        place = {"path": values["path"]}
        given = {name: place | each if isinstance(each, dict) else each for name, each in lookups.items()}
        return {**values, "lookups": given}

    @model_validator(mode="after")
    def _lookups_go_together(self) -> Self:
        for name, each in self.lookups.items():
            if each.by_day and not self.by_day:
                raise ValueError(f"lookups.{name}.files name a {{day}}, and those of the lines do not")
            if self.lookup_of(each.by):
                raise ValueError(f"lookups.{name}.by is {each.by}, a column of another lookup: name one of the lines")
        return self

    @model_validator(mode="after")
    def _filter_can_be_read(self) -> Self:
        mapped = {name.lower(): name for name in self.mapping.source_columns()} if self.where else {}
        for name in self.where:
            if name.lower() in RESERVED:
                raise ValueError(f"a column of `where` cannot be called `{name}`: ingest has one of that name")
            if mapped.setdefault(name.lower(), name) != name:
                raise ValueError(f"columns `{mapped[name.lower()]}` and `{name}` of `where` differ only in case")
        return self

    @model_validator(mode="after")
    def _parts_of_paths_are_used(self) -> Self:
        used = self.source_columns() if "mapping" in type(self).model_fields else self.path_parts()
        idle = [name for name in self.path_parts() if name not in used]
        if idle:
            raise ValueError(
                f"`files` {self.files!r}: only {{day}}, * and ? match, and names of columns: no mapping has {idle[0]}"
            )
        return self


def with_common(section: dict[str, Any], source: object) -> object:
    """A source's keys over those of the section that it stands in."""
    if not isinstance(source, Mapping):
        return source
    return {name: section[name] for name in SourceSettings.model_fields if name in section} | {
        **({"mapping": section["mapping"]} if "mapping" in section else {}),
        **source,
    }
