"""Reads CSV and Parquet files in batches of rows, and says what is wrong with those that are no
tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import MissingDependencyError, StageError

BATCH_ROWS = 2**16
BLOCK_BYTES = 2**24
"""Of a CSV file that are parsed at once. The types of columns are told by the first block."""
DELIMITERS = ",;\t"
SUFFIXES = (".csv", ".tsv", ".parquet")


def require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "tables are read with pyarrow: pip install 'attar[tables]'"
        ) from error


def iterate_batches(file: Path) -> tuple[Any, Iterator[Any]]:
    """Return the schema of a table, and its batches of rows, both of pyarrow. Raises StageError for
    a file that is no table."""
    require_pyarrow()
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise StageError(f"{file} is read as no table; name one that ends in {', '.join(SUFFIXES)}")
    with report_errors(file):
        schema, batches = open_parquet(file) if suffix == ".parquet" else open_csv(file)
    names = Counter(schema.names)
    repeated = sorted(name for name, count in names.items() if count > 1)
    if repeated:
        raise StageError(
            f"{file} has {names[repeated[0]]} columns of the name {repeated[0]!r}; give each its "
            "own name in the first line"
        )
    return schema, read_batches(file, batches)


def read_batches(file: Path, batches: Iterator[Any]) -> Iterator[Any]:
    with report_errors(file):
        yield from batches


@contextmanager
def report_errors(file: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(
            f"{file} cannot be read as a table: {error}; correct it, or save it as Parquet"
        ) from error


def open_parquet(file: Path) -> tuple[Any, Iterator[Any]]:
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    return opened.schema_arrow, opened.iter_batches(BATCH_ROWS)


def open_csv(file: Path) -> tuple[Any, Iterator[Any]]:
    """The delimiter is the one of comma, semicolon and tab that the first line has most of."""
    from pyarrow import csv

    check_utf8(file)
    reader = csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(delimiter=choose_delimiter(file), newlines_in_values=True),
    )
    return reader.schema, iter(reader)


def check_utf8(file: Path) -> None:
    """Raises StageError for a file in another encoding: pyarrow would read its texts as bytes."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise StageError(
                    f"{file} is not in UTF-8: {error.reason} in line {number}, byte "
                    f"{error.start + 1} of it; convert it, such as with "
                    f"iconv -f latin1 -t utf-8 {file.name}"
                ) from error


def choose_delimiter(file: Path) -> str:
    with Path(file).open(encoding="utf-8-sig") as lines:
        header = lines.readline()
    return max(DELIMITERS, key=header.count)
