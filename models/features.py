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
    """A graph whose features are kept back, call by call."""

    def __init__(self, graph: Predict, layers: Sequence[str]) -> None:
        self.graph, self.names = graph, [name_features(layer) for layer in layers]
        self.calls: list[dict[str, Array]] = []

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        answer = self.graph(inputs)
        self.calls.append({name: answer[name] for name in self.names})
        return {name: array for name, array in answer.items() if name not in self.names}

    def join_calls(self, samples: int) -> dict[str, Array]:
        """Return the features of all calls: ``[samples, width]``.

        Raises StageError unless the calls were about each sample once.
        """
        joined = {
            name: np.concatenate([call[name] for call in self.calls]) if self.calls else np.empty(0)
            for name in self.names
        }
        for name, array in joined.items():
            if len(array) != samples:
                raise StageError(
                    f"the task's own answer() asked the teacher for {len(array)} rows of "
                    f"{name.removesuffix(FEATURES)!r} to answer {samples} samples, so they cannot "
                    "be stored by sample; leave features out of [answers]"
                )
        return joined


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
    return {**answer, **tap.join_calls(len(next(iter(inputs.values()))))}
