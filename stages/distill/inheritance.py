"""Inheritance: the first weights of a student, made from its teacher's by dropping layers and
pruning channels, heads and hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from attar.engines.runtimes.torch import PREFIX, list_network_inputs
from attar.models.generation import find_decoding
from attar.models.task import Array, Task
from attar.pipeline.core.errors import MissingDependencyError, StageError
from attar.stages.distill.head_pruning import cut_heads, find_blocks

Layers = Mapping[str, Sequence[int]]
"""The layers to keep of a list of layers, by the list's name in the network."""


def inherit_weights(
    teacher: nn.Module, student: nn.Module, task: Task, layers: Layers
) -> dict[str, Tensor]:
    """Return the teacher's tensors cut to the student's shape, by their names there.

    Where the student has fewer layers of a kind, it takes those named in ``layers``, else evenly
    spread ones beginning with the first: every other one for half (Sanh et al. 2019, DistilBERT,
    arXiv:1910.01108, section 2). Where its convolutions are narrower, the channels with the largest
    norms over all layers that they connect are kept (Fang et al. 2023, DepGraph, arXiv:2301.12900).
    Where it has fewer heads or hidden units, see ``head_pruning``. The teacher is changed. Raises
    StageError for ``layers`` that the teacher does not have, and as ``head_pruning`` does.
    """
    drop_layers(teacher, student, layers)
    if ratios := find_narrower(teacher, student):
        prune_channels(teacher, ratios, task)
    return cut_heads(teacher, student)


def drop_layers(teacher: nn.Module, student: nn.Module, layers: Layers) -> None:
    """Shorten each list of layers of the teacher to the length that it has in the student."""
    shorter = dict(find_shorter(teacher, student))
    if unknown := sorted(layers.keys() - shorter.keys()):
        raise StageError(
            f"layers names {unknown[0]!r}, which is no list of layers that is shorter in the "
            f"student; such are: {', '.join(shorter) or 'none'}"
        )
    for name, count in shorter.items():
        found = teacher.get_submodule(name)
        children = list(found.children())
        kept = layers.get(name) or spread_layers(len(children), count)
        check_kept(name, kept, count, len(children))
        parent, _, own = name.rpartition(".")
        chosen = [children[place] for place in kept]
        is_sequential = isinstance(found, nn.Sequential)
        shortened = nn.Sequential(*chosen) if is_sequential else nn.ModuleList(chosen)
        setattr(teacher.get_submodule(parent), own, shortened)


def find_shorter(teacher: nn.Module, student: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the lists of layers of one class that are shorter in the student, and their length
    there."""
    own = dict(student.named_modules())
    for name, found in teacher.named_modules():
        there = own.get(name)
        if not isinstance(there, nn.ModuleList | nn.Sequential) or type(there) is not type(found):
            continue
        wanted, had = list(there.children()), list(found.children())
        is_one_kind = len({type(layer) for layer in (*had, *wanted)}) == 1
        if is_one_kind and 0 < len(wanted) < len(had):
            yield name, len(wanted)


def spread_layers(count: int, kept: int) -> list[int]:
    """Return the places of evenly spread layers, the first among them."""
    return [place * count // kept for place in range(kept)]


def check_kept(name: str, kept: Sequence[int], count: int, most: int) -> None:
    if len(kept) != count or not all(0 <= place < most for place in kept):
        raise StageError(
            f"layers.{name} = {list(kept)}: the student has {count} layers there; name {count} of "
            f"the teacher's, 0 to {most - 1}"
        )


def find_narrower(teacher: nn.Module, student: nn.Module) -> dict[nn.Module, float]:
    """Return the share of channels to remove from each layer that is narrower in the student.

    Empty if the networks have no convolutions in common. Heads and hidden units are cut by
    ``head_pruning``.
    """
    own = {name: len(layer.weight) for name, layer in list_layers(student)}
    cut = {name for block in find_blocks(teacher, student) for name in block.writers}
    shared = [(n, layer) for n, layer in list_layers(teacher) if n in own and n not in cut]
    if not any(isinstance(layer, nn.Conv2d) for _, layer in shared):
        return {}
    return {
        layer: 1 - (own[name] + 0.5) / len(layer.weight)  # what is kept is rounded down
        for name, layer in shared
        if own[name] < len(layer.weight)
    }


def list_layers(network: nn.Module) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    found = network.named_modules()
    return [(name, each) for name, each in found if isinstance(each, nn.Conv2d | nn.Linear)]


def prune_channels(teacher: nn.Module, ratios: Mapping[nn.Module, float], task: Task) -> None:
    """Remove channels, and what reads them. Raises MissingDependencyError without the library."""
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "a narrower student inherits channels by torch-pruning: pip install 'attar[prune]'"
        ) from error
    teacher.eval()
    whole = [layer for _, layer in list_layers(teacher) if layer not in ratios]
    pruner = torch_pruning.pruner.MagnitudePruner(
        teacher,
        tuple(list_network_inputs(teacher, task, draw_example(task))),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.0,
        pruning_ratio_dict=dict(ratios),
        ignored_layers=whole,
    )
    pruner.step()


def draw_example(task: Task) -> dict[str, Array]:
    """Return random inputs of two samples; of a network that generates with a prefix ``(2, 2)``."""
    example = task.example(np.random.default_rng(0), batch=2)
    if decoding := find_decoding(task):
        example[PREFIX] = np.full((2, 2), decoding.vocabulary.begin, np.int64)
    return example
