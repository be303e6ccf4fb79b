"""Files of the format of ``cifar-100-binary``, with images made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.models.tasks.cifar import CLASSES, NAMES, PIXELS, TEST, TRAIN


def write(folder: Path, train: int, test: int) -> Path:
    """Write all files to ``folder``; each class is a picture of 4x4 coloured squares, with noise.

    The last image of the training file is the last of the test file too, as some are in the real files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    squares = generator.integers(0, 176, (100, 3, 4, 4), np.uint8)
    twice = np.zeros((0, 3, 32, 32), np.uint8)
    for name, count in {TRAIN: train, TEST: test}.items():
        labels = np.arange(count) % 100
        noisy = squares[labels].repeat(8, 2).repeat(8, 3) + generator.integers(0, 80, (count, 3, 32, 32), np.uint8)
        noisy[count - len(twice) :] = twice
        twice = noisy[-1:]
        (folder / name).write_bytes(pack_records(noisy, labels.tolist()))
    (folder / NAMES).write_text("\n".join(CLASSES.split()) + "\n\n", encoding="utf-8")
    return folder


def pack_records(images: np.ndarray[Any, Any], labels: Sequence[int]) -> bytes:
    """Return one record a sample: its coarse label, its fine label, its pixels."""
    fine = np.asarray(labels, np.uint8)[:, None]
    return np.concatenate([fine // 5, fine, images.reshape(-1, PIXELS)], axis=1).tobytes()
