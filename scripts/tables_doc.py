"""Prints docs/tables.md from the contracts in learn_spark/lake/schemas.py."""

from learn_spark.lake.schemas import TABLES, TableSpec

INTRO = """# Tables

Every table is a Delta table under `lake.root`, named as below. Ids are strings, times are UTC, `ds` is the event
day. NOT NULL and CHECK constraints are enforced at every write. A writer replaces exactly the days that it
computed, so a rerun leaves equal rows. This page is made from `learn_spark/lake/schemas.py` by
`python scripts/tables_doc.py > docs/tables.md`; a test holds the two together.

Beside the tables, under `lake.root/_artifacts`:

| folder | holds |
|---|---|
| `matrix/<key>/` | content vectors by item number: `vectors-<n>.f16` (little-endian float16), `meta.json`: the newest |
| `snapshots/<name>/` | what a training run read: even Parquet files, `manifest.json` (rows, sha256, source) |
| `models/<towers or cvr>-<fingerprint>/` | `model.safetensors`, `config.json`, `metrics.jsonl`, `result.json` |
| `golden_texts/<encoder_id>/` | `texts.json`: what the encoder made first of 20 constant texts |
| `canaries/<towers>-<cvr>/` | `canaries.json`: what two models made first of golden histories, items, pairs |
"""


def table_section(spec: TableSpec) -> str:
    """One table as Markdown."""
    facts = []
    if spec.key:
        facts.append(f"Key: {', '.join(f'`{name}`' for name in spec.key)}.")
    if spec.partition:
        facts.append(f"Partitioned by {', '.join(f'`{name}`' for name in spec.partition)}.")
    checks = [f"`{check}`" for check in spec.checks.values()]
    if checks:
        facts.append(f"Checks: {'; '.join(checks)}.")
    rows = [
        f"| `{column.name}` | `{column.type}` | {'yes' if column.nullable else 'no'} | {column.doc} |"
        for column in spec.columns
    ]
    head = ["| column | type | null | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {spec.name}", "", f"{spec.doc}. {' '.join(facts)}", "", *head, *rows])


def tables_markdown() -> str:
    """The whole page."""
    return "\n\n".join([INTRO.strip(), *(table_section(spec) for spec in TABLES.values())]) + "\n"


if __name__ == "__main__":
    print(tables_markdown(), end="")
