"""Files of the format of ``cifar-100-python``, as Python 2 wrote it, with images made here."""

from __future__ import annotations

import io
import pickle  # what is read must first be written
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from attar.models.tasks.cifar import CLASSES, PIXELS


class Python2(pickle._Pickler):
    """Protocol 2 of Python 2: ``str`` and ``bytes`` are its 8-bit strings, and numpy's modules have their names of then."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin-1") if isinstance(value, str) else value
        short = len(content) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(content)]) if short else pickle.BINSTRING + struct.pack("<i", len(content))
        self.write(head + content)  # type: ignore[attr-defined]  # set when it is made; typeshed does not list it
        self.memoize(value)  # type: ignore[attr-defined]  # nor this

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__name__}\n".encode())  # type: ignore[attr-defined]  # as above
        self.memoize(obj)  # type: ignore[attr-defined]  # nor this


def packed(value: Any) -> bytes:
    made = io.BytesIO()
    Python2(made, protocol=2).dump(value)
    return made.getvalue()


def write(folder: Path, train: int, test: int) -> Path:
    """``train``, ``test`` and ``meta`` in ``folder``; each class is a picture of 4x4 coloured squares, with noise.

    The last image of ``train`` is the last of ``test`` too, as some are in the real files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    squares = generator.integers(0, 176, (100, 3, 4, 4), np.uint8)
    twice = np.zeros((0, 3, 32, 32), np.uint8)
    for name, count in {"train": train, "test": test}.items():
        labels = np.arange(count) % 100
        noisy = squares[labels].repeat(8, 2).repeat(8, 3) + generator.integers(0, 80, (count, 3, 32, 32), np.uint8)
        noisy[count - len(twice) :] = twice
        twice = noisy[-1:]
        (folder / name).write_bytes(packed(table(noisy, labels.tolist(), name)))
    (folder / "meta").write_bytes(packed({"fine_label_names": CLASSES.split(), "coarse_label_names": ["fish", "flowers"]}))
    return folder


def table(images: np.ndarray[Any, Any], labels: list[int], name: str) -> dict[str, Any]:
    """What ``train`` and ``test`` hold, key by key in their order."""
    return {
        "filenames": [f"{label}_s_{number:06}.png" for number, label in enumerate(labels)],
        "batch_label": f"{name}ing batch 1 of 1",
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "data": images.reshape(-1, PIXELS),
    }
