"""Faults of a graph that answers with several labels a sample, ``attributes`` (N, 3), and a class at each pixel, ``ink``
(N, 8, 8, 3)."""

from __future__ import annotations

import onnx

from tests.system.sabotage.graphs import after


def sigmoids(model: onnx.ModelProto) -> None:
    after(model, "attributes", "y = Sigmoid(x)")


def softmax_of_labels(model: onnx.ModelProto) -> None:
    """The labels are taken for classes, of which one applies."""
    after(model, "attributes", "y = LogSoftmax<axis = 1>(x)")


def threshold_moved(model: onnx.ModelProto) -> None:
    """Yes from a probability of 0.88 on."""
    after(model, "attributes", "y = Sub(x, two)", two=2.0)


def labels_rolled(model: onnx.ModelProto) -> None:
    after(model, "attributes", "y = Gather<axis = 1>(x, order)", order=[1, 2, 0])


def pixels_transposed(model: onnx.ModelProto) -> None:
    after(model, "ink", "y = Transpose<perm = [0, 2, 1, 3]>(x)")


def pixels_moved(model: onnx.ModelProto) -> None:
    """Each answer stands one pixel to the right."""
    after(model, "ink", "y = Gather<axis = 2>(x, order)", order=[0, 0, 1, 2, 3, 4, 5, 6])


def softmax_over_rows(model: onnx.ModelProto) -> None:
    """Normalised over an axis of pixels, as where the classes are thought to come first."""
    after(model, "ink", "y = LogSoftmax<axis = 1>(x)")
