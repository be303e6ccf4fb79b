"""Features of a network in PyTorch: the mean over positions of what a layer answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import open_network
from attar.engines.runtimes.torch_layers import hook_layer, list_nesting_encoders
from attar.models import lengths
from attar.models.features import name_features
from attar.models.generation import MODEL
from attar.models.task import Array, Arrays, Predict, Predictor, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Device, FloatPrecision


class FeatureReader:
    """Reads the features of a teacher's layers in each of its calls."""

    def __init__(self, module: nn.Module, task: Task, layers: Sequence[str]) -> None:
        """Raises StageError for a layer that does not exist."""
        self.task = task
        self.hooks = {layer: hook_layer(module, layer, "teacher") for layer in layers}
        self.calls: list[dict[str, Tensor]] = []
        for encoder in list_nesting_encoders(module):
            encoder.use_nested_tensor = False
        module.register_forward_hook(self.record_call)

    def record_call(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        """Pool what the layers answered in a call that succeeded."""
        arrays = {
            name: tensor.cpu().numpy()
            for name, tensor in zip(self.task.inputs, inputs, strict=True)
        }
        masks = {
            name: torch.from_numpy(mask).to(inputs[0].device)
            for name, mask in mask_tokens(self.task, arrays).items()
        }
        pooled = {}
        for layer, hook in self.hooks.items():
            whose = f"the teacher's layer {layer!r}"
            pooled[layer] = pool_features(hook(), masks, whose)
            check_samples(pooled[layer], len(inputs[0]), whose)
        self.calls.append(pooled)

    def extend(self, graph: Predict) -> Predict:
        """Return a graph of this network that answers features, too: ``[samples, width]``."""

        def predict(inputs: Arrays) -> dict[str, Array]:
            self.calls.clear()
            answer = graph(inputs)
            return answer | self.join_calls(len(next(iter(inputs.values()))))

        return predict

    def join_calls(self, samples: int) -> dict[str, Array]:
        """Return the last ``samples`` rows.

        A graph that had no memory for a batch asks for all of it again in smaller parts, so what
        was recorded before is of an attempt that failed.
        """
        return {
            name_features(layer): torch.cat([call[layer] for call in self.calls])[-samples:]
            .cpu()
            .numpy()
            for layer in self.hooks
        }


@contextmanager
def open_with_layers(
    module: nn.Module,
    task_name: str,
    layers: Sequence[str],
    threads: int | None = None,
    device: Device = "cpu",
    precision: FloatPrecision = "fp32",
) -> Iterator[Predictor]:
    """Open a network as ``open_network`` does, whose answers hold the features of ``layers``."""
    reader = FeatureReader(module, load_task(task_name), layers)
    with open_network(module, task_name, threads, device, precision) as predictor:
        yield Predictor({**predictor.graphs, MODEL: reader.extend(predictor.graphs[MODEL])})


def list_token_inputs(task: Task) -> list[str]:
    """Return, for each axis that is padded, the name of an input that declares it."""
    by_axis: dict[str, str] = {}
    for name, axis in lengths.list_padded_inputs(task).items():
        by_axis.setdefault(axis, name)
    return list(by_axis.values())


def mask_tokens(task: Task, inputs: Arrays) -> dict[str, Array]:
    """Return where tokens are no padding, ``[N, S]``, by the name in ``list_token_inputs``."""
    return {name: lengths.mask_padding(task, inputs, name) for name in list_token_inputs(task)}


def pool_features(features: Tensor, masks: Mapping[str, Tensor], whose: str) -> Tensor:
    """Return features as one row a sample, ``(B, width)``; see ``average_positions``.

    Of states the positions that are padding are left out; ``masks`` are those of ``mask_tokens``.
    ``whose`` names the layer in errors. Raises StageError for other features, and if it cannot be
    told which positions are padding.
    """
    if not 2 <= features.ndim <= 5:
        raise StageError(
            f"{whose} answers {list(features.shape)}; features are rows (batch, features), states "
            "(batch, sequence, hidden) or maps (batch, channels, height, width): name another layer"
        )
    mask = find_content(masks, features.shape[1], whose) if features.ndim == 3 else None
    return average_positions(features, mask)


def check_samples(features: Tensor, samples: int, whose: str) -> None:
    """Raises StageError unless there is one row for each sample."""
    if len(features) != samples:
        raise StageError(
            f"{whose} answers {len(features)} rows for {samples} samples; name a layer that "
            "answers each once"
        )


def average_positions(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over positions, ``(B, width)``.

    Features are rows ``(B, width)``, which stay as they are, states ``(B, S, width)``, of which
    those count where ``mask`` ``(B, S)`` is true, or maps ``(B, width, ...)``. A sample without any
    position that counts has the mean 0.
    """
    if features.ndim == 2:
        return features
    if features.ndim > 3:
        return features.flatten(2).mean(2)
    if mask is None:
        return features.mean(1)
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    return features.masked_fill(~mask[:, :, None], 0).sum(1) / counts


def find_content(masks: Mapping[str, Tensor], positions: int, whose: str) -> Tensor | None:
    """Return where states hold content, ``(B, S)``; None if no input declares its padding.

    Raises StageError if several axes are padded, or the layer has other positions than the input.
    """
    if not masks:
        return None
    if len(masks) > 1:
        raise StageError(
            f"{whose} answers states, and {', '.join(masks)} each declare padding: it is not known "
            "whose tokens these are; name a layer that answers rows"
        )
    (mask,) = masks.values()
    if mask.shape[1] != positions:
        raise StageError(
            f"{whose} answers {positions} positions for {mask.shape[1]} tokens, so it is not known "
            "which are padding; name a layer that answers rows, or one state a token"
        )
    return mask
