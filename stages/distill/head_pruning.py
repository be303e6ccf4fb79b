"""Head pruning: heads of attention and hidden units of feed-forward layers that a student takes
over from its teacher, of which it has fewer.

Torch-Pruning, which cuts channels, follows no queries, keys and values that one layer makes along
the last axis of texts, so blocks are found here by the shapes of both networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from attar.pipeline.core.errors import StageError

HEADS = ("heads", "num_heads", "n_heads", "num_attention_heads")
"""The attributes by which a module says how many heads it has."""
PARTS = 3
"""Queries, keys and values: three layers, or one that makes all of them side by side."""
KEYS_AND_VALUES = 2
"""The layers beside queries whose heads share them."""


@dataclass(frozen=True)
class Block:
    """Layers that make the same numbers, and the one that reads them, by their names.

    ``size`` is how many numbers there are in the teacher, ``kept`` in the student.
    """

    writers: tuple[str, ...]
    reader: str
    size: int
    kept: int
    fused: bool
    """Whether the one writer makes queries, keys and values."""

    @property
    def is_attention(self) -> bool:
        return self.fused or len(self.writers) == PARTS

    @property
    def parts(self) -> int:
        return PARTS if self.fused else 1


def cut_heads(teacher: nn.Module, student: nn.Module) -> dict[str, Tensor]:
    """Return the teacher's tensors with as many heads and hidden units as the student has.

    Those with the largest norms over all weights that make and read them are kept, in their order,
    as channels are (Fang et al. 2023, arXiv:2301.12900, equation 6). What is left computes what the
    teacher computes whose other heads and units are zero. Blocks whose heads have another width in
    the student stay whole, and so do those of heads that share keys. Raises StageError for an
    attention that does not say its number of heads.
    """
    tensors = dict(teacher.state_dict())
    for block in find_blocks(teacher, student):
        unit = measure_unit(block, teacher, student)
        if unit is not None:
            cut_block(tensors, block, choose_kept(tensors, block, unit))
    return tensors


def find_blocks(teacher: nn.Module, student: nn.Module) -> list[Block]:
    """Return the blocks that are narrower in the student and read and write the same widths.

    Empty where the states between the blocks have other widths: no block stands for itself then.
    """
    own, pairs = list_linears(student), list_linears(teacher).items()
    shared = {name: (layer, own[name]) for name, layer in pairs if name in own}
    if not have_same_states(teacher, student, shared.values()):
        return []
    writers = {
        name: (there.out_features, here.out_features)
        for name, (there, here) in shared.items()
        if there.out_features > here.out_features and there.in_features == here.in_features
    }
    readers = {
        name: (there.in_features, here.in_features)
        for name, (there, here) in shared.items()
        if there.in_features > here.in_features and there.out_features == here.out_features
    }
    blocks: list[Block] = []
    while readers and writers:
        reader = max(readers, key=lambda name: measure_nearness(name, writers))
        size, kept = readers.pop(reader)
        block = make_block(reader, size, kept, writers)
        if block is not None:
            blocks.append(block)
            writers = {name: it for name, it in writers.items() if name not in block.writers}
    return blocks


def have_same_states(
    teacher: nn.Module, student: nn.Module, linears: Iterable[tuple[nn.Linear, nn.Linear]]
) -> bool:
    """Whether embeddings and norms have one width in both, and no layer reads and writes others."""
    here = list_widths(student)
    widths = list_widths(teacher).items()
    return all(here.get(name, width) == width for name, width in widths) and all(
        there.in_features == own.in_features or there.out_features == own.out_features
        for there, own in linears
    )


def list_widths(network: nn.Module) -> dict[str, int]:
    """Return the last axis of each parameter that is of no linear layer."""
    linear = tuple(f"{name}." for name in list_linears(network))
    return {
        name: each.shape[-1]
        for name, each in network.named_parameters()
        if each.ndim and not name.startswith(linear)
    }


def list_linears(network: nn.Module) -> dict[str, nn.Linear]:
    return {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear)}


def measure_nearness(reader: str, writers: Mapping[str, tuple[int, int]]) -> int:
    """Return how many modules around a reader also hold a writer."""
    return max(count_shared(reader, name) for name in writers)


def count_shared(one: str, other: str) -> int:
    """Return the number of modules that hold both layers, by their names."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def make_block(
    reader: str, size: int, kept: int, writers: Mapping[str, tuple[int, int]]
) -> Block | None:
    """Return the block of a reader and the nearest writers that fit it; None if none does."""
    fitting = {
        name: parts
        for parts in (1, PARTS)
        for name, sizes in writers.items()
        if sizes == (parts * size, parts * kept)
    }
    if not fitting:
        return None
    nearest = max(count_shared(reader, name) for name in fitting)
    names = tuple(name for name in fitting if count_shared(reader, name) == nearest)
    return Block(names, reader, size, kept, fitting[names[0]] == PARTS)


def measure_unit(block: Block, teacher: nn.Module, student: nn.Module) -> int | None:
    """Return how many numbers are kept or cut together; None if that is not one number.

    It is not where the networks differ in it, and where heads have no keys and values of their own:
    they are kept or cut in groups.
    """
    if not block.is_attention:
        return None if may_share_keys(block, teacher) else 1
    widths = {
        block.size // count_heads(block, teacher),
        block.kept // count_heads(block, student),
    }
    return widths.pop() if len(widths) == 1 else None


def may_share_keys(block: Block, network: nn.Module) -> bool:
    """Whether a block may be the queries of heads that share keys.

    Beside them two layers make keys and values, fewer numbers, which no layer there reads; they may
    be as many as the states. If one layer makes both, the module that names its heads has no other
    attention: one module may hold an attention and a feed-forward block.
    """
    linears = list_linears(network)
    own = [linears[name] for name in (*block.writers, block.reader)]
    for name in block.writers:
        others = [
            layer
            for layer in find_holder(name, network).children()
            if isinstance(layer, nn.Linear) and layer not in own
        ]
        read = {layer.in_features for layer in others}
        made = Counter(layer.out_features for layer in others if layer.out_features < block.size)
        unread = made.keys() - read
        has_keys = any(
            made[size] == KEYS_AND_VALUES for size in {*unread, linears[name].in_features}
        )
        has_heads = find_heads(name, network) is not None and not are_attention(made, read)
        if has_keys or (unread and has_heads):
            return True
    return False


def are_attention(made: Mapping[int, int], read: Set[int]) -> bool:
    """Whether some layers make queries, keys and values of one size, and another reads them."""
    fused = {size // PARTS for size in made.keys() - read if size % PARTS == 0}
    return any(made.get(size, 0) >= PARTS or size in fused for size in read)


def count_heads(block: Block, network: nn.Module) -> int:
    """Return the number of heads that the module of an attention's writers names."""
    heads = find_heads(block.writers[0], network)
    if heads is None:
        holder = find_holder(block.writers[0], network)
        raise StageError(
            f"{type(holder).__name__}, which has {', '.join(block.writers)}, does not say how many "
            "heads it has, so none can be cut; give it the attribute heads, or leave out inherit"
        )
    return heads


def find_heads(writer: str, network: nn.Module) -> int | None:
    """Return the number of heads that the module around a layer names; None if it names none."""
    holder = find_holder(writer, network)
    said = (getattr(holder, name, None) for name in HEADS)
    return next((each for each in said if isinstance(each, int)), None)


def find_holder(layer: str, network: nn.Module) -> nn.Module:
    return network.get_submodule(layer.rpartition(".")[0])


def choose_kept(tensors: Mapping[str, Tensor], block: Block, unit: int) -> Tensor:
    """Return the places of the numbers to keep, in order: whole units of the largest norms."""
    norms = tensors[f"{block.reader}.weight"].float().square().sum(0)  # (size,)
    for name in block.writers:
        weight = tensors[f"{name}.weight"].float().square().sum(1)  # (parts * size,)
        norms = norms + weight.reshape(block.parts, block.size).sum(0)
    units = norms.reshape(-1, unit).sum(1)  # (size / unit,)
    chosen = units.topk(block.kept // unit).indices.sort().values
    return (chosen[:, None] * unit + torch.arange(unit)).flatten()  # (kept,)


def cut_block(tensors: dict[str, Tensor], block: Block, kept: Tensor) -> None:
    """Keep these rows of the writers and these columns of the reader."""
    rows = (torch.arange(block.parts)[:, None] * block.size + kept).flatten()
    for name in block.writers:
        for part in list_parts(tensors, name):
            tensors[part] = tensors[part][rows]
    tensors[f"{block.reader}.weight"] = tensors[f"{block.reader}.weight"][:, kept]


def list_parts(tensors: Mapping[str, Tensor], layer: str) -> Sequence[str]:
    """Return the names of a layer's weight and, if it has one, its bias."""
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in tensors]
