"""The likeliest token, found in two stages."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from attar.engines.graphs.loop_bodies import build_choice, find_block
from attar.engines.runtimes.onnxruntime import open_session


@pytest.mark.parametrize(("vocabulary", "block"), [(8000, 80), (1024, 32), (1021, None), (41, None)])
def test_the_first_of_the_largest_is_chosen(vocabulary: int, block: int | None) -> None:
    """1,021 is a prime, and 41 tokens are too few."""
    assert find_block(vocabulary) == block
    nodes, constants = build_choice(vocabulary)
    axis = onnx.numpy_helper.from_array(np.ones(1, np.int64), "axis_1")
    value = onnx.helper.make_tensor_value_info
    given = [value("logits", onnx.TensorProto.FLOAT, ["batch", vocabulary])]
    results = [value("likely", onnx.TensorProto.INT64, ["batch"])]
    graph = onnx.helper.make_graph(nodes, "choice", given, results, [*constants, axis])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    rng = np.random.default_rng(0)
    logits = np.concatenate(
        [
            rng.standard_normal((20, vocabulary)),
            rng.integers(0, 3, (20, vocabulary)),  # the largest stands in many places
            np.full((1, vocabulary), -1e30),
        ]
    ).astype(np.float32)
    with open_session({"model": model.SerializeToString()}, threads=1) as predict:
        likely = predict({"logits": logits})["likely"]
    np.testing.assert_array_equal(likely, logits.argmax(1))
