"""A working directory whose files must not be imported, and secrets that must not be written."""

import gzip
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

SECRETS = {  # environment variables that a config refers to
    "SHOP_S3_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
    "SHOP_S3_ID": "AKIAIOSFODNN7EXAMPLE",
    "SHOP_PASSWORD": "corr3ct-h0rse-battery",
}
PLAIN = "staple-0f-the-c0nfig"  # a secret written in the config itself
CONF = (
    "spark.conf={spark.hadoop.fs.s3a.secret.key: '${SHOP_S3_KEY}', spark.hadoop.shop.id: '${SHOP_S3_ID}',"
    f" spark.hadoop.shop.token: {PLAIN}}}"
)
_NAMES = ("models", "learn_spark", "pyarrow", "pandas", "numpy", "torch", "pyspark", "py4j", "json", "yaml", "psutil")


def hostile_folder(folder: Path) -> Path:
    """Makes a folder with modules named like those that a worker imports. Each writes a file `ran-NAME` and fails."""
    folder.mkdir()
    for name in _NAMES:
        code = f"open({str(folder / f'ran-{name}')!r}, 'w').close()\nraise RuntimeError('imported from here')\n"
        if name in ("models", "learn_spark"):
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
        else:
            (folder / f"{name}.py").write_text(code)
    return folder


def ran(folder: Path) -> list[str]:
    """The `ran-NAME` files of the modules that were imported from a hostile folder."""
    return [file.name for file in folder.glob("ran-*")]


def places_of(texts: Iterable[str], *folders: Path) -> dict[str, list[str]]:
    """By text, the files that hold it, also in columns of Parquet files and in gzipped files."""
    found: dict[str, list[str]] = {text: [] for text in texts}
    for file in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = _content(file)
        for text in found:
            if text.encode() in content:
                found[text].append(str(file))
    return found


def _content(file: Path) -> bytes:
    if file.suffix == ".parquet":
        table = pq.ParquetFile(file).read()
        texts = [name for name in table.column_names if "float" not in str(table.schema.field(name).type)]
        return str(table.select(texts).to_pylist()).encode() + str(table.schema.metadata).encode() + file.read_bytes()
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
