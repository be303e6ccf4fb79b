"""A Triton model repository: graphs for its ONNX Runtime backend, engines for TensorRT's, warmed up
with golden requests.

    NAME/config.pbtxt NAME/1/   the configuration, and the graph or the engine
    NAME/labels.txt             the classes, one a line, if an output is logits or probabilities
    NAME/warmup/                the first golden request as the graph reads it: a file of raw bytes
                                for each input

The configuration is protobuf text of ``inference.ModelConfig`` (Triton's ``model_config.proto``),
written by hand because Triton's own protobuf is no dependency of a bundle. It has no preprocessing,
which would be code.

A bundle is checked by writing all of this again, so what is written belongs to the bundle's format:
``tests/compat`` fails where a change to it would refuse the bundles of earlier versions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from attar.bundle.checksums import NO_FILE, list_below, sha256
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import BY_CALL, Manifest, StoredOutput, StoredTensor
from attar.models.task import CLASSIFYING, Array, Arrays
from attar.pipeline.core.errors import InvalidBundleError
from attar.pipeline.recipe.pair import SUFFIX

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
WARMUP = "warmup"  # the folder that Triton reads it from
Contents = dict[str, Path | bytes]
"""By the name of a file its content: what it is a copy of, or its bytes."""
QUEUE_DELAY = 100  # microseconds that a request may wait for others to join its batch
QUEUE_POLICY = "timeout_action: REJECT default_timeout_microseconds: 30000000 max_queue_size: 1024"
"""As ``attar serve`` has it: Triton's own queue has no end."""


def write_repository(folder: Path, manifest: Manifest, bundle: Path, requests: Arrays) -> None:
    """Fill ``folder``, the bundle's ``triton/``; ``requests`` are the golden ones, preprocessed."""
    for name, content in compose_repository(manifest, bundle, requests).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)


def compose_repository(manifest: Manifest, bundle: Path, requests: Arrays) -> Contents:
    """Return all files of the models of all engines."""
    composed: Contents = {}
    for each, folder in split_engines(manifest, bundle):
        for name, files in list_model_files(folder, each).items():
            model = compose_model(name, files, each, requests)
            composed.update({f"{name}/{file}": content for file, content in model.items()})
    return composed


def split_engines(manifest: Manifest, bundle: Path) -> list[tuple[Manifest, Path]]:
    """Return a manifest with one engine and the folder of its files, for each engine: Triton
    chooses none by the batch, so that for batches is a model of its own, ``NAME-batch``."""
    batch = manifest.batch
    if batch is None:
        return [(manifest, bundle)]
    own = {"name": f"{manifest.name}{SUFFIX}", "engine": batch.engine, "batch": None}
    return [(manifest, bundle), (manifest.model_copy(update=own), bundle / batch.folder)]


def compose_model(
    name: str, files: Mapping[str, Path], manifest: Manifest, requests: Arrays
) -> Contents:
    """Return the files of one model, whose version has these."""
    version: Contents = {f"1/{file}": source for file, source in files.items()}
    config = format_config(name, manifest, requests).encode()
    named = compose_named_files(manifest, requests) if has_single_graph(manifest) else {}
    return {**version, "config.pbtxt": config, **named}


def compose_named_files(manifest: Manifest, requests: Arrays) -> Contents:
    """Return what the configuration of a model names."""
    first = select_first_request(manifest, requests).values()
    named: Contents = {f"{WARMUP}/{number}": each.tobytes() for number, each in enumerate(first)}
    if any(has_labels(manifest, output) for output in manifest.outputs.values()):
        lines = [" ".join(label.split()) for label in manifest.labels]
        named["labels.txt"] = "".join(f"{line}\n" for line in lines).encode()
    return named


def list_model_files(bundle: Path, manifest: Manifest) -> dict[str, dict[str, Path]]:
    """By model the files of its version, and what they are copies of. Of several graphs each is a
    model, ``NAME-GRAPH``."""
    found = {}
    for graph in manifest.graphs:
        name = manifest.name if has_single_graph(manifest) else f"{manifest.name}-{graph}"
        if is_tensorrt_plan(manifest):
            found[name] = {"model.plan": bundle / "engines" / "tensorrt" / f"{graph}.engine"}
        else:
            paths = sorted((bundle / "graphs").glob(f"{graph}.onnx*"))
            found[name] = {
                "model.onnx" if path.suffix == ".onnx" else path.name: path for path in paths
            }
    return found


def check_repository(bundle: Path, manifest: Manifest, requests: Arrays) -> None:
    """Raises InvalidBundleError where a file that Triton would read is not what this manifest and
    these golden requests make, or is more than that, such as a later version or another model."""
    root = bundle / "triton"
    with blame_bundle(f"the models for Triton of {bundle} cannot be read"):
        ours = compose_repository(manifest, bundle, requests)
        theirs = {path.relative_to(root).as_posix() for path in list_below(root)}
        wrong = {name for name in ours if not is_as_written(root, name, ours[name])}
        wrong |= theirs - ours.keys()
    if wrong:
        where = "engines" if is_tensorrt_plan(manifest) else "graphs"
        raise InvalidBundleError(
            f"{bundle}: the models for Triton are not those of {where}/ and manifest.json: "
            f"{', '.join(f'triton/{name}' for name in sorted(wrong))}. {AGAIN}"
        )


def is_as_written(root: Path, name: str, content: Path | bytes) -> bool:
    """Whether a file is as it is written today. Of a warm-up only the size counts: its numbers
    decide nothing, and another version of a decoder or of numpy may round them otherwise."""
    found = root / name
    if isinstance(content, Path):
        return sha256(found) == sha256(content) != NO_FILE
    if sha256(found) == NO_FILE or found.stat().st_size != len(content):
        return False
    is_warmup = name.split("/")[1:-1] == [WARMUP]
    return is_warmup or found.read_bytes() == content


def format_config(name: str, manifest: Manifest, requests: Arrays) -> str:
    """The tensors of several graphs are in no manifest: Triton completes their configurations from
    the graphs."""
    described = format_tensors(manifest, requests) if has_single_graph(manifest) else []
    lines = [
        f"name: {json.dumps(name)}",
        f'backend: "{"tensorrt" if is_tensorrt_plan(manifest) else "onnxruntime"}"',
        "version_policy { latest { num_versions: 1 } }",
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if on_gpu(manifest) else 'KIND_CPU'} }} ]",
        *([] if on_gpu(manifest) else format_threads(manifest.engine.threads)),
        *described,
    ]
    return "\n".join(lines) + "\n"


def format_tensors(manifest: Manifest, requests: Arrays) -> list[str]:
    batched = choose_max_batch(manifest) > 0
    sizes = list_preferred_batches(manifest)
    return [
        f"max_batch_size: {choose_max_batch(manifest)}",
        *(format_tensor("input", name, each, batched) for name, each in manifest.inputs.items()),
        *(
            format_tensor(
                "output",
                name,
                each,
                batched,
                ' label_filename: "labels.txt"' * has_labels(manifest, each),
            )
            for name, each in manifest.outputs.items()
        ),
        *(format_batching(sizes) if sizes else []),
        *format_warmups(manifest, requests, sorted({1, choose_max_batch(manifest) or 1})),
    ]


def has_single_graph(manifest: Manifest) -> bool:
    return list(manifest.graphs) == ["model"]


def is_tensorrt_plan(manifest: Manifest) -> bool:
    """Whether the engine is one that Triton runs: its TensorRT backend knows those of TensorRT, not
    those of TensorRT-RTX."""
    return manifest.engine.runtime == "tensorrt" and not manifest.unfinished


def on_gpu(manifest: Manifest) -> bool:
    return is_tensorrt_plan(manifest) or manifest.engine.provider == "CUDAExecutionProvider"


def has_labels(manifest: Manifest, output: StoredOutput) -> bool:
    return bool(manifest.labels) and output.kind in CLASSIFYING


def choose_max_batch(manifest: Manifest) -> int:
    """Triton's ``max_batch_size``: 0, where it must not make batches of its own, as of a graph that
    takes no single sample."""
    tensors = [*manifest.inputs.values(), *manifest.outputs.values()]
    low, high = manifest.ranges.get("batch", (0, 0))
    return high if low == 1 and all(each.axes[:1] == ("batch",) for each in tensors) else 0


def list_preferred_batches(manifest: Manifest) -> list[int]:
    """Batch sizes that wait for nothing more: the largest, and the one that kernels were chosen
    for. Empty: nothing is joined."""
    most = choose_max_batch(manifest)
    usual = manifest.engine.profile.get("batch", (1, 1, 1))[1]
    return (
        []
        if manifest.engine.precision in BY_CALL
        else sorted({size for size in (usual, most) if 1 < size <= most})
    )


def format_batching(sizes: Sequence[int]) -> list[str]:
    given = (
        f"preferred_batch_size: [ {', '.join(map(str, sizes))} ] max_queue_delay_microseconds: "
        f"{QUEUE_DELAY}"
    )
    return [f"dynamic_batching {{ {given} default_queue_policy {{ {QUEUE_POLICY} }} }}"]


def format_threads(count: int) -> list[str]:
    """Without it an instance takes every core."""
    return [f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{count}" }} }}']


def select_first_request(manifest: Manifest, requests: Arrays) -> dict[str, Array]:
    """The first golden request, or as many as the graph takes at least."""
    rows = manifest.ranges.get("batch", (1, 1))[0]
    return {name: requests[name][:rows] for name in manifest.inputs}


def format_warmups(manifest: Manifest, requests: Arrays, sizes: Sequence[int]) -> list[str]:
    """Triton makes a batch of copies of one sample."""
    inputs = [
        format_warmup(number, manifest, name, array)
        for number, (name, array) in enumerate(select_first_request(manifest, requests).items())
    ]
    return [
        f'model_warmup [ {{ name: "golden-{size}" batch_size: {size} {" ".join(inputs)} }} ]'
        for size in sizes
    ]


def format_warmup(number: int, manifest: Manifest, name: str, array: Array) -> str:
    shape = array.shape[1:] if choose_max_batch(manifest) else array.shape
    data_type, dims = TYPES[manifest.inputs[name].dtype], format_dimensions(shape)
    value = f'data_type: {data_type} dims: [ {dims} ] input_data_file: "{number}"'
    return f"inputs {{ key: {json.dumps(name)} value {{ {value} }} }}"


def format_tensor(field: str, name: str, each: StoredTensor, batched: bool, more: str = "") -> str:
    """Triton adds the batch axis itself where there is a ``max_batch_size``; a dynamic axis is
    -1."""
    axes = each.axes[1:] if batched else each.axes
    shape = [axis if isinstance(axis, int) else -1 for axis in axes]
    reshape = "" if axes else " reshape { shape: [ ] }"
    return (
        f"{field} [ {{ name: {json.dumps(name)} data_type: {TYPES[each.dtype]} dims: [ "
        f"{format_dimensions(shape)} ]{reshape}{more} }} ]"
    )


def format_dimensions(shape: Sequence[int]) -> str:
    """Triton wants one dimension at least, and drops it again by ``reshape``."""
    return ", ".join(map(str, shape)) or "1"
