"""Hops: what a ledger says of a model beside its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from attar.engines.runtimes.runtime import load_runtime
from attar.models.task import Array
from attar.pipeline.core.errors import StageError
from attar.proof.checks.sizes import compute_difference
from attar.proof.comparison.hop_outputs import HopOutputs
from attar.proof.ledger.ledger import Hop
from attar.stages.artifacts import Engine, Model, Production, TextProgram, Weights

REPEATED = 1e-4
"""Of the largest magnitude: the rounding of other kernels, as a bundle allows its engine."""


def describe_model(hop: Hop, model: Model) -> Hop:
    """Return the hop with what is known of its model without running it."""
    if isinstance(model, Weights):
        form, precision = "PyTorch", "fp32"
    elif isinstance(model, Engine):
        form, precision = load_runtime(model.facts["runtime"]).title, model.facts["precision"]
    elif isinstance(model, TextProgram):
        return replace(hop, format="a function of texts")
    else:
        form, precision = "ONNX", model.facts["precision"]
    if not hop.was_run:
        return replace(hop, format=form, precision=precision)
    return replace(
        hop,
        format=form,
        precision=precision,
        why_not_run=model.find_absence() if isinstance(model, Production) else None,
        parameters=model.facts.get("parameters"),
        size_bytes=model.size,
    )


def check_shapes(outputs: Mapping[str, HopOutputs]) -> None:
    """Raises StageError for the first hop whose outputs have another shape than the teacher's."""
    for hop, scored in outputs.items():
        for name, array in scored.outputs.items():
            expected = outputs["teacher"].outputs[name].shape
            if array.shape != expected:
                raise StageError(
                    f"{hop} answers {name!r} of shape {array.shape}, the teacher {expected}; "
                    "look at how it was made"
                )


def repeats_answers(got: HopOutputs, expected: HopOutputs) -> bool:
    """Whether both have the same outputs and statistics of every sample, but for rounding."""
    pairs: list[tuple[Array, Array]] = [(expected.statistics, got.statistics)]
    pairs += [(array, got.outputs[name]) for name, array in expected.outputs.items()]
    for name, array in expected.followed.items():  # NaN behind the ends of paths
        pairs.append((np.nan_to_num(array), np.nan_to_num(got.followed[name])))
    return all(compute_difference(*pair) <= REPEATED for pair in pairs)
