"""What a beam is worth to a network that generates, against the likeliest token of each step.

``python -m benchmarks.beam WEIGHTS --samples 600`` translates the first test sentences of
``translate`` with both, in PyTorch; WEIGHTS is the folder of a teacher or a student in the store.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from attar.models import views
from attar.models.generation import generate_with_beam, require_decoding
from attar.models.task import Array, Predict, Task
from attar.stages.artifacts import Weights

ROWS = 32
"""Sentences that are translated together."""


def translate(graphs: dict[str, Predict], task: Task, samples: int, beam: int) -> float:
    """Return BLEU of the first ``samples`` test sentences, generated with a beam."""
    decoding = require_decoding(task)
    found: list[Array] = []
    for chunk in views.iterate_clean(task, task.split("test")):
        for start in range(0, min(len(chunk.indices), samples), ROWS):
            part = chunk.take(np.arange(start, min(start + ROWS, len(chunk.indices), samples)))
            paths, _ = generate_with_beam(graphs, part.inputs, decoding, beam)
            found.append(task.score({decoding.output: paths[:, 0]}, part.targets))
        samples -= len(chunk.indices)
        if samples <= 0:
            break
    return task.aggregate(np.concatenate(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    facts = json.loads((given.weights / "facts.json").read_text(encoding="utf-8"))
    weights = Weights("", "", given.weights, facts)
    with weights.open() as predictor:
        for beam in given.beams:
            begun = time.process_time()
            score = translate(dict(predictor.graphs), weights.load_task(), given.samples, beam)
            seconds = time.process_time() - begun
            print(f"beam {beam}: {score:.2f} on {given.samples} sentences, {seconds:.0f} s of CPU")


if __name__ == "__main__":
    main()
