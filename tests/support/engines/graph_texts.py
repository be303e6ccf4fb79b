"""Small ONNX graphs, written as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'
OVERFLOWING = f"""{HEADER}
    over (float[batch,3] x) => (float[batch,3] y)
    <float[3,3] w = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}, float up = {{1000}}, float down = {{0.001}}> {{
        a = MatMul(x, w)
        b = Mul(a, up)
        c = Relu(b)
        d = Mul(c, down)
        y = MatMul(d, w)
    }}"""
SEEN_RANGES = {"x": (0.0, 99.5), "a": (0.0, 99.5), "b": (0.0, 99500.0), "c": (0.0, 99500.0), "d": (0.0, 99.5), "y": (0.0, 99.5)}
UNSEEN_RANGES = dict.fromkeys(SEEN_RANGES, (0.0, 30.0))
"""What a calibration says that never saw a large number."""


def write_parsed_graph(folder: Path, text: str) -> Path:
    """Write a graph, given as text, into ``folder``; return its file."""
    file = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), file)
    return file


CHAIN = """<ir_version: 9, opset_import: ["" : 20]>
    chain (float[batch,3] x) => (float[batch,3] y) {
        a = MatMul(x, w0)
        b = MatMul(a, w1)
        c = MatMul(b, w2)
        d = MatMul(c, w3)
        y = MatMul(d, w4)
    }"""


def write_identity_chain(folder: Path) -> Path:
    """Write five identities in a row; return the file. The last layer stays float when it is quantized."""
    model = onnx.parser.parse_model(CHAIN)
    for number in range(5):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), f"w{number}"))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"
