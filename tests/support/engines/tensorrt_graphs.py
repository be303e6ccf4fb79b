"""ONNX files that TensorRT takes and that it refuses, made with ONNX Runtime's own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from attar.models.task import Arrays, Task

TAKES = """
    <ir_version: 10, opset_import: ["" : 20]>
    takes (float[batch,8] x) => (float[batch,8] y) <float[8,8] w = {WEIGHT}> {
        y = MatMul(x, w)
    }"""
QUANTIZED = """
    <ir_version: 10, opset_import: ["" : 20]>
    quantized (float[batch,8] x) => (float[batch,8] y) <float[8,8] w = {WEIGHT}, float s = {0.1}, TYPE z = {POINT}> {
        [quant] q = QuantizeLinear(x, s, z)
        [dequant] d = DequantizeLinear(q, s, z)
        y = MatMul(d, w)
    }"""
UNSAID = """
    <ir_version: 10, opset_import: ["" : 20]>
    quantized (float[batch,8] x) => (float[batch,8] y) <float[8,8] w = {WEIGHT}, float s = {0.1}> {
        [quant] q = QuantizeLinear(x, s)
        [dequant] d = DequantizeLinear(q, s)
        y = MatMul(d, w)
    }"""
DYNAMIC = """
    <ir_version: 10, opset_import: ["" : 20]>
    dynamic (float[batch,8] x) => (float[batch,8] y) <float[8,8] w = {WEIGHT}> {
        [rounded] q, s, z = DynamicQuantizeLinear(x)
        [dequant] d = DequantizeLinear(q, s, z)
        y = MatMul(d, w)
    }"""
BIAS = """
    <ir_version: 10, opset_import: ["" : 20]>
    bias (float[batch,8] x) => (float[batch,8] y) <float[8,8] w = {WEIGHT}, float s = {0.1}, int32[8] b = {1,2,3,4,5,6,7,8}> {
        [of_bias] float_b = DequantizeLinear(b, s)
        product = MatMul(x, w)
        y = Add(product, float_b)
    }"""
UNKNOWN = """
    <ir_version: 10, opset_import: ["" : 20, "mine" : 1]>
    unknown (float[batch,8] x) => (float[batch,8] y) {
        [own] y = mine.Own(x)
    }"""


def written(file: Path, graph: str, **words: str) -> Path:
    """A graph in ONNX's own notation, with words of it replaced."""
    for word, meaning in {"WEIGHT": ",".join(["0.5"] * 64), **words}.items():
        graph = graph.replace(word, meaning)
    onnx.save(onnx.parser.parse_model(graph), file)
    return file


def half(source: Path, target: Path) -> None:
    """fp16 inside, float32 at the ends."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


class Examples:
    """What a calibrator reads: a few batches that the task draws."""

    def __init__(self, task: Task, **sizes: int) -> None:
        generator = np.random.default_rng(0)
        self.batches = [task.example(generator, **sizes) for _ in range(2)]

    def get_next(self) -> Arrays | None:
        return self.batches.pop() if self.batches else None


def symmetric(source: Path, target: Path, examples: Examples, operators: list[str] | None = None) -> None:
    """Symmetric s8 with explicit Q-DQ pairs and float biases."""
    from onnxruntime.quantization import QuantType, quantize_static

    extra: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True, "AddQDQPairToWeight": True}
    extra |= {"QuantizeBias": False, "DedicatedQDQPair": True}
    quantize_static(
        source, target, examples, op_types_to_quantize=operators, per_channel=True, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, extra_options=extra,
    )  # fmt: skip
