"""Check a Hugging Face folder before it is used. Neither its code nor a pickle is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from attar.models.generation import Vocabulary, find_decoding
from attar.models.task import Task
from attar.pipeline.core.errors import StageError

IGNORED_SETTINGS = ("_name_or_path", "transformers_version")
"""Settings of a configuration that do not decide the network."""
NEEDED = ("fill", "fresh", "labels", "limits", "pad", "vocabulary")
"""What a network must have to be filled from a folder."""
GENERATOR = "attar.models.networks.generator:generator"


class Pretrained(Protocol):
    """A network that can load weights from a folder; see ``attar.models.networks.huggingface``."""

    fresh: bool
    """Whether some weights are random because no folder has them."""
    pad: int
    """The token that is masked as padding."""

    @property
    def labels(self) -> Sequence[str] | None:
        """The class names of the folder's own head."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens that it generates, or None if it generates none."""

    @property
    def limits(self) -> tuple[int, int | None]:
        """The size of the vocabulary, and the largest number of tokens in a row."""

    def fill(self, folder: Path) -> None: ...


def read_configuration(folder: Path) -> str:
    """Return the settings of ``config.json`` that decide the network, as JSON.

    Raises StageError if there is no such file, if there are no weights in safetensors, and if the
    folder needs its own code to be run.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise StageError(
            f"{folder} has no config.json, so it is no model as `save_pretrained` writes it; name "
            "its inner folder"
        )
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise StageError(
            f"{file} has no settings; it must be an object, as `save_pretrained` writes it"
        )
    if config.get("auto_map"):
        raise StageError(
            f"{folder} needs code of its own (auto_map in config.json), which attar never runs; "
            "export it to ONNX where you trust it and name that file in onnx = ..., or write its "
            "network in the recipe's folder and name it in network = ..."
        )
    check_weights(folder)
    settings = {name: value for name, value in config.items() if name not in IGNORED_SETTINGS}
    return json.dumps(settings, separators=(",", ":"))


def check_weights(folder: Path) -> None:
    """Raises StageError unless the folder has weights in safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    suffixes = (".bin", ".pt", ".ckpt")
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
    if not pickled:
        raise StageError(f"{folder} has no weights; it must hold model.safetensors")
    raise StageError(
        f"{folder} has only pickled weights ({', '.join(pickled)}), and reading a pickle runs its "
        "code; where you trust it, convert it once: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors (with "
        "the class that keeps its head, such as AutoModelForSequenceClassification)"
    )


def fill_network(module: nn.Module, folder: Path, task: Task, *, trained: bool) -> nn.Module:
    """Load the folder's weights into the network. ``trained``: whether it will be trained further.

    Raises StageError if the network cannot load a folder, if its head is not trained, and if its
    inputs or classes are not the task's.
    """
    if not all(hasattr(module, name) for name in NEEDED):
        raise StageError(
            f"{type(module).__name__} cannot be filled from a Hugging Face folder; use classifier "
            "or encoder of attar.models.networks.huggingface, or derive from its Pretrained; for "
            f"an output of tokens use {GENERATOR}"
        )
    pretrained: Any = module
    check_inputs(pretrained, task, folder)
    check_labels(pretrained, task, folder)
    check_vocabulary(pretrained, task, folder)
    if pretrained.fresh and not trained:
        raise StageError(
            f"{type(module).__name__} has a fresh head, whose weights are random; write "
            "fine_tune = true, and epochs"
        )
    pretrained.fill(folder)
    return module


def check_inputs(module: Pretrained, task: Task, folder: Path) -> None:
    """Raises StageError unless every token and position of the task has an embedding."""
    vocabulary, max_tokens = module.limits
    for name, tensor in task.inputs.items():
        axes = tensor.axes[1:]
        sizes = [axis if isinstance(axis, int) else task.ranges[axis][1] for axis in axes]
        longest = max(sizes, default=0)
        if (tensor.high or 0) > vocabulary:
            raise StageError(
                f"{folder} knows {vocabulary} tokens, {type(task).__name__} gives {name!r} with "
                f"high = {tensor.high}; does it use another tokenizer? With [teacher] task = ... "
                "the teacher can have inputs of its own"
            )
        if tensor.pad != module.pad:
            raise StageError(
                f"{folder} masks the token {module.pad}, {type(task).__name__} has {name!r} with "
                f"pad = {tensor.pad}; declare pad = {module.pad}, and pad with it"
            )
        if max_tokens is not None and longest > max_tokens:
            raise StageError(
                f"{folder} reads at most {max_tokens} tokens, {type(task).__name__} promises "
                f"{longest} in {name!r}; lower its range"
            )


def check_labels(module: Pretrained, task: Task, folder: Path) -> None:
    """Raises StageError unless the folder's head has the task's classes, in their order."""
    labels, classes = module.labels, list(task.classes)
    if labels is None or not classes:
        return
    if len(labels) != len(classes):
        raise StageError(
            f"{folder} has {len(labels)} labels, {type(task).__name__} has {len(classes)} classes; "
            f"for a fresh head write options = {{ classes = {len(classes)} }} and fine_tune = true"
        )
    got = [label.strip().casefold() for label in labels]
    wanted = [name.strip().casefold() for name in classes]
    if got != wanted and sorted(got) == sorted(wanted):
        raise StageError(
            f"{folder} has the classes of {type(task).__name__} in another order: "
            f"{', '.join(labels)}; give the task's classes this order"
        )


def check_vocabulary(module: Pretrained, task: Task, folder: Path) -> None:
    """Raises StageError unless the folder generates the task's tokens, and as many of them."""
    decoding, own = find_decoding(task), module.vocabulary
    if decoding is None:
        return
    name = type(task).__name__
    if own is None:
        raise StageError(
            f"{name} has the output {decoding.output!r} of tokens, which {type(module).__name__} "
            f"does not generate; write network = {GENERATOR!r} in [teacher]"
        )
    pairs = zip(asdict(own).items(), asdict(decoding.vocabulary).values(), strict=True)
    apart = [f"{word} = {got}, not {wanted}" for (word, got), wanted in pairs if got != wanted]
    if apart:
        raise StageError(
            f"{folder} generates tokens with {', '.join(apart)} as {name} declares of "
            f"{decoding.output!r}; give the output the folder's numbers, and where the folder "
            "begins with its padding name a token that no sequence has, in the output as begin and "
            "in [teacher] as options = { begin = ... }"
        )
    most = module.limits[1]
    if most is not None and decoding.longest > most:
        raise StageError(
            f"{folder} has places for {most} tokens, {name} allows {decoding.longest} in "
            f"{decoding.output!r}; give that output fewer"
        )
