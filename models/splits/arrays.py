"""Arrays in .npy files that may be larger than memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Batch, Split
from attar.pipeline.core.errors import StageError


@dataclass(frozen=True)
class NpySplit(Split):
    """One .npy file for each input and each target, with a row for each sample.

    The files are mapped into memory for each batch, so no process holds more than its batch, and
    the split can be sent to another process. (``InMemory`` would be sent with all of its content.)
    """

    inputs: Mapping[str, Path | str]
    targets: Mapping[str, Path | str]

    def __len__(self) -> int:
        return self.samples

    @cached_property
    def samples(self) -> int:
        """Return the number of samples. Raises StageError if the files disagree about it."""
        files = [*self.inputs.values(), *self.targets.values()]
        counts = {file: len(map_array(file)) for file in files}
        if len(set(counts.values())) != 1:
            listed = ", ".join(f"{Path(file).name} {count}" for file, count in counts.items())
            raise StageError(
                f"these arrays differ in their number of samples: {listed}; save a row for each "
                "sample in each of them"
            )
        return counts[files[0]]

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        return Batch(read_rows(self.inputs, indices), read_rows(self.targets, indices))


def read_rows(files: Mapping[str, Path | str], indices: npt.NDArray[np.int64]) -> dict[str, Array]:
    return {name: np.asarray(map_array(file)[indices]) for name, file in files.items()}


def map_array(file: Path | str) -> Array:
    """Map a .npy file into memory. Raises StageError for a file that holds no array of numbers or
    texts."""
    try:
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StageError(
            f"{file} cannot be read as a .npy array: {error}; write it with numpy.save, and not "
            "from an array of objects"
        ) from error
    if not isinstance(array, np.memmap) or array.ndim == 0:
        raise StageError(
            f"{file} holds no .npy array with a row for each sample; write one array a file with "
            "numpy.save"
        )
    return array
