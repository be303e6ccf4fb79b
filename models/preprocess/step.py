"""Step: one operation on a raw input, described as data."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from attar.pipeline.core.errors import AttarError, suggest_name

Array = npt.NDArray[np.generic]


class Step(BaseModel, ABC):
    """A preprocessing step. The set of steps is closed, see ``attar.models.preprocess.known``. A
    call does not change its argument."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decodes: ClassVar[bool] = False
    """Whether it decodes the bytes of files. ``Task.augment`` comes after such a first step."""
    moves: ClassVar[bool] = False
    """Whether a GPU can compute it on a tensor of numbers, and gets the same bits."""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Convert all samples of one input at once. Raises AttarError for an array that the step
        does not read."""

    @property
    def pad(self) -> int | None:
        """The value that fills up shorter samples, if the step pads; a task's ``Tensor.pad`` must
        be the same."""
        return None

    def explain_misfit(self, kind: str, size: int, end: int) -> str | None:
        """Return why the step does not read an output of this kind, of ``size`` tokens and with
        this end token; None if it does."""
        return None

    def content(self) -> dict[str, Any]:
        """Return the step as JSON, with a digest in place of a file."""
        return self.model_dump(mode="json")

    def refuse(self, got: str, remedy: str) -> AttarError:
        """Return the error for an input that this step does not read."""
        name = type(self).model_fields["step"].default
        return AttarError(f"the step {name!r} got {got}; {remedy}")


class FileStep(Step):
    """A step that reads a file, which travels in the bundle and must be listed in ``Task.data``."""

    kind: ClassVar[str]
    """The suffix of the file's name in a bundle."""
    file: Path

    @abstractmethod
    def hold_file(self) -> Self:
        """Return the same step, which keeps what its file holds now and never reads it again.

        Raises AttarError if the file cannot be used.
        """

    def content(self) -> dict[str, Any]:
        return {**super().content(), "file": hashlib.sha256(self.file.read_bytes()).hexdigest()}


def apply(steps: Mapping[str, Sequence[Step]], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Convert raw inputs to the network's inputs, or its outputs to answers. A tensor without steps
    passes unchanged.

    Raises AttarError for a tensor that is missing or no array, and for one that a step does not
    read.
    """
    converted = dict(inputs)
    for name, own_steps in steps.items():
        raw: Any = inputs.get(name)
        if not isinstance(raw, np.ndarray):
            problem = suggest_name(name, inputs) if raw is None else f"got {type(raw).__name__}"
            raise AttarError(f"{name!r} must be a numpy array, {problem}")
        for step in own_steps:
            converted[name] = step(converted[name])
    return converted


def decode(steps: Mapping[str, Sequence[Step]], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what ``Task.augment`` reads: the raw inputs, of files what they hold."""
    first = {name: own[:1] for name, own in steps.items() if own and own[0].decodes}
    return apply(first, inputs)


def list_later_steps(steps: Mapping[str, Sequence[Step]]) -> dict[str, Sequence[Step]]:
    """Return the steps that come after ``Task.augment``: all but those of `decode`."""
    return {name: own[1:] if own and own[0].decodes else own for name, own in steps.items()}


def split_steps(
    steps: Mapping[str, Sequence[Step]],
) -> tuple[dict[str, Sequence[Step]], dict[str, Sequence[Step]]]:
    """Return the steps that the host computes, and the last ones, which a GPU can compute."""
    host: dict[str, Sequence[Step]] = {}
    moved: dict[str, Sequence[Step]] = {}
    for name, own in steps.items():
        stays = [place for place, step in enumerate(own, 1) if not step.moves]
        host[name], moved[name] = own[: max(stays, default=0)], own[max(stays, default=0) :]
    return host, moved


def describe_steps(steps: Mapping[str, Sequence[Step]]) -> dict[str, list[dict[str, Any]]]:
    """Return a description that is equal for equal preprocessing, wherever its files are."""
    return {name: [step.content() for step in own_steps] for name, own_steps in steps.items()}
