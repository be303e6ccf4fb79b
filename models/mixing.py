"""Mixing: recorded views whose samples are blended in pairs, by mixup or CutMix.

The teacher answers the mixed input itself, and the student is matched to it there: function
matching, Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent",
arXiv:2106.05237. Pairs are drawn within a chunk by a recorded seed, after preprocessing, so a view
is mixed in the same way whenever it is read. Labels are mixed in the same shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attar.models.task import CLASSIFYING, Array, Arrays, Task
from attar.models.tensors import TensorSpec
from attar.pipeline.core.errors import StageError

MixKind = Literal["mixup", "cutmix"]
PARTNER = ".partner"
"""The end of the name of a target that holds the labels of the samples mixed in."""
SHARE = "mix.share"
"""The target that holds each sample's share of its mixed input; its partner has the rest."""
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Mixing:
    """How the samples of recorded views are mixed."""

    kinds: tuple[MixKind, ...]
    """Each sample is mixed by one of them, drawn with equal chances."""
    alpha: float
    """A sample's share is drawn from Beta(alpha, alpha); with 1 all shares are equally likely."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any] | None) -> Mixing | None:
        """Return the mixing that the facts of stored answers tell; None if they are not mixed."""
        return None if facts is None else cls(tuple(facts["kinds"]), facts["alpha"])

    def mix(
        self, inputs: Arrays, targets: Arrays, generator: np.random.Generator
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the inputs of a chunk, mixed, and its targets with those of the partners.

        ``mixup`` (Zhang et al. 2018, arXiv:1710.09412) is ``share * own + (1 - share) * other``.
        ``cutmix`` (Yun et al. 2019, arXiv:1905.04899) is the sample with a box of the other; the
        box is cut at the edges, and the share is what is left of the sample.
        """
        count = len(next(iter(inputs.values())))
        partners = generator.permutation(count)
        shares = generator.beta(self.alpha, self.alpha, count).astype(np.float32)
        kinds = generator.integers(len(self.kinds), size=count)
        centers = generator.random((count, 2))
        mixed = {name: array.copy() for name, array in inputs.items()}
        for place, kind in enumerate(self.kinds):
            rows = np.flatnonzero(kinds == place)
            for name, array in inputs.items():
                own, other = array[rows], array[partners[rows]]
                if kind == "cutmix":
                    boxes = draw_boxes(centers[rows], shares[rows], array.shape[-2:])
                    shares[rows] = 1 - boxes.mean((1, 2), dtype=np.float64)
                    mixed[name][rows] = np.where(boxes[:, None], other, own)
                else:
                    mixed[name][rows] = blend(own, other, shares[rows])
        return mixed, add_partners(targets, partners, shares)


def blend(own: npt.NDArray[Any], other: npt.NDArray[Any], shares: Floats) -> Array:
    """Return ``share * own + (1 - share) * other`` of each sample."""
    column = shares.reshape(-1, *[1] * (own.ndim - 1))
    blended: Array = column * own + (1 - column) * other
    return blended


def draw_boxes(centers: npt.NDArray[np.float64], shares: Floats, size: tuple[int, ...]) -> Array:
    """Return masks ``[N, height, width]`` of boxes of the area ``1 - share`` around the centers.

    Centers ``[N, 2]`` are in parts of height and width. What lies outside of the image is cut off.
    """
    half = np.sqrt(1 - shares)[:, None] / 2
    inside = []
    for axis, length in enumerate(size):
        middles = (np.arange(length) + 0.5) / length
        inside.append(np.abs(middles - centers[:, axis : axis + 1]) < half)
    boxes: Array = inside[0][:, :, None] & inside[1][:, None, :]
    return boxes


def add_partners(targets: Arrays, partners: Integers, shares: Floats) -> dict[str, Array]:
    """Return the targets, those of the partners, and the shares; nothing if there are no targets.

    ``partners`` are the rows of the samples that are mixed in.
    """
    if not targets:
        return {}
    others = {name + PARTNER: target[partners] for name, target in targets.items()}
    return {**targets, **others, SHARE: shares}


def check_mixing(task: Task, mixing: Mixing) -> None:
    """Raises StageError if inputs or labels of the task cannot be mixed."""
    for name, tensor in task.inputs.items():
        if not np.issubdtype(np.dtype(tensor.dtype), np.floating) or tensor.pad is not None:
            raise StageError(
                f"mix = {list(mixing.kinds)} blends numbers of equal sizes, and the input {name!r} "
                f"of {type(task).__name__} is {describe_tensor(tensor)}; leave mix out of [answers]"
            )
    axes = [tensor.axes for tensor in task.inputs.values()]
    if "cutmix" in mixing.kinds and (len(axes) > 1 or len(axes[0]) != 4):
        raise StageError(
            f"cutmix needs one input of images (batch, channels, height, width), and "
            f"{type(task).__name__} has {[list(each) for each in axes]}; write mix = ['mixup']"
        )
    for name, output in task.outputs.items():
        places = output.kind in CLASSIFYING and output.target and len(output.axes) > 2
        if output.kind == "tokens" or places or not isinstance(output.axes[-1], int):
            raise StageError(
                f"mix = {list(mixing.kinds)} blends one label a sample, and the output {name!r} of "
                f"{type(task).__name__} holds {output.kind} of {list(output.axes)}; leave mix out "
                "of [answers]"
            )


def describe_tensor(tensor: TensorSpec) -> str:
    return f"{tensor}" + (", padded" if tensor.pad is not None else "")
