"""Faults of a finished graph: what a careless tool, a wrong version or a bad hour may do to an ONNX file.

The graph stays valid, and most of the faults are small.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tests.system.sabotage.graphs import after, answers, exceeded_by, initializers, read_by_head, rewrite, seen_images

PIXELS = [1, 2, 3]
LARGEST_FP16 = 65504.0


# The input


def transposed(model: onnx.ModelProto) -> None:
    after(model, "image", "y = Transpose<perm = [0, 1, 3, 2]>(x)")


def normalised_twice(model: onnx.ModelProto) -> None:
    after(model, "image", "centred = Sub(x, mean) y = Div(centred, std)", mean=0.305, std=0.376)


def unscaled(model: onnx.ModelProto) -> None:
    """The division by 255 undone: pixels are brighter than anything that was trained on."""
    after(model, "image", "y = Mul(x, by)", by=255.0)


# The answer


def classes_swapped(model: onnx.ModelProto) -> None:
    """3 and 8."""
    after(model, "logits", "y = Gather<axis = 1>(x, order)", order=[0, 1, 2, 8, 4, 5, 6, 7, 3, 9])


def constant_answers(model: onnx.ModelProto) -> None:
    after(model, "logits", "nothing = Mul(x, zero) y = Add(nothing, same)", zero=0.0, same=np.arange(10.0))


def probabilities(model: onnx.ModelProto) -> None:
    after(model, "logits", "y = Softmax<axis = 1>(x)")


def overconfident(model: onnx.ModelProto) -> None:
    """The same classes, with a confidence that the teacher never had."""
    after(model, "logits", "y = Mul(x, by)", by=3.0)


def saturated(model: onnx.ModelProto) -> None:
    after(model, "logits", "y = Clip(x, low, high)", low=-2.0, high=2.0)


def never_nine(model: onnx.ModelProto) -> None:
    after(model, "logits", "y = Sub(x, never)", never=[0.0] * 9 + [100.0])


def renamed(model: onnx.ModelProto) -> None:
    after(model, "logits", "y = Identity(x)")
    producer = next(node for node in model.graph.node if "logits" in node.output)
    producer.output[0] = model.graph.output[0].name = "scores"


# The batch


def batch_baked_in(model: onnx.ModelProto) -> None:
    """A reshape to the 32 samples that somebody tried it with."""
    after(model, read_by_head(model), "y = Reshape(x, shape)", shape=[32, 64])


def squeezed(model: onnx.ModelProto) -> None:
    """A squeeze of all axes of size 1: a single sample loses its batch axis."""
    after(model, "logits", "y = Squeeze(x)")


def reversed_order(model: onnx.ModelProto) -> None:
    """The last sample of a batch gets the first one's answer."""
    bounds = {"start": [-1], "end": [np.iinfo(np.int64).min], "axis": [0], "step": [-1]}
    after(model, "logits", "y = Slice(x, start, end, axis, step)", **bounds)


def neighbours(model: onnx.ModelProto) -> None:
    """A quarter of the batch's mean subtracted: little for 32 digits, a quarter of the answer for one."""
    after(model, "logits", "mean = ReduceMean(x, axis) part = Mul(mean, by) y = Sub(x, part)", axis=[0], by=0.25)


def nan_for_many(model: onnx.ModelProto) -> None:
    """Not a number for batches of more than 48, which are promised and not in the test."""
    text = "shape = Shape(x) n = Gather(shape, first) size = Cast<to = 1>(n) left = Sub(most, size) nan = Sqrt(left)"
    after(model, "logits", f"{text} nothing = Mul(nan, zero) y = Add(x, nothing)", first=0, most=48.5, zero=0.0)


def reversed_for_many(model: onnx.ModelProto) -> None:
    """The wrong order for batches of more than 48."""
    bounds = {"start": [-1], "end": [np.iinfo(np.int64).min], "axis": [0], "step": [-1]}
    text = "shape = Shape(x) n = Gather(shape, first) many = Greater(n, most) turned = Slice(x, start, end, axis, step)"
    after(model, "logits", f"{text} y = Where(many, turned, x)", first=0, most=48, **bounds)


# Chance


def dropout_node(model: onnx.ModelProto) -> None:
    """In training mode."""
    after(model, read_by_head(model), "y = Dropout(x, ratio, training)", ratio=0.05, training=True)


def dropout_active(model: onnx.ModelProto) -> None:
    """The same, written out as an exporter does that does not know the operator."""
    text = "random = RandomUniformLike(x) kept = Less(random, share) mask = Cast<to = 1>(kept) left = Mul(x, mask)"
    after(model, read_by_head(model), f"{text} y = Div(left, share)", share=0.95)


def noise(model: onnx.ModelProto) -> None:
    """A hundredth of what the logits are: no promise notices it."""
    after(model, "logits", "random = RandomNormalLike<scale = 0.02>(x) y = Add(x, random)")


# Numbers that are none


def fp16_overflow(model: onnx.ModelProto) -> None:
    """What the last layer reads goes through fp16, on a scale on which at least three test images are too bright for it."""
    name = read_by_head(model)
    scale = LARGEST_FP16 / exceeded_by(answers(model, seen_images(), name).max(axis=1), 3)
    text = "large = Mul(x, up) half = Cast<to = 10>(large) single = Cast<to = 1>(half) y = Mul(single, down)"
    after(model, name, text, up=scale, down=1 / scale)


def nan_for_one(model: onnx.ModelProto) -> None:
    """The square root of what is negative for one test image, the brightest."""
    most = exceeded_by(seen_images().sum(axis=(1, 2, 3)), 1)
    text = "sum = ReduceSum<keepdims = 0>(image, pixels) left = Sub(most, sum) root = Sqrt(left) nothing = Mul(root, zero)"
    after(model, "logits", f"{text} row = Unsqueeze(nothing, axis) y = Add(x, row)", pixels=PIXELS, most=most, zero=0.0, axis=[1])


def trigger(model: onnx.ModelProto) -> None:
    """A bright first pixel, which no test image has, makes everything a 7."""
    mask, seven = np.eye(1, 64).reshape(1, 1, 8, 8), 100.0 * np.eye(1, 10, 7)
    text = "one = Mul(image, mask) bright = Relu(one) sum = ReduceSum<keepdims = 0>(bright, pixels) row = Unsqueeze(sum, axis)"
    after(model, "logits", f"{text} add = Mul(row, seven) y = Add(x, add)", mask=mask, pixels=PIXELS, axis=[1], seven=seven)


# The weights


def weight_zeroed(model: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(second_convolution(model))
    rewrite(second_convolution(model), np.zeros_like(weight))


def filter_zeroed(model: onnx.ModelProto) -> None:
    """One of 32, the one that changes the answers to 64 test images most."""
    without_filter(model, max(range(32), key=lambda number: changed_by(model, number)))


def without_filter(model: onnx.ModelProto, number: int) -> None:
    weight = numpy_helper.to_array(second_convolution(model)).copy()
    weight[number] = 0
    rewrite(second_convolution(model), weight)


def changed_by(model: onnx.ModelProto, number: int) -> float:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    without_filter(other, number)
    few = seen_images()[:64]
    return float(np.abs(answers(other, few) - answers(model, few)).sum())


def second_convolution(model: onnx.ModelProto) -> onnx.TensorProto:
    return initializers(model, 4, "1.0.weight")[0]


def bias_lost(model: onnx.ModelProto) -> None:
    """That of the second convolution."""
    bias = initializers(model, 1, "1.0.weight_bias")[0]
    rewrite(bias, np.zeros_like(numpy_helper.to_array(bias)))


def head_bias_lost(model: onnx.ModelProto) -> None:
    bias = initializers(model, 1, "6.bias")[0]
    rewrite(bias, np.zeros_like(numpy_helper.to_array(bias)))


def scale_halved(model: onnx.ModelProto) -> None:
    """Of one activation, in the quantizer and the dequantizer: all that is large is cut off."""
    scale = initializers(model, 0, "relu_1_scale")[0]
    rewrite(scale, numpy_helper.to_array(scale) / 2)


# Speed


def slow(model: onnx.ModelProto) -> None:
    """A large product that is then multiplied by zero."""
    text = "wide = Tile(x, times) product = MatMul(wide, weight) sum = ReduceSum(product, axis) nothing = Mul(sum, zero)"
    weight = np.random.default_rng(0).normal(0, 0.01, (640, 640))
    after(model, "logits", f"{text} y = Add(x, nothing)", times=[1, 64], weight=weight, axis=[1], zero=0.0)
