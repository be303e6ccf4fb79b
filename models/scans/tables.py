"""Scans a table: numbers in columns, or one column of texts, and a column of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.scans.findings import (
    Constant,
    Findings,
    Skipped,
    check_classes,
    deal_classes,
    describe_classes,
    describe_copies,
    describe_skipped,
    list_some,
)
from attar.models.splits.columns import find_filled, is_integer, is_number, is_text
from attar.models.splits.dealing import Rows, hash_key, hash_text, join_keys
from attar.models.splits.parsing import BATCH_ROWS, SUFFIXES
from attar.models.splits.subset import Subset
from attar.models.splits.tables import (
    TableSplit,
    check_columns,
    is_whole,
    make_arrow_file,
    open_arrow,
)
from attar.models.task import Array, Split
from attar.pipeline.core.errors import RecipeError, StageError

LABELS = ("label", "class", "target", "category", "y")
"""Names of the column of classes, where the user names none; capitals do not count."""
GROUPS = ("group", "patient", "subject", "user", "source", "session")
"""Names of the column of groups, also with ``_id`` behind them."""
IDS = ("", "id", "index", "unnamed: 0")
MOST_CLASSES = 1000
MOST_LEARNED = 200_000
"""Texts that a vocabulary is made of."""


@dataclass(frozen=True)
class Table:
    """A table with its columns of classes and, if there is one, of groups."""

    file: Path
    label: str
    group: str | None

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Return the type of each column, of pyarrow."""
        with open_arrow(make_arrow_file(self.file)) as reader:
            return dict(zip(reader.schema.names, reader.schema.types, strict=True))

    def list_columns(self, is_wanted: Any) -> list[str]:
        """Return the columns of some types that may be inputs."""
        taken = (self.label, self.group)
        return [name for name, kind in self.kinds.items() if name not in taken and is_wanted(kind)]

    def find_rows(self, names: Sequence[str]) -> tuple[Rows, list[Skipped]]:
        """Return the rows in which no such column is empty or no finite float32, and the others,
        numbered from 1."""
        with open_arrow(make_arrow_file(self.file)) as reader:
            table = reader.read_all()
            usable = np.ones(table.num_rows, bool)
            skipped = []
            for name in names:
                wrong = usable & ~find_usable(table.column(name))
                usable &= ~wrong
                what = "empty or no finite float32" if is_number(self.kinds[name]) else "empty"
                skipped += [
                    Skipped(f"row {row + 1}", f"{name} is {what}")
                    for row in np.flatnonzero(wrong).tolist()
                ]
        return np.flatnonzero(usable), skipped

    def read_column(self, name: str, rows: Rows) -> list[str]:
        split = Subset(TableSplit(self.file, {name: name}, {}), rows)
        return [str(each) for part in iterate_input(split) for each in part.tolist()]


def scan_table(data: Path, label: str | None, group: str | None) -> Findings:
    """Take every column of numbers as a feature. Raises RecipeError for a table that cannot be
    learned from."""
    table = open_table(data, label, group)
    numbers = table.list_columns(is_number)
    ids = [name for name in numbers if name.lower() in IDS]
    features = tuple(name for name in numbers if name not in ids)
    if not features:
        raise RecipeError(
            f"{table.file} has no column of numbers beside {table.label!r}; for a column of texts "
            "use --from texts"
        )
    rows, skipped = table.find_rows(list_used(table, features))
    split = Subset(TableSplit(table.file, {"features": features}, {}), rows)
    keys = [hash_key(row.tobytes()) for part in iterate_input(split) for row in part]
    found = find_splits(table, rows, keys, skipped)
    left_out = [*ids, *table.list_columns(lambda kind: not is_number(kind))]
    assumptions = [f"Features: {len(features)} columns of numbers: {list_some(features)}."]
    if left_out:
        shown = [name or "one without a name" for name in left_out]
        assumptions.append(f"Columns left out, as ids or no numbers: {list_some(shown)}.")
    means, deviations = measure_moments(split, found.splits["train"], len(features))
    constants = {
        **found.constants,
        "FEATURES": features,
        "WIDTH": len(features),
        "MEANS": means,
        "DEVIATIONS": deviations,
    }
    return Findings(found.samples, found.splits, constants, [*found.assumptions, *assumptions])


def scan_text_table(data: Path, label: str | None, group: str | None) -> Findings:
    """Take the column with the longest texts. Raises RecipeError for a table without texts."""
    table = open_table(data, label, group)
    candidates = table.list_columns(is_text)
    if not candidates:
        raise RecipeError(
            f"{table.file} has no column of texts beside {table.label!r}; for columns of numbers "
            "use --from table"
        )
    text = max(candidates, key=lambda name: measure_texts(table, name))
    rows, skipped = table.find_rows(list_used(table, (text,)))
    split = Subset(TableSplit(table.file, {"text": text}, {}), rows)
    keys = [hash_text(each) for part in iterate_input(split) for each in part.tolist()]
    found = find_splits(table, rows, keys, skipped)
    learned = table.read_column(text, rows[found.splits["train"][:MOST_LEARNED]])
    assumptions = [*found.assumptions, f"The texts are in the column {text!r}."]
    constants = {**found.constants, "TEXT": text}
    return Findings(found.samples, found.splits, constants, assumptions, learned)


def open_table(data: Path, label: str | None, group: str | None) -> Table:
    """Find the table and its columns. Raises RecipeError if one is missing or no column of
    classes."""
    file = find_table(data)
    try:
        with open_arrow(make_arrow_file(file)) as reader:
            names = reader.schema.names
        check_columns(file, [name for name in (label, group) if name], names)
    except StageError as error:
        raise RecipeError(str(error)) from error
    found = label or find_name(names, LABELS)
    if found is None:
        raise RecipeError(
            f"{file} has no column {', '.join(LABELS)}; name the column of the classes with "
            f"--label, one of: {', '.join(names)}"
        )
    if found == group:
        raise RecipeError(
            f"the column {found!r} is that of the classes, and --group names it too: each class "
            "would be in one split; name another column, or leave out --group"
        )
    others = [name for name in names if name != found]
    grouped = group or find_name(others, [*GROUPS, *(f"{name}_id" for name in GROUPS)])
    table = Table(file.absolute(), found, grouped)
    if not (is_text(table.kinds[found]) or is_integer(table.kinds[found])):
        raise RecipeError(
            f"the column {found!r} of {file} holds {table.kinds[found]}, and classes are texts or "
            "whole numbers; name another with --label, or see docs/your-own.md on numbers "
            "instead of classes"
        )
    return table


def find_table(data: Path) -> Path:
    """Return a table, or the only one in a folder. Raises RecipeError."""
    if data.is_file():
        return data
    files = sorted(file for file in data.glob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) != 1:
        names = (
            f"{len(files)} tables: {list_some([f.name for f in files])}" if files else "no table"
        )
        raise RecipeError(f"{data} has {names}; name one file that ends in {', '.join(SUFFIXES)}")
    return files[0]


def find_name(names: Sequence[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def list_used(table: Table, inputs: Sequence[str]) -> list[str]:
    return [table.label, *([table.group] if table.group else []), *inputs]


def find_splits(
    table: Table, rows: Rows, keys: Sequence[bytes], skipped: Sequence[Skipped]
) -> Findings:
    """Deal the usable rows by their group, or each by itself; equal inputs stay together."""
    names = table.read_column(table.label, rows)
    classes = tuple(sorted(set(names), key=order_class))
    check_classes(table.file, classes)
    if len(classes) > min(MOST_CLASSES, len(rows) // 2):
        raise RecipeError(
            f"the column {table.label!r} of {table.file} has {len(classes)} different values in "
            f"{len(rows)} rows, which are hardly classes; name another with --label"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in names], np.int64)
    together, how = keys, "Each row is dealt by itself: no column names groups (--group)."
    strata = labels
    if table.group:
        groups = [each.encode() for each in table.read_column(table.group, rows)]
        together, strata = join_keys(keys, groups), np.zeros_like(labels)
        how = f"Rows with the same {table.group!r} stay in one split."
    splits = deal_classes(table.file, together, strata)
    assumptions = [
        f"The classes are in the column {table.label!r}.",
        how,
        *describe_classes(classes, labels, splits),
        *describe_copies(keys),
        *describe_skipped(skipped),
    ]
    constants: dict[str, Constant] = {
        "DATA": table.file,
        "LABEL": table.label,
        "CLASSES": classes,
        "COUNT": len(classes),
    }
    return Findings([str(row) for row in rows.tolist()], splits, constants, assumptions)


def order_class(name: str) -> tuple[bool, int, str]:
    """Numbers by their size, then texts."""
    return not is_whole(name), int(name) if is_whole(name) else 0, name


def iterate_input(split: Split) -> Iterator[Array]:
    """Yield the only input of a split in parts."""
    for start in range(0, len(split), BATCH_ROWS):
        rows = np.arange(start, min(start + BATCH_ROWS, len(split)))
        yield next(iter(split.take(rows).inputs.values()))


def measure_moments(
    split: Split, rows: Rows, width: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each feature; 1 for one that is constant."""
    sums, squares = np.zeros(width), np.zeros(width)
    centre: npt.NDArray[np.float64] | None = None
    for part in iterate_input(Subset(split, rows)):
        values = np.asarray(part, np.float64)
        centre = values[0] if centre is None else centre  # squares of large numbers lose digits
        sums += (values - centre).sum(0)
        squares += ((values - centre) ** 2).sum(0)
    mean = sums / len(rows)
    spread = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    means = (mean + (0 if centre is None else centre)).tolist()
    deviations = [float(f"{each:.6g}") for each in np.where(spread > 0, spread, 1).tolist()]
    return tuple(map(round_mean, means, deviations)), tuple(deviations)


def round_mean(mean: float, deviation: float) -> float:
    """Keep a thousandth of the deviation: digits of the mean alone say nothing of a column of
    times, which are large and close together."""
    return round(mean, 3 - math.floor(math.log10(deviation)))


def find_usable(column: Any) -> npt.NDArray[np.bool_]:
    """Return which cells hold something, of fractions which are finite as features, in float32."""
    from pyarrow import types

    if types.is_floating(column.type):
        return np.asarray(np.abs(column.to_numpy()) <= np.finfo(np.float32).max, bool)
    return find_filled(column)


def measure_texts(table: Table, name: str) -> float:
    import pyarrow.compute as pc

    with open_arrow(make_arrow_file(table.file)) as reader:
        return float(pc.mean(pc.utf8_length(reader.read_all().column(name))).as_py() or 0)
