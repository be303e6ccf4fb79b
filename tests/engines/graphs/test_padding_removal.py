"""What works row by row skips the padding, and each token's row is what it was."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines.graphs.padding_removal import remove_padding
from attar.engines.runtimes.onnxruntime import open_session
from attar.models.task import Predict
from tests.support.tasks.sequences import SIZE, make_decoding

LONGEST, WIDTH = 8, 4
DECODING = make_decoding(SIZE)
SIZES = ((2, LONGEST), (3, LONGEST - 1))
GRAPH = """
    <ir_version: 10, opset_import: ["" : 20]>
    start (int64[batch,S] source) => (float[batch,S,4] memory, float[batch,4] total) <int64 pad = {0}, int64[1] none = {0},
                                      int64[1] behind = {2}, int64[1] place = {1}> {
        length = Shape<start = 1, end = 2>(source)
        places = Slice(table_of_places, none, length, none)
        embedded = Gather(table, source)
        x = Add(embedded, places)
        normed = LayerNormalization(x, gain, shift)
        hidden = MatMul(normed, weight)
        active = Relu(hidden)
        sum = Add(active, x)
        is_pad = Equal(source, pad)
        is_token = Not(is_pad)
        shown = Cast<to = 1>(is_token)
        mask = Unsqueeze(shown, behind)
        kept = Mul(sum, mask)
        total = ReduceSum<keepdims = 0>(kept, place)
        memory = MatMul(sum, weight)
    }"""
"""A mask, a product in the middle, one at the end; the sum over positions looks at all of them."""


def build_model() -> onnx.ModelProto:
    model, rng = onnx.parser.parse_model(GRAPH), np.random.default_rng(0)
    shapes = {"table": (SIZE, WIDTH), "table_of_places": (LONGEST, WIDTH), "gain": (WIDTH,), "shift": (WIDTH,)}
    for name, shape in (shapes | {"weight": (WIDTH, WIDTH)}).items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def list_shapes() -> dict[str, list[tuple[int, ...]]]:
    """The shapes of all tensors of the graph with 2 samples of 8 positions, and 3 of 7."""
    rows = ("embedded", "x", "normed", "hidden", "active", "sum", "kept", "memory")
    shapes: dict[str, list[tuple[int, ...]]] = {name: [(*size, WIDTH) for size in SIZES] for name in rows}
    shapes |= {"places": [(length, WIDTH) for _, length in SIZES], "mask": [(*size, 1) for size in SIZES]}
    shapes |= {name: list(SIZES) for name in ("source", "is_pad", "is_token", "shown")}
    return shapes | {"total": [(batch, WIDTH) for batch, _ in SIZES]}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Predict]:
    before, after = build_model(), build_model()
    assert remove_padding(after, DECODING, list_shapes(), SIZES) == 2
    onnx.checker.check_model(after, full_check=True)
    models = {"before": before.SerializeToString(), "after": after.SerializeToString()}
    with open_session(models, threads=1) as opened:
        return dict(opened.graphs)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 5), length=st.integers(1, LONGEST))
def test_rows_of_tokens_are_those_of_the_whole_graph(graphs: dict[str, Predict], seed: int, batch: int, length: int) -> None:
    """Padding may stand anywhere, and a source may hold nothing else."""
    source = np.random.default_rng(seed).integers(-3, SIZE, (batch, length)).clip(0)
    before, after = (graphs[name]({"source": source}) for name in ("before", "after"))
    totals = [np.asarray(each["total"], np.float32) for each in (after, before)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-5, atol=1e-5)
    kept = source != DECODING.source_pad
    kept |= ~kept.any(1, keepdims=True)  # a sample of padding alone is computed as it was
    memories = [np.asarray(each["memory"], np.float32) for each in (after, before)]
    np.testing.assert_allclose(memories[0][kept], memories[1][kept], rtol=1e-5, atol=1e-5)
    assert np.isfinite(memories[0]).all()


def test_products_read_the_tokens_alone(graphs: dict[str, Predict]) -> None:
    """The row of padding is that of the position before it: its own is never computed."""
    memory = graphs["after"]({"source": np.array([[5, 0, 0, 3]])})["memory"][0]
    np.testing.assert_array_equal(memory[1], memory[0])
    np.testing.assert_array_equal(memory[2], memory[0])
    assert not np.array_equal(memory[3], memory[0])


def test_a_graph_without_such_products_stays_as_it_is() -> None:
    model = build_model()
    before = model.SerializeToString()
    shapes = {name: [(1,), (1,)] for name in list_shapes()}
    assert remove_padding(model, DECODING, shapes, SIZES) == 0
    assert model.SerializeToString() == before


def test_a_norm_with_a_gain_that_is_computed_reads_the_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gain has no rows to gather."""
    norm = "normed = LayerNormalization(x, {}, shift)"
    computed = GRAPH.replace(norm.format("gain"), f"scale = Add(gain, shift)\n{norm.format('scale')}")
    monkeypatch.setattr("tests.engines.graphs.test_padding_removal.GRAPH", computed)
    model, source = build_model(), np.array([[5, 0, 3, 4]])
    models = {"before": model.SerializeToString()}
    assert remove_padding(model, DECODING, list_shapes() | {"scale": [(WIDTH,)] * 2}, SIZES) == 2
    with open_session(models | {"after": model.SerializeToString()}, threads=1) as opened:
        before, after = (opened.graphs[name]({"source": source})["memory"][0] for name in ("before", "after"))
    np.testing.assert_allclose(after[[0, 2, 3]], before[[0, 2, 3]], rtol=1e-5, atol=1e-5)
