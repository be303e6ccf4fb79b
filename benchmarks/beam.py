"""What a beam is worth to a network that generates, against the likeliest token of each step.

``python -m benchmarks.beam MODEL --samples 600`` translates the first test sentences of
``translate`` with both and prints BLEU and chrF. MODEL is the folder of a teacher, a student or an
ONNX model in the store: two of those, with ``--beams 1``, show what a precision costs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attar.models import views
from attar.models.generation import generate_with_beam, require_decoding
from attar.models.preprocess import apply
from attar.models.task import Array, Predict, Task
from attar.models.translation_scores import compute_chrf, count_chrf
from attar.stages.artifacts import Model, OnnxModel, Weights

ROWS = 32
"""Sentences that are translated together."""


@dataclass(frozen=True)
class TranslationQuality:
    """BLEU and chrF of translations, 0 to 100."""

    bleu: float
    chrf: float


def translate_samples(
    graphs: dict[str, Predict], task: Task, samples: int, beam: int
) -> TranslationQuality:
    """Return the quality of the first ``samples`` test sentences, generated with a beam."""
    decoding = require_decoding(task)
    found: list[Array] = []
    texts: list[str] = []
    references: list[str] = []
    for chunk in views.iterate_clean(task, task.split("test")):
        for start in range(0, min(len(chunk.indices), samples), ROWS):
            part = chunk.take(np.arange(start, min(start + ROWS, len(chunk.indices), samples)))
            paths, _ = generate_with_beam(graphs, part.inputs, decoding, beam)
            best = {decoding.output: paths[:, 0]}
            labels = {decoding.output: part.targets[require_target(task, decoding.output)]}
            found.append(task.score(best, part.targets))
            texts += read_texts(task, best, decoding.output)
            references += read_texts(task, labels, decoding.output)
        samples -= len(chunk.indices)
        if samples <= 0:
            break
    return TranslationQuality(
        task.aggregate(np.concatenate(found)), compute_chrf(count_chrf(texts, references))
    )


def require_target(task: Task, output: str) -> str:
    target = task.outputs[output].target
    if target is None:
        raise SystemExit(f"the output {output!r} has no target")
    return target


def read_texts(task: Task, tokens: Mapping[str, Array], output: str) -> list[str]:
    return [str(text) for text in apply(task.postprocess, tokens)[output]]


def open_model(folder: Path) -> Model:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    kind = Weights if (folder / "weights.safetensors").exists() else OnnxModel
    return kind("", "", folder, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    model = open_model(given.model)
    with model.open() as predictor:
        for beam in given.beams:
            begun = time.process_time()
            found = translate_samples(
                dict(predictor.graphs), model.load_task(), given.samples, beam
            )
            seconds = time.process_time() - begun
            print(
                f"beam {beam}: BLEU {found.bleu:.2f}, chrF {found.chrf:.2f} on {given.samples} "
                f"sentences, {seconds:.0f} s of CPU"
            )


if __name__ == "__main__":
    main()
