"""Tables in CSV or Parquet files, read by pyarrow.

Neither format can be read by row: a batch from all over a split would read the whole file. So a
table is written once, in batches of rows, to the cache folder as an Arrow file, which is mapped
into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.splits.cache import make_cached_file
from attar.models.splits.columns import convert_column, find_filled
from attar.models.splits.parsing import iterate_batches, require_pyarrow
from attar.models.task import Array, Batch, Split
from attar.pipeline.core.errors import StageError, suggest_name


@dataclass(frozen=True)
class TableSplit(Split):
    """The rows of a ``.csv``, ``.tsv`` or ``.parquet`` file with named columns.

    An input is one column ``[N]``, or a list of columns of numbers, which become float32 ``[N,
    columns]``. A target is one column. If it holds texts, these are names of ``classes``, and the
    target is their number, int64 ``[N]``. Texts and bytes are objects. Lists of one length become
    ``[N, length]``. An empty cell is an error, and so is a blank text.
    """

    file: Path | str
    inputs: Mapping[str, str | Sequence[str]]
    targets: Mapping[str, str]
    classes: Sequence[str] = ()

    @cached_property
    def arrow(self) -> Path:
        return make_arrow_file(Path(self.file))

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Return the number of rows up to the end of each batch of the Arrow file."""
        with open_arrow(self.arrow) as reader:
            batches = range(reader.num_record_batches)
            return np.cumsum([0, *(reader.get_batch(number).num_rows for number in batches)])[1:]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        chosen = [[names] if isinstance(names, str) else names for names in self.inputs.values()]
        names = dict.fromkeys([*(each for part in chosen for each in part), *self.targets.values()])
        columns = self.read_columns(list(names), indices)
        inputs = {name: join_columns(columns, own) for name, own in self.inputs.items()}
        targets = {name: self.number_classes(own, columns) for name, own in self.targets.items()}
        return Batch(inputs, targets)

    def name_sample(self, index: int) -> str:
        return f"row {index + 1} of {Path(self.file).name}"

    def read_columns(
        self, names: Sequence[str], indices: npt.NDArray[np.int64]
    ) -> dict[str, Array]:
        """Return these columns of these rows. Raises StageError for unknown columns, empty cells
        and types that are no array."""
        import pyarrow

        owners = np.searchsorted(self.ends, indices, "right")
        starts = np.concatenate([[0], self.ends])[owners]
        with open_arrow(self.arrow) as reader:
            check_columns(Path(self.file), names, reader.schema.names)
            pieces = [
                reader.get_batch(owner)
                .select(names)
                .take(pyarrow.array((indices - starts)[owners == owner]))
                for owner in np.unique(owners).tolist()
            ]
            table = pyarrow.Table.from_batches(pieces, None if pieces else reader.schema)
            read = np.argsort(np.argsort(owners, kind="stable"))  # they come batch by batch
            return {name: self.read_column(table, name, indices)[read] for name in names}

    def read_column(self, table: Any, name: str, indices: npt.NDArray[np.int64]) -> Array:
        column = table.column(name).combine_chunks()
        empty = len(indices) - int(find_filled(column).sum())
        if empty:
            raise StageError(
                f"the column {name!r} of {self.file} has empty cells, {empty} in "
                f"{len(indices)} rows that were read; fill them, or leave these rows out"
            )
        array = convert_column(column)
        if array is None:
            raise StageError(
                f"the column {name!r} of {self.file} holds {column.type}, which is no array; give "
                "it as numbers, text, bytes or lists of one length"
            )
        return array

    def number_classes(self, name: str, columns: Mapping[str, Array]) -> Array:
        """Return a target; for names of classes their numbers. Whole numbers are names if all
        classes are. Raises StageError for other names."""
        column = columns[name]
        if column.dtype != object and not (self.classes and all(map(is_whole, self.classes))):
            return column
        numbers = {each: number for number, each in enumerate(self.classes)}
        names = [str(each) for each in column.tolist()]
        unknown = sorted({each for each in names if each not in numbers})
        if unknown:
            raise StageError(
                f"the column {name!r} of {self.file} holds {unknown[0]!r}, which is no class: "
                f"{suggest_name(unknown[0], self.classes)}"
            )
        return np.array([numbers[each] for each in names], np.int64)


def is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def make_arrow_file(file: Path) -> Path:
    """Return the table as an Arrow file, written once. Raises StageError for a file that is no
    table."""
    import pyarrow

    return make_cached_file(file, f"tables-2-{pyarrow.__version__}", partial(write_arrow, file))


def write_arrow(file: Path, to: Path) -> None:
    """Write the values of dictionaries in their place: an Arrow file has one dictionary a column,
    and a Parquet file one for each group of rows."""
    import pyarrow

    schema, batches = iterate_batches(file)
    plain = pyarrow.schema(map(replace_dictionary, schema))
    with pyarrow.OSFile(str(to), "wb") as sink, pyarrow.ipc.new_file(sink, plain) as writer:
        for batch in batches:
            writer.write_batch(batch if plain == schema else batch.cast(plain))


def replace_dictionary(field: Any) -> Any:
    from pyarrow import types

    return field.with_type(field.type.value_type) if types.is_dictionary(field.type) else field


@contextmanager
def open_arrow(file: Path) -> Iterator[Any]:
    """Map an Arrow file. It is opened for each batch, so that a split holds no open file when its
    process forks."""
    require_pyarrow()
    import pyarrow

    with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_file(source) as reader:
        yield reader


def check_columns(file: Path, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise StageError(f"{file} has no column {name!r}: {suggest_name(name, known)}")


def join_columns(columns: Mapping[str, Array], names: str | Sequence[str]) -> Array:
    """Return one column as it is, or several as float32 ``[N, columns]``. Raises StageError for
    columns that hold no numbers."""
    if isinstance(names, str):
        return columns[names]
    for name in names:
        if columns[name].dtype == object or columns[name].ndim > 1:
            raise StageError(
                f"the column {name!r} holds no numbers, so that it cannot be joined with others; "
                "make it an input of its own, or leave it out"
            )
    return np.stack([columns[name] for name in names], 1).astype(np.float32)
