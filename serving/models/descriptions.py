"""What the protocol and Triton's extensions say about a model: metadata and configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.bundle.manifest import Manifest
from attar.serving.models.engines import runs_on_gpu
from attar.serving.models.model import ServedModel
from attar.serving.protocol.signature import BYTES, describe_tensor


def describe_metadata(model: ServedModel, versions: Sequence[str] = ()) -> dict[str, Any]:
    """Return the protocol's metadata; ``versions``: other than the model's own.

    Every client shows the platform, so that says whether the gates were skipped. The properties
    name the key that signed the bundle, if one was asked for.
    """
    engines, signature = model.served.engines, model.signature
    manifest = engines.manifest
    is_gated = not model.served.settings.allow_ungated or all(
        part.verdict.verdict == "passed" and part.verdict.is_gated for part in manifest.parts
    )
    return {
        "name": model.name,
        "versions": list(versions) or [model.version],
        "platform": manifest.engine.runtime + ("" if is_gated else "_ungated"),
        "inputs": [describe_tensor(spec) for spec in signature.inputs.values()],
        "outputs": [describe_tensor(spec) for spec in signature.outputs.values()],
        "properties": {
            "gates": "passed" if is_gated else "ungated",
            "precision": manifest.engine.precision,
            "task": manifest.task,
            **describe_batch_engine(manifest),
            **({"signed_by": engines.key} if engines.key else {}),
        },
    }


def describe_batch_engine(manifest: Manifest) -> dict[str, str]:
    """Return the properties of the engine for batches; empty without one. All are text, as those
    of the protocol are."""
    batch = manifest.batch
    if batch is None:
        return {}
    return {
        "batch_rows": str(batch.rows),
        "batch_runtime": batch.engine.runtime,
        "batch_precision": batch.engine.precision,
    }


def describe_configuration(model: ServedModel) -> dict[str, Any]:
    """Return the part of Triton's model configuration that applies here."""
    limits, engines = model.served.batcher.limits, model.served.engines
    metadata, batched = describe_metadata(model), model.signature.is_batched
    is_on_gpu = any(runs_on_gpu(part.engine) for part in engines.manifest.parts)
    kind = "KIND_GPU" if is_on_gpu else "KIND_CPU"
    return {
        "name": model.name,
        "platform": metadata["platform"],
        "max_batch_size": limits.most if batched else 0,
        "input": [describe_configured_tensor(each, batched) for each in metadata["inputs"]],
        "output": [describe_configured_tensor(each, batched) for each in metadata["outputs"]],
        "instance_group": [{"kind": kind, "count": len(engines.predicts)}],
        "dynamic_batching": {
            "preferred_batch_size": list(limits.preferred),
            "max_queue_delay_microseconds": 0,
        },
    }


def describe_configured_tensor(tensor: Mapping[str, Any], batched: bool) -> dict[str, Any]:
    """Return a tensor of the metadata as the configuration has it, without the batch axis."""
    kind = "STRING" if tensor["datatype"] == BYTES else tensor["datatype"]
    return {
        "name": tensor["name"],
        "data_type": f"TYPE_{kind}",
        "dims": tensor["shape"][1:] if batched else tensor["shape"],
    }
