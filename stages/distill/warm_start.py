"""Warm start: initialize a network with the matching weights of an earlier student, or with those
of the teacher, cut to its shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from safetensors.torch import load_file
from torch import Tensor, nn

from attar.engines.runtimes.torch import build_network
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Weights
from attar.stages.distill.inheritance import Layers, inherit_weights
from attar.stages.learning.settings import TrainingSettings


class WarmStart:
    """``WarmStart(settings, weights)()`` returns a network with the matching tensors.

    The settings name the network. ``layers`` are those to inherit of a teacher; None: the weights
    are an earlier student's. Afterwards its facts are: ``key`` (of the weights), ``matched``
    (count of tensors), ``parameters`` (their share of the network's), ``other`` (a line for each
    tensor that does not match).
    """

    def __init__(
        self, settings: TrainingSettings, weights: Weights, layers: Layers | None = None
    ) -> None:
        self.settings, self.weights, self.layers = settings, weights, layers
        self.facts: Facts = {}
        self.fit: frozenset[str] = frozenset()
        """The tensors that matched."""

    def __call__(self) -> nn.Module:
        """Raises StageError if no tensor matches, and for a control that is disabled."""
        if self.weights.is_disabled:
            raise StageError(
                f"{self.source} is a disabled control without weights; name a student's key"
            )
        module = build_network(self.settings.network, self.settings.options)
        tensors = self.load_tensors(module)
        fit = find_fitting_tensors(module, tensors)
        parameters = dict(module.named_parameters())
        shared = sum(parameters[name].numel() for name in fit if name in parameters)
        if not shared:
            raise StageError(
                f"nothing of {self.source} fits {self.settings.network}: it has "
                f"{format_first_names(tensors)}, the network {format_first_names(parameters)}; "
                "begin with a network that shares names and shapes with this one, or from nothing"
            )
        module.load_state_dict({name: tensors[name] for name in fit}, strict=False)
        self.fit = frozenset(fit)
        total = sum(parameter.numel() for parameter in parameters.values())
        others = {name: t for name, t in module.state_dict().items() if name not in fit}
        self.facts = {
            "key": self.weights.key,
            "matched": len(fit),
            "parameters": round(shared / total, 6),
            "other": [describe_misfit(name, tensor, tensors) for name, tensor in others.items()],
        }
        return module

    def load_tensors(self, module: nn.Module) -> dict[str, Tensor]:
        if self.layers is None:
            return load_file(self.weights.root / "weights.safetensors")
        task = load_task(self.settings.task)
        return inherit_weights(self.weights.load(), module, task, self.layers)

    @property
    def source(self) -> str:
        return "the teacher" if self.layers is not None else f"start = {self.weights.key[:12]!r}"


def find_fitting_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with an equal name and shape in both.

    Buffers follow their layer: the statistics of a batch normalization do not fit another width.
    """
    own, buffers = module.state_dict(), {name for name, _ in module.named_buffers()}
    misfits = {
        name
        for name, tensor in own.items()
        if name not in tensors or tensors[name].shape != tensor.shape
    }
    layers = {parent_layer(name) for name in misfits}
    misfits |= {name for name in buffers if parent_layer(name) in layers}
    return [name for name in own if name not in misfits]


def parent_layer(name: str) -> str:
    """Return the name of the layer that has this tensor."""
    return name.rpartition(".")[0]


def describe_misfit(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> str:
    """Return why a tensor of the network does not match."""
    if name not in tensors:
        return f"{name}: not there"
    if tensors[name].shape == tensor.shape:
        return f"{name}: its layer has another shape"
    return f"{name}: {list(tensors[name].shape)} there, {list(tensor.shape)} here"


def format_first_names(names: Iterable[str]) -> str:
    """Return the first three names, and the number of the others."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
