"""Hops: what a ledger says of a model beside its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attar.engines.runtimes.runtime import load_runtime
from attar.pipeline.core.errors import StageError
from attar.proof.comparison.hop_outputs import HopOutputs
from attar.proof.ledger.ledger import Hop
from attar.stages.artifacts import Engine, Model, TextProgram, Weights


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
