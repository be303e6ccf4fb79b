"""A stream of images that are drawn when they are asked for, without torch: memory is what the caller makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from attar.models.task import Arrays, Batch, Output, Split, SplitName, Task, Tensor


class DrawnImages(Split):
    """8,192 images, each seeded by its index."""

    def __len__(self) -> int:
        return 8192

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        rows = [np.random.default_rng(int(index)).standard_normal((1, 28, 28), np.float32) for index in indices]
        return Batch({"image": np.stack(rows)}, {})


class Stream(Task):
    inputs = {"image": Tensor("float32", ("batch", 1, 28, 28))}
    outputs = {"logits": Output(("batch", 10))}

    def data(self) -> list[Path | str]:
        return []

    def split(self, name: SplitName) -> Split:
        return DrawnImages()

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["logits"]), 1))


GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
convolutions (float[batch,1,28,28] image) => (float[batch,10] logits) {
    first = Conv<pads=[1,1,1,1]>(image, w1)
    relu_1 = Relu(first)
    second = Conv<pads=[1,1,1,1], strides=[2,2]>(relu_1, w2)
    relu_2 = Relu(second)
    pooled = GlobalAveragePool(relu_2)
    flat = Flatten(pooled)
    logits = MatMul(flat, w3)
}
"""
SHAPES: Mapping[str, tuple[int, ...]] = {"w1": (16, 1, 3, 3), "w2": (32, 16, 3, 3), "w3": (32, 10)}


def convolutions() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    random = np.random.default_rng(0)
    weights = {name: (0.3 * random.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model
