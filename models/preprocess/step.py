"""Step: what is done to one raw input, as data."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from attar.pipeline.core.errors import AttarError, suggest_name

Array = npt.NDArray[np.generic]


class Step(BaseModel, ABC):
    """One of a closed set, see ``attar.models.preprocess.known``. Calling it leaves its argument as
    it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """All samples of one input at once. Raises AttarError for what the step does not read."""

    @property
    def pad(self) -> int | None:
        """What it fills up shorter samples with, where it does; a task's ``Tensor.pad`` must be the
        same."""
        return None

    def content(self) -> dict[str, Any]:
        """What it says as JSON, a file by its digest."""
        return self.model_dump(mode="json")

    def refuse(self, got: str, remedy: str) -> AttarError:
        """What to raise for an input that this step does not read."""
        name = type(self).model_fields["step"].default
        return AttarError(f"the step {name!r} got {got}; {remedy}")


class FileStep(Step):
    """A step that reads a file, which travels in the bundle and must be listed in ``Task.data``."""

    kind: ClassVar[str]
    """How the file's name ends in a bundle."""
    file: Path

    def content(self) -> dict[str, Any]:
        return {**super().content(), "file": hashlib.sha256(self.file.read_bytes()).hexdigest()}


def apply(steps: Mapping[str, Sequence[Step]], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Raw inputs to the network's inputs; an input without steps passes unchanged.

    Raises AttarError for an input that is missing or no array, and for what a step does not read.
    """
    made = dict(inputs)
    for name, todo in steps.items():
        given: Any = inputs.get(name)
        if not isinstance(given, np.ndarray):
            told = suggest_name(name, inputs) if given is None else f"got {type(given).__name__}"
            raise AttarError(f"the input {name!r} must be a numpy array, {told}")
        for step in todo:
            made[name] = step(made[name])
    return made


def describe_steps(steps: Mapping[str, Sequence[Step]]) -> dict[str, list[dict[str, Any]]]:
    """Equal where the same is done to raw inputs, wherever the files lie."""
    return {name: [step.content() for step in todo] for name, todo in steps.items()}


def describe_array(x: Array) -> str:
    """What an array is, for a message: ``uint8[2, 3]``, or of objects the first one's type."""
    shape = ", ".join(map(str, x.shape))
    kind = f"{type(x.flat[0]).__name__} objects" if x.dtype == object and x.size else str(x.dtype)
    return f"{kind}[{shape}]"
