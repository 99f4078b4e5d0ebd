"""Every table of the lake: columns, keys, partition, checks. The stages meet only here."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column's name, Spark SQL type, meaning, and whether null is allowed."""

    name: str
    type: str
    doc: str
    nullable: bool = False


@dataclass(frozen=True)
class TableSpec:
    """A Delta table's contract. `checks` become CHECK constraints, `nullable=False` NOT NULL, `properties` Delta's."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition: tuple[str, ...] = ()
    checks: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def columns_ddl(self) -> str:
        """Names and types, as `createDataFrame` takes them."""
        return ", ".join(f"{c.name} {c.type}" for c in self.columns)

    @property
    def ddl(self) -> str:
        """The column list of CREATE TABLE."""
        return ", ".join(
            f'{c.name} {c.type}{"" if c.nullable else " NOT NULL"} COMMENT "{c.doc}"' for c in self.columns
        )


_USER = Column("user_id", "string", "the user, as the log names it")
_ITEM = Column("item_id", "string", "the item, as the log names it")
_TS = Column("event_ts", "timestamp", "time of the event, UTC")
_TYPES = (
    "codes of event types, from 1 on in the order of sequences.history_events, then target_events; null where"
    " sequences.keep_event_types is off"
)
_RELEASE = Column("release_id", "string", "the release that published this row")


def _consumed(*narrow: str) -> dict[str, str]:
    """Properties of a table of vectors that consumers follow: a change feed, and statistics of only narrow columns."""
    return {"delta.enableChangeDataFeed": "true", "delta.dataSkippingStatsColumns": ",".join(narrow)}


INTERACTIONS = TableSpec(
    "interactions",
    "What users did: one row per event, duplicates removed",
    (
        Column("event_id", "bigint", "hash of the log's own event id, or of the line's content"),
        _USER,
        _ITEM,
        Column("item_idx", "int", "the item's number in item_index"),
        Column("event_type", "string", "one of ingest.event_types"),
        _TS,
        Column("value", "double", "the mapped value (quantity, rating, seconds)", nullable=True),
        Column("source_file", "string", "the file that the line came from"),
        Column("ingested_at", "timestamp", "when the line was ingested, UTC"),
        Column(
            "load_day",
            "date",
            "the day whose delivery brought the event; later than ds for late events, and a"
            " day earlier than ds for some where ingest.timezone is west of UTC",
        ),
        Column("ds", "date", "event day, UTC"),
    ),
    key=("event_id", "user_id", "ds"),
    partition=("ds",),
    checks={
        "ids_not_empty": "user_id <> '' AND item_id <> ''",
        "ds_is_event_day": "ds = CAST(event_ts AS DATE)",
        "not_before_it_happened": "load_day >= date_sub(ds, 1)",
    },
)

REJECTS = TableSpec(
    "rejects",
    "Lines and files that could not be used, each with its reason",
    (
        Column("reason", "string", "why the line was not used"),
        Column("raw", "string", "the line, cut at 4 KiB", nullable=True),
        Column("source_file", "string", "the file that the line came from"),
        Column("ds", "date", "the delivery, or where files name no day the event day (ingest.start without one)"),
    ),
    key=(),
    partition=("ds",),
)

ITEMS = TableSpec(
    "items",
    "Items by version: a new row where the title, category or brand changed",
    (
        _ITEM,
        Column(
            "valid_from",
            "timestamp",
            "since when this version is known: first seen in an event, or in a catalogue, UTC",
        ),
        Column("title", "string", "the name"),
        Column("category", "string", "the category", nullable=True),
        Column("brand", "string", "the brand", nullable=True),
        Column("price", "double", "price when the version was first seen", nullable=True),
        Column("keywords", "string", "keywords", nullable=True),
        Column("attributes", "map<string,string>", "further mapped columns", nullable=True),
        Column("load_day", "date", "the day whose delivery brought the version"),
    ),
    key=("item_id", "valid_from"),
    checks={"title_not_empty": "title <> ''"},
)

ITEM_INDEX = TableSpec(
    "item_index",
    "A dense number for every item, append-only, stable for ever",
    (_ITEM, Column("item_idx", "int", "1, 2, 3 …; 0 is padding")),
    key=("item_id",),
    checks={"positive": "item_idx > 0"},
)

ITEM_TEXT = TableSpec(
    "item_text",
    "The prompt that the LLM reads for an item",
    (
        _ITEM,
        Column("prompt", "string", "the rendered prompt"),
        Column("template_version", "string", "the template that rendered it"),
        Column("text_hash", "string", "hash of template version and prompt"),
    ),
    key=("item_id",),
)

CONTENT_EMBEDDINGS = TableSpec(
    "content_embeddings",
    "The frozen LLM vector of every distinct text",
    (
        Column("text_hash", "string", "hash of template version and prompt"),
        Column("encoder_id", "string", "model, weights, pooling, tokens and precision that made the vector"),
        Column("dim", "int", "vector width"),
        Column("embedding", "binary", "dim float16 numbers, little-endian"),
        Column("norm", "float", "L2 norm in float32"),
        Column("flag", "string", "why there are zeros instead of a vector: empty, or what was wrong", True),
    ),
    key=("text_hash", "encoder_id"),
    checks={"right_size": "length(embedding) = 2 * dim", "finite_norm": "norm >= 0 AND norm < 65504"},
)

USER_HISTORY = TableSpec(
    "user_history",
    "A user's last events before a day",
    (
        _USER,
        Column("ds", "date", "as-of day: events before its midnight UTC"),
        Column("item_idx", "array<int>", "items, oldest first, at most history_length"),
        Column("event_ts", "array<bigint>", "their times, epoch seconds"),
        Column("event_types", "array<tinyint>", _TYPES, nullable=True),
    ),
    key=("user_id", "ds"),
    partition=("ds",),
    checks={"aligned": "size(item_idx) = size(event_ts) AND size(item_idx) > 0"},
)

SEQUENCES = TableSpec(
    "sequences",
    "History and targets of a user around an as-of date: what the towers learn from",
    (
        _USER,
        Column("as_of", "date", "history before, targets from its midnight UTC on"),
        Column("hist_items", "array<int>", "history_length item numbers, oldest first, then zeros"),
        Column("hist_ts", "array<bigint>", "their times, epoch seconds, then zeros"),
        Column("hist_len", "int", "real history items"),
        Column("tar_items", "array<int>", "target_length item numbers, oldest first, then zeros"),
        Column("tar_ts", "array<bigint>", "their times, epoch seconds, then zeros"),
        Column("tar_len", "int", "real target items"),
        Column("split", "string", "train, val or test"),
        Column("position", "int", "leave_one_out: the target's place in the user's events; else 0"),
        Column("hist_types", "array<tinyint>", f"of the history: {_TYPES}", nullable=True),
        Column("tar_types", "array<tinyint>", f"of the targets: {_TYPES}", nullable=True),
    ),
    key=("user_id", "as_of", "position"),
    partition=("as_of",),
    checks={"known_split": "split IN ('train', 'val', 'test')", "has_both": "hist_len > 0 AND tar_len > 0"},
)

SAMPLES = TableSpec(
    "samples",
    "What CVR and the ranker learn from and are tested on",
    (
        _USER,
        _ITEM,
        _TS,
        Column(
            "label",
            "int",
            "1 bought or converted; 0 sampled and not bought in the window, or exposed without a conversion",
        ),
        Column("weight", "float", "how many lines or draws the row stands for; 1 with samples.labels observed"),
        Column("stage", "string", "cvr, ranker_train or ranker_test"),
        Column("ds", "date", "event day, UTC"),
        Column(
            "other_labels",
            "array<int>",
            "1 or 0 for each of samples.other_labels, in alphabetic order of their names; null without",
            nullable=True,
        ),
    ),
    key=("user_id", "item_id", "event_ts"),
    partition=("ds",),
    checks={
        "binary_label": "label IN (0, 1)",
        "known_stage": "stage IN ('cvr', 'ranker_train', 'ranker_test')",
    },
)

ITEM_LIFE = TableSpec(
    "item_life",
    "When items appeared and stopped being cold; a night's follow from the newest day's rows",
    (
        _ITEM,
        Column("ds", "date", "counted from events before this day; the last day of a run has rows"),
        Column("first_ds", "date", "day of its first event of any type"),
        Column("warm_ds", "date", "day on which its history events reached features.cold_events", nullable=True),
        Column("events", "bigint", "history events so far"),
    ),
    key=("item_id", "ds"),
    partition=("ds",),
)

USER_FEATURES = TableSpec(
    "user_features",
    "User embeddings by day: a row per user on the first day, then a row wherever the history changed",
    (
        _USER,
        Column("ds", "date", "computed from events before this day"),
        _RELEASE,
        Column("user_emb", "array<float>", "user tower output"),
        Column("content_coverage", "float", "share of the history that has a content vector"),
        Column("is_cold", "boolean", "too few events to trust the vector"),
    ),
    key=("user_id", "ds", "release_id"),
    partition=("ds",),
    checks={"not_empty": "size(user_emb) > 0"},
    properties=_consumed("user_id", "release_id"),
)

ITEM_FEATURES = TableSpec(
    "item_features",
    "Item embeddings by day; all items on the first day, then the new ones",
    (
        _ITEM,
        Column("ds", "date", "computed from what was known before this day"),
        _RELEASE,
        Column("item_emb", "array<float>", "item tower output"),
        Column("content_coverage", "float", "1 if the item has a content vector, else 0"),
        Column("is_cold", "boolean", "too few events before the day"),
        Column(
            "item_codes",
            "array<int>",
            "semantic id, coarse to fine; null without content, or where features.codes is off",
            nullable=True,
        ),
    ),
    key=("item_id", "ds", "release_id"),
    partition=("ds",),
    checks={"not_empty": "size(item_emb) > 0"},
    properties=_consumed("item_id", "release_id"),
)

PAIR_FEATURES = TableSpec(
    "pair_features",
    "The CVR model's middle layer and score for the ranker's samples",
    (
        _USER,
        _ITEM,
        _TS,
        _RELEASE,
        Column("mid_emb", "array<float>", "the layer before the output"),
        Column("cvr_score", "float", "conversion probability"),
        Column("ds", "date", "event day, UTC"),
        Column(
            "other_scores",
            "array<float>",
            "probability of each of samples.other_labels, in alphabetic order of their names; null without",
            nullable=True,
        ),
    ),
    key=("user_id", "item_id", "event_ts", "release_id"),
    partition=("ds",),
    checks={"probability": "cvr_score >= 0 AND cvr_score <= 1"},
    properties=_consumed("user_id", "item_id", "event_ts", "release_id"),
)

RELEASES = TableSpec(
    "releases",
    "One row per release, written last: no published row, no release. The current one was published last",
    (
        Column("release_id", "string", "its last day, and a hash of what its rows were made from"),
        Column("model_versions", "map<string,string>", "registered model versions and their fingerprints"),
        Column("input_versions", "map<string,bigint>", "Delta versions that its rows were made from"),
        Column("table_versions", "map<string,bigint>", "Delta versions of the feature tables that hold it"),
        Column("encoder_id", "string", "the content encoder"),
        Column(
            "gates",
            "array<struct<name:string,value:double,lower:double,upper:double,passed:boolean>>",
            "the gates and their figures",
        ),
        Column("widths", "map<string,int>", "of the vectors, by column"),
        Column("status", "string", "published, rolled_back, failed (a gate), or expired (its rows are gone)"),
        Column("published_at", "timestamp", "when the row was written, UTC"),
        Column("days", "array<date>", "the feature days that were written for it"),
        Column(
            "parts",
            "array<struct<ds:date,release_id:string,users:bigint,items:bigint,pairs:bigint>>",
            "all feature days that it shows: under which release_id their rows lie, and how many they are",
        ),
    ),
    key=("release_id",),
    checks={"known_status": "status IN ('published', 'rolled_back', 'failed', 'expired')"},
)

INTERVALS = TableSpec(
    "intervals",
    "The ledger: which step has done which day, from what",
    (
        Column("step", "string", "the job"),
        Column("day", "date", "the day that was done"),
        Column("fingerprint", "string", "code, config and inputs, hashed"),
        Column("status", "string", "done, or stale: late events changed what it was made from"),
        Column("run_id", "string", "the run and its piece that did it, as 3f2a….1; figures below are the piece's"),
        Column("input_versions", "map<string,bigint>", "Delta versions read"),
        Column("output_versions", "map<string,bigint>", "Delta versions written"),
        Column("rows_in", "bigint", "rows read by the piece"),
        Column("rows_out", "bigint", "rows written by the piece"),
        Column("seconds", "double", "wall time of the piece"),
        Column("details", "string", "the step's own figures, JSON; in the piece's last day only"),
        Column("finished_at", "timestamp", "UTC"),
        Column(
            "source", "string", "the day's raw files, hashed: what they were, should they be deleted", nullable=True
        ),
        Column(
            "made_as",
            "string",
            "of an adopted day the fingerprint that it was made under: it stands in the names of what was made",
            nullable=True,
        ),
    ),
    key=("step", "day"),
    partition=("step",),
)

FORGOTTEN = TableSpec(
    "forgotten",
    "Users and items that are forgotten, without their ids: no later delivery brings them back",
    (
        Column("kind", "string", "user or item"),
        Column("id_hash", "string", "SHA-256 of salt and id"),
        Column("salt", "string", "the lake's, the same in all rows"),
        Column("request", "string", "the request that named it first"),
        Column("forgotten_at", "timestamp", "when that was recorded, UTC"),
    ),
    key=("kind", "id_hash"),
    checks={"known_kind": "kind IN ('user', 'item')", "is_hash": "length(id_hash) = 64"},
)

TABLES = {
    spec.name: spec
    for spec in (
        INTERACTIONS,
        REJECTS,
        ITEMS,
        ITEM_INDEX,
        ITEM_TEXT,
        CONTENT_EMBEDDINGS,
        USER_HISTORY,
        SEQUENCES,
        SAMPLES,
        ITEM_LIFE,
        USER_FEATURES,
        ITEM_FEATURES,
        PAIR_FEATURES,
        RELEASES,
        INTERVALS,
        FORGOTTEN,
    )
}
