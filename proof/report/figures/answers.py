"""Teacher against engine, sample by sample: outputs, and what becomes of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.proof.artifacts import Evidence
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting
from attar.proof.report.figures import style
from attar.proof.report.figures.ledger import widen_range
from attar.proof.report.figures.style import Panel
from attar.proof.report.target import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Numbers = Mapping[str, "npt.NDArray[np.generic]"]
MOST_POINTS = 1_000_000
"""Outputs beyond this many are thinned evenly over the samples before they are drawn."""
MOST_PAIRED = 1_000
"""Embeddings beyond this many are thinned before the cosines between them are drawn."""
SHOWN = {
    "logits": "logits, centred for each sample",
    "probabilities": "logarithms, centred for each sample",
    "multilabel": "logits, centred for each label",
    "values": "values",
    "embedding": "cosines with each other",
    "tokens": "log-probabilities of the teacher's likeliest next tokens, centred for each place",
}
WITH_CLASSES = ("logits", "probabilities")
MOST_CLASSES = 16
"""Of more classes the ones with the lowest agreement are drawn."""
LEVELS = 10


@dataclass(frozen=True)
class ByClass:
    """Per class, in the order of the task's classes: samples, both accuracies and the agreement."""

    names: Sequence[str]
    teacher: Sequence[float]
    other: Sequence[float]
    agreement: Sequence[float]


def draw_panels(target: Target) -> list[Panel]:
    """Draw what the arrays of the evidence show.

    Raises OSError or SafetensorError if they cannot be read.
    """
    record, ledger, hop = target.find_record(Evidence), target.ledger, target.last
    if record is None or record.path is None or ledger is None or hop is None:
        return []
    last = hop.name
    arrays = read_arrays(record.path / "hops.safetensors", ("teacher", last))
    names = [
        name.removeprefix("teacher.output.")
        for name in arrays
        if name.startswith("teacher.output.")
    ]
    usual = guess_kind(hop)
    made = []
    for name in names:
        kind = ledger.kinds.get(name, usual)
        if kind == "tokens" and f"teacher.followed.{name}" not in arrays:
            continue  # a teacher that only translates has nothing to be drawn
        teacher, other = read_sides(arrays, name, last)
        unit = "tokens'" if kind == "tokens" else "samples'"
        if kind in WITH_CLASSES and teacher.ndim > 2:
            teacher, other = select_labelled(arrays, teacher, other)
            unit = "positions'"
        made.append(draw_density(target.name, hop, name, teacher, other, kind, unit))
    table = group_by_class(arrays, last, ledger.classes)
    if table is not None:
        made += [draw_accuracies(target, table, last), draw_agreements(target, table, last)]
    return made


def read_arrays(path: Any, hops: Sequence[str]) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = file.keys()  # it is no dict
        wanted = [name for name in names if name.split(".")[0] in (*hops, "target")]
        return {name: file.get_tensor(name) for name in sorted(wanted)}


def read_sides(arrays: Mapping[str, Any], name: str, hop: str) -> tuple[Any, Any]:
    """Return what is drawn of an output, the teacher's side and the hop's.

    Of tokens that is what was compared along the teacher's sequences.
    """
    if f"teacher.followed.{name}" not in arrays:
        return arrays[f"teacher.output.{name}"], arrays[f"{hop}.output.{name}"]
    teacher, other = arrays[f"teacher.followed.{name}"], arrays[f"{hop}.followed.{name}"]
    return teacher[:, :-1], other[:, :-1]


def select_labelled(arrays: Numbers, teacher: Any, other: Any) -> tuple[Any, Any]:
    """Return the logits of both sides at positions, ``(positions, classes)``, without those whose
    label is none of the classes, which were ignored."""
    import numpy as np

    known = np.ones(teacher.shape[:-1], bool)
    for name, labels in arrays.items():
        is_label = name.startswith("target.") and np.issubdtype(labels.dtype, np.integer)
        if is_label and labels.shape == known.shape:
            wide = labels.astype(np.int64)
            known &= (wide >= 0) & (wide < teacher.shape[-1])
    return teacher[known], other[known]


def guess_kind(hop: Hop) -> str:
    """Return what the outputs hold, read off the metrics that there are of them."""
    if hop.get_value("teacher", "agreement") is not None:
        return "logits"
    return "values" if hop.get_value("teacher", "cosine") is None else "embedding"


def draw_density(
    target_name: str, hop: Hop, name: str, teacher: Any, other: Any, kind: str, unit: str
) -> Panel:
    """Where the outputs lie, darker where there are more; equal answers lie on the diagonal."""
    x, y = flatten_outputs(teacher, kind), flatten_outputs(other, kind)
    last = hop.name
    with style.house():
        figure, axes = style.panel(330, left=50, right=14, top=14, bottom=42)
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        room = 0.04 * (high - low) or 1.0
        axes.set(
            xlim=(low - room, high + room),
            ylim=(low - room, high + room),
            xlabel="teacher",
            ylabel=last,
        )
        axes.grid(axis="both")
        axes.locator_params(nbins=5)
        axes.tick_params(axis="y", labelcolor=style.MUTED, labelsize=style.SMALL)
        axes.plot(
            [low - room, high + room],
            [low - room, high + room],
            color=style.MUTED,
            linewidth=1,
            dashes=(4, 3),
        )
        draw_hexagons(axes, x, y)
        drawn = style.svg(figure, f"{target_name}: {name}, teacher against {last}")
    corr = formatting.format_score(hop.get_value("teacher", "correlation"))
    title = f"{formatting.capitalize(name)}: teacher and {last}"
    what = f"{formatting.format_count(len(teacher))} {unit} {SHOWN[kind]}"
    said = f"{what}, darker where there are more; the diagonal is equality. CORR {corr}."
    return Panel(title, drawn, said)


def flatten_outputs(outputs: Any, kind: str) -> Any:
    """Return the outputs flat and thinned.

    The mean of each sample's logits (the last axis) is subtracted: only differences matter. Of
    multilabel it is the mean of each label, as in its CORR.
    """
    import numpy as np

    wide = np.asarray(outputs, dtype=np.float64)
    if kind == "probabilities":
        wide = np.log(np.maximum(wide, np.finfo(np.float32).tiny))
    if kind == "embedding" and wide.ndim == 2:
        return compute_cosines(wide)
    if kind in ("logits", "probabilities", "tokens") and wide.ndim > 1:
        wide = wide - wide.mean(axis=-1, keepdims=True)
    if kind == "multilabel":
        wide = wide - wide.mean(axis=0)
    step = -(-wide.size // MOST_POINTS)
    return wide[::step].ravel()


def compute_cosines(vectors: Any) -> Any:
    """Of all pairs of some samples, spread over the split; only directions mean anything."""
    import numpy as np

    some = vectors[:: -(-len(vectors) // MOST_PAIRED)]
    unit = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def draw_hexagons(axes: Any, x: Any, y: Any) -> None:
    """Hexagonal bins in one ink; the opacity is the logarithm of the count, in a few levels."""
    import numpy as np
    from matplotlib.colors import to_rgba

    bins = axes.hexbin(
        x, y, gridsize=44, mincnt=1, linewidths=0, extent=(*axes.get_xlim(), *axes.get_ylim())
    )
    counts = np.log1p(np.asarray(bins.get_array(), dtype=np.float64))
    levels = np.ceil(counts / counts.max() * LEVELS) / LEVELS
    bins.set_array(None)
    bins.set_facecolor([to_rgba(style.ENGINE, 0.12 + 0.88 * float(level)) for level in levels])


def group_by_class(arrays: Numbers, other: str, classes: Sequence[str]) -> ByClass | None:
    """Group the samples by class, by the output whose last axis is the classes.

    Return None if no output has an integer target of that kind.
    """
    import numpy as np

    for name, labels in arrays.items():
        output = name.removeprefix("target.")
        candidates = [
            n
            for n in arrays
            if n.startswith("teacher.output.") and arrays[n].shape == (*labels.shape, len(classes))
        ]
        if output == name or not candidates or not np.issubdtype(labels.dtype, np.integer):
            continue
        chosen = candidates[0].removeprefix("teacher")
        teacher, engine = (
            arrays[hop + chosen].argmax(axis=-1).ravel() for hop in ("teacher", other)
        )
        return count_by_class(labels.ravel(), teacher, engine, classes)
    return None


def count_by_class(labels: Any, teacher: Any, other: Any, classes: Sequence[str]) -> ByClass:
    """Classes without a sample are left out."""
    present = [index for index in range(len(classes)) if (labels == index).any()]
    masks = [labels == index for index in present]
    return ByClass(
        [classes[index] for index in present],
        [float((teacher[mask] == labels[mask]).mean()) for mask in masks],
        [float((other[mask] == labels[mask]).mean()) for mask in masks],
        [float((teacher[mask] == other[mask]).mean()) for mask in masks],
    )


def select_hardest(table: ByClass) -> list[int]:
    order = sorted(range(len(table.names)), key=lambda index: table.agreement[index])
    return sorted(order[:MOST_CLASSES])


def describe_selection(table: ByClass) -> str:
    if len(table.names) <= MOST_CLASSES:
        return ""
    return f" Of {len(table.names)} classes, the {MOST_CLASSES} with the lowest agreement."


def draw_accuracies(target: Target, table: ByClass, other: str) -> Panel:
    """A line for every class, from the teacher's accuracy to the engine's."""
    rows = select_hardest(table)
    with style.house():
        figure, axes = style.rows_panel([table.names[index] for index in rows])
        axes.set_xlim(
            *widen_range([value for i in rows for value in (table.teacher[i], table.other[i])])
        )
        axes.locator_params(axis="x", nbins=4)
        for row, i in enumerate(rows):
            axes.plot(
                [table.teacher[i], table.other[i]],
                [row, row],
                color=style.MUTED,
                linewidth=2.2,
                alpha=0.5,
            )
            style.ring(axes, table.other[i], row, style.ENGINE, style.ENGINE, size=6)
            style.ring(
                axes, table.teacher[i], row, "none", style.TEACHER, size=11
            )  # on top, around an equal dot
            style.beside(axes, row, formatting.format_change(table.other[i] - table.teacher[i]))
        drawn = style.svg(figure, f"{target.name}: accuracy of every class")
    said = (
        f"Ring: teacher. Dot: {other}. Beside them, what the {other} has gained or lost in each "
        "class."
    )
    return Panel("Accuracy by class", drawn, said + describe_selection(table))


def draw_agreements(target: Target, table: ByClass, other: str) -> Panel:
    """A bar for every class, as long as the share of its samples on which both models differ."""
    rows = select_hardest(table)
    apart = [1 - table.agreement[index] for index in rows]
    with style.house():
        figure, axes = style.rows_panel([table.names[index] for index in rows])
        axes.set_xlim(0, max(max(apart) * 1.08, 0.01))
        axes.locator_params(axis="x", nbins=4)
        for row, share in enumerate(apart):
            axes.barh(row, share, height=0.52, color=style.ENGINE)
            style.beside(axes, row, formatting.format_score(share, 3))
        drawn = style.svg(figure, f"{target.name}: disagreement in every class")
    said = f"The share of each class's samples on which {other} and teacher differ, right or wrong."
    return Panel("Disagreement by class", drawn, said + describe_selection(table))
