"""Files in folders that are named as the classes, such as pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.models.task import Batch, Split
from attar.pipeline.core.errors import StageError, suggest_name


class FileSplit(Split):
    """Files ``ROOT/CLASS/.../NAME``. The input is each file's bytes, an object array ``[N]``, as
    ``DecodeImage`` reads them, or its text. The target is the number of its class, int64 ``[N]``.

    A file is read when its sample is taken. What is kept are the names, 1 byte a character.
    """

    def __init__(
        self,
        root: Path | str,
        classes: Sequence[str],
        files: Iterable[str] | None = None,
        *,
        input_name: str = "image",
        target_name: str = "label",
        is_text: bool = False,
    ) -> None:
        """``files`` are the names of the samples in their order, relative to ``root``; all files
        of the classes' folders, if they are not given."""
        self.root, self.classes = Path(root), tuple(classes)
        self.input_name, self.target_name, self.is_text = input_name, target_name, is_text
        names = list_files(self.root, classes) if files is None else files
        self.files = np.array([os.fsencode(name) for name in names], np.bytes_)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        contents = np.empty(len(indices), object)
        labels = np.empty(len(indices), np.int64)
        for row, name in enumerate(self.files[indices].tolist()):
            file = self.root / os.fsdecode(name)
            contents[row] = read_utf8(file) if self.is_text else read_bytes(file)
            labels[row] = self.find_class(file)
        return Batch({self.input_name: contents}, {self.target_name: labels})

    def name_sample(self, index: int) -> str:
        return os.fsdecode(self.files[index])

    def find_class(self, file: Path) -> int:
        """Return the number of a file's class. Raises StageError if its folder names none."""
        name = file.relative_to(self.root).parts[0]
        if name not in self.classes:
            raise StageError(
                f"{file} is in no folder of a class: {suggest_name(name, self.classes)}"
            )
        return self.classes.index(name)


def list_classes(root: Path) -> list[str]:
    """Return the sorted names of the folders in ``root``. Hidden ones do not count."""
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    return sorted(name for name in folders if not name.startswith("."))


def list_files(root: Path, classes: Iterable[str]) -> list[str]:
    """Return the names of all files of these classes, relative to ``root``, sorted. Hidden files
    do not count. Raises StageError if a class has no folder."""
    found: list[str] = []
    for name in classes:
        if not (root / name).is_dir():
            raise StageError(f"there is no folder {root / name} of the class {name!r}; correct the "
                             "path or the names in Task.classes")  # fmt: skip
        for folder, inner, files in os.walk(root / name):
            inner[:] = [each for each in inner if not each.startswith(".")]
            place = Path(folder).relative_to(root)
            found += [(place / file).as_posix() for file in files if not file.startswith(".")]
    return sorted(found)


def read_bytes(file: Path) -> bytes:
    """Read a sample. Raises StageError that names the file."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise StageError(
            f"the sample {file} cannot be read: {error.strerror}; bring it back, or take it out "
            "of the split"
        ) from error


def read_utf8(file: Path) -> str:
    """Read a text. Raises StageError for one that is not in UTF-8."""
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(
            f"{file} is not in UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
