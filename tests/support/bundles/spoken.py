"""A bundle that reads digits and answers a word for each, from that of points: text in, text out, without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from attar.bundle import checksums, ragged, triton
from attar.bundle.manifest import Manifest
from attar.bundle.steps import ship_output_steps, ship_steps
from attar.models.postprocess.known import OUTPUT_STEPS
from attar.models.preprocess.known import STEPS
from attar.models.task import Array
from attar.models.tasks.numbers import END, LONGEST, SIZE, UNITS, Numbers, read_vocabulary

REQUESTS = [f"{number:02d}" for number in range(0, 96, 6)]


def spell(digits: str) -> str:
    """Return the text that the bundle answers."""
    return " ".join(UNITS[int(digit)] for digit in digits)


def make_table(vocabulary: dict[str, int], shift: int) -> Array:
    """Return the word of each digit, by token; the end token for all else, such as padding. ``shift`` makes it another model."""
    table = np.full(SIZE, END, np.int64)
    for digit in range(10):
        table[vocabulary[str(digit)]] = vocabulary[UNITS[(digit + shift) % 10]]
    return table


def write_graph(path: Path, shift: int = 0) -> None:
    """A word for each digit, and end tokens behind."""
    digits = helper.make_tensor_value_info("digits", TensorProto.INT64, ["batch", "digits"])
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", LONGEST])
    nodes = [
        helper.make_node("Gather", ["table", "digits"], ["spoken"]),
        helper.make_node("Pad", ["spoken", "pads", "end", "axis"], ["longer"]),
        helper.make_node("Slice", ["longer", "zero", "longest", "axis"], ["words"]),
    ]
    constants = {
        "table": make_table(read_vocabulary(), shift),
        "pads": np.array([0, LONGEST]),
        "end": np.array(END),
        "axis": np.array([1]),
        "zero": np.array([0]),
        "longest": np.array([LONGEST]),
    }
    initializers = [numpy_helper.from_array(np.asarray(array, np.int64), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "spoken", [digits], [words], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def make_spoken(points: Path, to: Path, precision: str = "int8-weights") -> Path:
    """Turn the bundle of points into one of the task Numbers, with its tensors and steps."""
    bundle, task = Path(shutil.copytree(points, to)), Numbers()
    for file in ("engines/onnxruntime", "graphs", "reference"):
        write_graph(bundle / file / "model.onnx")
    tokens = task.preprocess["digits"][0](np.array(REQUESTS))
    words = np.full((len(REQUESTS), LONGEST), END, np.int64)
    words[:, : tokens.shape[1]] = make_table(read_vocabulary(), 0)[tokens]
    golden = {**ragged.encode_samples("raw.digits", np.array(REQUESTS)), "teacher.words": words, "engine.words": words}
    save_file(golden, bundle / "golden.safetensors")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest |= {
        "inputs": {"digits": {"dtype": "int64", "axes": ["batch", "digits"], "high": SIZE}},
        "outputs": {"words": {"dtype": "int64", "axes": ["batch", LONGEST], "kind": "tokens"}},
        "ranges": task.ranges,
        "preprocess": STEPS.dump_python(ship_steps(task.preprocess, bundle), mode="json"),
        "postprocess": OUTPUT_STEPS.dump_python(ship_output_steps(task.postprocess, bundle), mode="json"),
        "labels": [],
    }
    manifest["ledger"]["classes"] = []
    manifest["engine"]["precision"] = precision
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(bundle / "triton")
    triton.write_repository(bundle / "triton", Manifest.model_validate_json(json.dumps(manifest)), bundle, {"digits": tokens})
    checksums.write_checksums(bundle)
    return bundle
