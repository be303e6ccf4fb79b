"""A teacher that is an ONNX file: its task, its recipe and graphs for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attar.models.task import InMemory, Split, SplitName
from tests.support.projects import tiny
from tests.support.proof.proof_parts import TEACHER, Matrix, Points

ONNX_TEACHER_RECIPE = tiny.RECIPE.replace(
    '[teacher]\nnetwork = "nets.py:teacher"\nepochs = 6\nbatch = 64\nlearning_rate = 0.02\n', '[teacher]\nonnx = "teacher.onnx"\n'
).replace("int8", "fp32")


class DisjointPoints(Points):
    """Splits that do not overlap."""

    def split(self, name: SplitName) -> Split:
        x = np.random.default_rng(len(name)).standard_normal((400, 2)).astype(np.float32)
        return InMemory({"x": x}, {"label": (x * np.float32(0.5) @ TEACHER).argmax(1)})


NAME = "tests.support.tasks.onnx_teacher:DisjointPoints"


def write_single_graph(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, list[int | str]], classes: int = 3, **weights: Matrix
) -> Path:
    """``logits`` [batch, classes] from these nodes."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])]
    initializers = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    whole = helper.make_graph(nodes, "made", given, made, initializers)
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def write_circle_graph(path: Path) -> None:
    """The rule itself: ``logits`` are 10 (r² - 0.6) and its negative, for points inside where that is below 0."""
    square = helper.make_node("Mul", ["point", "point"], ["squares"])
    total = helper.make_node("Gemm", ["squares", "weight", "bias"], ["logits"])
    weights = {"weight": np.array([[10, -10], [10, -10]], np.float32), "bias": np.array([-6, 6], np.float32)}
    write_single_graph(path, [square, total], {"point": ["batch", 2]}, classes=2, **weights)
