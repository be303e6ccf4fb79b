"""Map-style datasets: any object with ``len(dataset)`` and ``dataset[index]``, such as those of
PyTorch, torchvision and Hugging Face's library ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.preprocess.images import stack_images
from attar.models.task import Array, Batch, Split
from attar.pipeline.core.errors import StageError


@dataclass(frozen=True)
class MapSplit(Split):
    """A map-style dataset, whose samples are tuples or dicts.

    ``inputs`` and ``targets`` say where each is in a sample: an index of the tuple or a key of the
    dict. Values may be numbers, texts, bytes, arrays, tensors on the CPU, pictures of Pillow and
    undecoded images of ``datasets``. A picture becomes uint8 ``[H, W, C]``; one with more than 8
    bits keeps its numbers. An undecoded image gives the bytes of its file. Samples are read when
    they are taken: with ``__getitems__`` if the dataset has it, as PyTorch's loader does. A
    transform that draws random numbers belongs in ``Task.augment``.
    """

    dataset: Any
    inputs: Mapping[str, int | str]
    targets: Mapping[str, int | str]

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        rows = indices.tolist()
        if hasattr(self.dataset, "__getitems__"):
            samples = self.dataset.__getitems__(rows)
        else:
            samples = [self.dataset[row] for row in rows]
        return Batch(self.collect(samples, self.inputs), self.collect(samples, self.targets))

    def collect(self, samples: Sequence[Any], places: Mapping[str, int | str]) -> dict[str, Array]:
        return {
            name: stack_values([convert_value(self.read_place(each, place)) for each in samples])
            for name, place in places.items()
        }

    def read_place(self, sample: Any, place: int | str) -> Any:
        try:
            return sample[place]
        except (KeyError, IndexError, TypeError) as error:
            raise StageError(
                f"a sample of {type(self.dataset).__name__} has no place {place!r}, it "
                f"{describe_places(sample)}; correct the inputs and targets of the MapSplit"
            ) from error


def describe_places(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return f"has the keys {sorted(sample)}"
    if isinstance(sample, tuple | list):
        return f"has {len(sample)} values"
    return f"is of the type {type(sample).__name__}"


def convert_value(value: Any) -> Any:
    """Return text and bytes as they are, and all else as an array. A picture gets an axis of
    channels."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return value["bytes"]  # an image of `datasets` with decode=False
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "getbands"):  # a picture: a palette's indices would say nothing
        is_wide = value.mode[0] in "IF"  # more than 8 bits, which a conversion would cut off
        picture = value if is_wide else value.convert("L" if value.mode in "1L" else "RGB")
        return np.asarray(picture).reshape(value.height, value.width, -1)
    return np.asarray(value)


def stack_values(values: Sequence[Any]) -> Array:
    """Return one array with a row for each sample. Texts, bytes and arrays of different shapes are
    objects."""
    if all(isinstance(value, np.ndarray) for value in values):
        return stack_images(values)
    objects = np.empty(len(values), object)
    objects[:] = values
    return objects
