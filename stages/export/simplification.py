"""Simplification: the exported graphs of a network that generates, in fewer and larger calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from attar.engines.graphs.exposure import expose_results
from attar.engines.graphs.merged_products import merge_products
from attar.engines.graphs.padding_removal import Sizes, remove_padding
from attar.engines.graphs.preparation import prepare_graph, remove_unread_weights
from attar.engines.graphs.step_tidying import drop_moves_of_one, hoist_scales, squeeze_selections
from attar.engines.parity import choose_traced_sizes, draw_padded_inputs, follow_random_path
from attar.engines.runtimes.onnxruntime import open_session
from attar.engines.runtimes.torch_sequences import open_graphs
from attar.models.generation import START, STEP, Decoding
from attar.models.task import Array, Task

if TYPE_CHECKING:
    import onnx

ROUNDING = 1e-4
"""How far the logits may move when padding is skipped, relative to the largest one (or 1)."""


def simplify_graph(
    file: Path, name: str, network: nn.Module, task: Task, decoding: Decoding
) -> onnx.ModelProto:
    """Return an exported graph of the network, with the same arithmetic in fewer, larger calls."""
    model = prepare_graph(file)
    merge_products(model)
    if name == STEP:
        squeeze_selections(model)
        hoist_scales(model)
        drop_moves_of_one(model)
    elif sizes := choose_sizes(task, decoding):
        model = skip_padding(model, network, task, decoding, sizes)
    remove_unread_weights(model)
    return model


def choose_sizes(task: Task, decoding: Decoding) -> Sizes | None:
    """Return batch and length of two calls; None where no source has padding."""
    axes = task.inputs[decoding.source].axes if decoding.source else ()
    if len(axes) != 2 or not isinstance(axes[1], str):
        return None
    low, high = task.ranges[axes[1]]
    return None if low == high else ((2, high), (3, high - 1))


def skip_padding(
    model: onnx.ModelProto, network: nn.Module, task: Task, decoding: Decoding, sizes: Sizes
) -> onnx.ModelProto:
    """Return `start` with products that skip the padding of the source.

    It is returned as it was if the network would say something else. Padding then holds the row of
    a token, and a convolution, for one, reads it beside the last one.
    """
    calls = list_calls(task, decoding, sizes)
    changed = copy_model(model)
    if not remove_padding(changed, decoding, observe_shapes(model, calls), sizes):
        return model
    step = open_graphs(network, task, decoding)[STEP]
    starts = {"whole": model.SerializeToString(), "rows": changed.SerializeToString()}
    with open_session(starts, threads=1) as opened:
        for inputs in calls:
            whole, rows = (
                follow_random_path({START: opened.graphs[form], STEP: step}, decoding, inputs)
                for form in starts
            )
            if not are_close(whole[decoding.output], rows[decoding.output]):
                return model
    return changed


def are_close(expected: Array, got: Array) -> bool:
    """Whether logits differ by rounding alone."""
    largest = float(np.abs(expected).max(initial=1))
    return np.allclose(got, expected, rtol=0, atol=ROUNDING * largest)


def list_calls(task: Task, decoding: Decoding, sizes: Sizes) -> list[dict[str, Array]]:
    """Return the inputs of two calls of these sizes, with padding."""
    batch, length = map(str, task.inputs[str(decoding.source)].axes)
    traced = choose_traced_sizes(task)
    asked = [traced | {batch: samples, length: tokens} for samples, tokens in sizes]
    return [draw_padded_inputs(task, np.random.default_rng(0), each) for each in asked]


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def observe_shapes(
    model: onnx.ModelProto, calls: Sequence[Mapping[str, Array]]
) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes that the tensors of `start` have in each call."""
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    with open_session({"model": expose_results(copy_model(model))}, threads=1) as start:
        for inputs in calls:
            for name, values in start(inputs).items():
                shapes[name].append(values.shape)
    return shapes
