"""Features: what a teacher's layers answer, as one row a sample, stored beside its answers.

Its predictor, if it is opened with ``layers``, answers them beside its outputs. A task's own
``answer`` knows nothing of them, so they are taken out of each call before it sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attar.models.generation import MODEL
from attar.models.task import Array, Arrays, Predict, Task
from attar.pipeline.core.errors import StageError

FEATURES = ".features"
"""The end of the stored name of a layer's features, behind the layer's name."""


def name_features(layer: str) -> str:
    """Return the name under which a layer's features are answered and stored."""
    return layer + FEATURES


class FeatureTap:
    """A graph whose features are kept back, call by call, with the inputs that they are of."""

    def __init__(self, graph: Predict, layers: Sequence[str]) -> None:
        self.graph, self.names = graph, [name_features(layer) for layer in layers]
        self.calls: list[tuple[Arrays, dict[str, Array]]] = []

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        answer = self.graph(inputs)
        self.calls.append((inputs, {name: answer[name] for name in self.names}))
        return {name: array for name, array in answer.items() if name not in self.names}

    def join_calls(self, samples: Arrays) -> dict[str, Array]:
        """Return the features of all calls: ``[samples, width]``.

        Raises StageError unless the calls were about each of these samples once, in their order.
        """
        count = len(next(iter(samples.values())))
        joined = {name: join_rows([made[name] for _, made in self.calls]) for name in self.names}
        for name, array in joined.items():
            if len(array) != count:
                layer = name.removesuffix(FEATURES)
                raise make_error(f"{len(array)} rows of {layer!r} to answer {count} samples")
        for name, wanted in samples.items():
            asked = join_rows([inputs[name] for inputs, _ in self.calls if name in inputs])
            is_float = asked.dtype.kind == wanted.dtype.kind == "f"
            if asked is not wanted and not np.array_equal(asked, wanted, equal_nan=is_float):
                raise make_error(f"other rows of {name!r} than the samples, or another order")
        return joined


def join_rows(parts: Sequence[Array]) -> Array:
    """Return these rows one after the other; none if they differ in shape."""
    if len(parts) == 1:  # the usual call is about all samples: nothing is copied
        return parts[0]
    are_alike = len({part.shape[1:] for part in parts}) == 1
    return np.concatenate(parts) if are_alike else np.empty(0)


def make_error(asked: str) -> StageError:
    return StageError(
        f"the task's own answer() asked the teacher for {asked}, so the features cannot be stored "
        "by sample; leave features out of [answers]"
    )


def answer_with_features(
    task: Task, graphs: Mapping[str, Predict], inputs: Arrays, layers: Sequence[str]
) -> dict[str, Array]:
    """Return the answers to these inputs, and the features of ``layers``, ``[samples, width]``.

    The graphs must be those of a teacher that was opened with these layers.
    """
    if not layers:
        return task.answer(graphs, inputs)
    tap = FeatureTap(graphs[MODEL], layers)
    answer = task.answer({**graphs, MODEL: tap}, inputs)
    return {**answer, **tap.join_calls(inputs)}
