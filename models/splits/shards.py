"""WebDataset: tar files in which the files of one sample stand together and share a name.

The library ``webdataset`` reads such shards as a stream, each from its beginning. Attar reads
samples by their number, since the teacher's answers are stored by it. So this module reads the
headers of each tar file once, with Python's tarfile, and keeps where every file begins. A sample is
then one read. Tests compare it with what the library writes and reads.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from attar.models.splits.cache import make_cached_file
from attar.models.splits.datasets import stack_values
from attar.models.task import Array, Batch, Split
from attar.pipeline.core.errors import StageError, suggest_name

Integers = npt.NDArray[np.int64]
Places = dict[str, tuple[int, int]]
"""Where the files of a sample are in its shard: the first byte and their number, by extension."""


@dataclass(frozen=True)
class ShardSplit(Split):
    """The samples of several shards, which are uncompressed tar files, in the order of the shards.

    ``inputs`` and ``targets`` name the extension of each: ``{"image": "jpg"}``. As in WebDataset, a
    file's extension is all that follows the first dot of its name. ``cls`` is read as a number,
    ``txt`` as text, ``npy`` as an array, all else as bytes. No file stays open between batches.
    """

    shards: Sequence[Path]
    inputs: Mapping[str, str]
    targets: Mapping[str, str]

    @cached_property
    def indexes(self) -> list[Path]:
        return [
            make_cached_file(shard, "shards-1", partial(write_index, shard))
            for shard in self.shards
        ]

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Return the number of samples up to the end of each shard."""
        return np.cumsum([len(np.load(file, mmap_mode="r")) for file in self.indexes])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.shards else 0

    def name_sample(self, index: int) -> str:
        owners, rows = self.find_rows(np.array([index]))
        return f"sample {rows[0]} of {self.shards[owners[0]].name}"

    def find_rows(self, indices: npt.NDArray[np.int64]) -> tuple[Integers, Integers]:
        """Return the number of the shard of each sample, and its number there."""
        owners = np.searchsorted(self.ends, indices, "right")
        return owners, indices - np.concatenate([[0], self.ends])[owners]

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        owners, places = self.find_rows(indices)
        extensions = {*self.inputs.values(), *self.targets.values()}
        values = {extension: np.empty(len(indices), object) for extension in extensions}
        for owner in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == owner)
            for extension in extensions:
                values[extension][mine] = self.read_shard(owner, places[mine], extension)
        return Batch(stack_fields(self.inputs, values), stack_fields(self.targets, values))

    def read_shard(self, number: int, rows: npt.NDArray[np.int64], extension: str) -> Array:
        """Return one file of each of these samples of a shard, as objects."""
        shard, index = self.shards[number], np.load(self.indexes[number], mmap_mode="r")
        known = index.dtype.names or ()
        if extension not in known:
            raise StageError(f"{shard} has no files .{extension}: {suggest_name(extension, known)}")
        read = np.empty(len(rows), object)
        with shard.open("rb") as file:
            for place, row in enumerate(rows.tolist()):
                start, size = index[extension][row].tolist()
                if start < 0:
                    raise StageError(
                        f"sample {row} of {shard} has no file .{extension}; write one, or leave "
                        "the sample out"
                    )
                read[place] = decode_field(extension, read_part(file, start, size))
        return read


def read_part(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def stack_fields(fields: Mapping[str, str], values: Mapping[str, Array]) -> dict[str, Array]:
    return {name: stack_values(list(values[extension])) for name, extension in fields.items()}


def decode_field(extension: str, content: bytes) -> Any:
    """Return the value of a file by the last part of its extension, as WebDataset's own decoders
    do."""
    match extension.rpartition(".")[2]:
        case "cls":
            return np.asarray(int(content))
        case "txt":
            return content.decode()
        case "npy":
            return np.load(io.BytesIO(content), allow_pickle=False)
    return content


def write_index(shard: Path, to: Path) -> None:
    """Write an array with a row for each sample, whose fields are the extensions: int64 ``[2]``,
    the first byte and the number of bytes, or -1 and -1. Raises StageError for a damaged shard."""
    try:
        samples = list(iterate_samples(shard))
    except (tarfile.TarError, OSError) as error:
        raise StageError(
            f"{shard} cannot be read as a tar file: {error}; write it again, without compression"
        ) from error
    if not samples:
        raise StageError(f"{shard} holds no samples; leave it out")
    extensions = sorted({extension for sample in samples for extension in sample})
    index = np.full(len(samples), -1, [(extension, "<i8", 2) for extension in extensions])
    for extension in extensions:
        index[extension] = [sample.get(extension, (-1, -1)) for sample in samples]
    with to.open("wb") as file:
        np.save(file, index)


def iterate_samples(shard: Path) -> Iterator[Places]:
    """Yield where the files of each sample are. Files of one sample follow each other."""
    current, places = "", Places()
    for name, start, size in iterate_members(shard):
        folder, slash, base = name.rpartition("/")
        key, _, extension = base.partition(".")
        if not key or not extension:  # a hidden file, or one such as README
            continue
        if folder + slash + key != current and places:
            yield places
            places = Places()
        if extension in places:
            raise StageError(f"{shard} holds {name} twice; give each sample a name of its own")
        current = folder + slash + key
        places[extension] = start, size
    if places:
        yield places


def iterate_members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the first byte and the number of bytes of each file in a tar file."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # untyped; it would keep all of them
            if member.isfile():
                yield member.name, member.offset_data, member.size
    check_end(shard)


def check_end(shard: Path) -> None:
    """Raises StageError unless a tar file ends with two empty blocks, as all whole ones do: tarfile
    takes one that was cut for a shorter one."""
    with shard.open("rb") as file:
        file.seek(-2 * tarfile.BLOCKSIZE, io.SEEK_END)
        if any(file.read()):
            raise StageError(f"{shard} is cut off: it has no end of a tar file; copy it again")
