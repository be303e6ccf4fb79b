"""Pretrained: what is looked at in a Hugging Face folder before any of it is used. Nothing of it is imported or unpickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from attar.models.task import Task
from attar.pipeline.core.errors import StageError

NOT_MEANT = ("_name_or_path", "transformers_version")
"""What a configuration says of where it was, and when."""


class Pretrained(Protocol):
    """What a network must have to be filled from a folder; see ``attar.models.networks.huggingface``."""

    fresh: bool
    """Whether some weights are no folder's."""
    pad: int
    """The token that is masked."""

    @property
    def labels(self) -> Sequence[str] | None:
        """The names that the folder's own head gives its classes."""

    @property
    def limits(self) -> tuple[int, int | None]:
        """The size of the vocabulary, and the most tokens that a row may have."""

    def fill(self, folder: Path) -> None: ...


def configuration(folder: Path) -> str:
    """Of the folder's ``config.json`` what decides the network, as JSON.

    Raises StageError for a folder without one, without weights in safetensors, or that wants its own code to be run.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise StageError(f"{folder} has no config.json, so it is no model as `save_pretrained` writes it; name its inner folder")
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise StageError(f"{file} holds no settings; it must be an object, as `save_pretrained` writes it")
    if config.get("auto_map"):
        raise StageError(
            f"{folder} wants code of its own to be run (auto_map in config.json), which is never done; export it to ONNX where "
            "you trust it and name that file in onnx = ..., or write its network beside the recipe and name it in network = ..."
        )
    check_weights(folder)
    return json.dumps({name: value for name, value in config.items() if name not in NOT_MEANT}, separators=(",", ":"))


def check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")])
    if not pickled:
        raise StageError(f"{folder} has no weights; it must hold model.safetensors")
    raise StageError(
        f"{folder} has pickled weights alone ({', '.join(pickled)}), and reading a pickle runs what is in it; where you trust "
        "it, convert it once: AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors (with the "
        "class that keeps its head, such as AutoModelForSequenceClassification)"
    )


def filled(module: nn.Module, folder: Path, task: Task, *, trained: bool) -> nn.Module:
    """The network with the folder's weights. ``trained``: whether it will be trained further.

    Raises StageError for a network that no folder can fill, a head that nothing has trained, and classes that are not the task's.
    """
    if not all(hasattr(module, name) for name in ("fill", "fresh", "labels", "limits", "pad")):
        raise StageError(
            f"{type(module).__name__} cannot be filled from a Hugging Face folder; use classifier or encoder of "
            "attar.models.networks.huggingface, or derive from its Pretrained"
        )
    pretrained: Any = module
    check_inputs(pretrained, task, folder)
    check_labels(pretrained, task, folder)
    if pretrained.fresh and not trained:
        raise StageError(
            f"{type(module).__name__} has a fresh head, whose weights are random; write fine_tune = true, and epochs"
        )
    pretrained.fill(folder)
    return module


def check_inputs(module: Pretrained, task: Task, folder: Path) -> None:
    """Every token that the task promises has an embedding, and so has every place."""
    vocabulary, most = module.limits
    for name, tensor in task.inputs.items():
        longest = max((axis if isinstance(axis, int) else task.ranges[axis][1] for axis in tensor.axes[1:]), default=0)
        if tensor.high > vocabulary:
            raise StageError(
                f"{folder} knows {vocabulary} tokens, {type(task).__name__} gives {name!r} with high = {tensor.high}; was it "
                "made by another tokenizer? With [teacher] task = ... the teacher can have inputs of its own"
            )
        if tensor.pad != module.pad:
            raise StageError(
                f"{folder} masks the token {module.pad}, {type(task).__name__} has {name!r} with pad = {tensor.pad}; declare "
                f"pad = {module.pad}, and pad with it"
            )
        if most is not None and longest > most:
            raise StageError(
                f"{folder} reads at most {most} tokens, {type(task).__name__} promises {longest} in {name!r}; lower its range"
            )


def check_labels(module: Pretrained, task: Task, folder: Path) -> None:
    labels, classes = module.labels, list(task.classes)
    if labels is None or not classes:
        return
    if len(labels) != len(classes):
        raise StageError(
            f"{folder} tells {len(labels)} labels apart, {type(task).__name__} has {len(classes)} classes; for a fresh head "
            f"write options = {{ classes = {len(classes)} }} and fine_tune = true"
        )
    told, wanted = ([each.strip().casefold() for each in names] for names in (labels, classes))
    if told != wanted and sorted(told) == sorted(wanted):
        raise StageError(
            f"{folder} has the classes of {type(task).__name__} in another order: {', '.join(labels)}; order the task's alike"
        )
