"""The graph of a loop: its tokens are those of its two parts, called one token at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines.graphs.assembly import assemble_graph
from attar.engines.graphs.int8_weights import write_int8_weights_graph
from attar.engines.runtimes.onnxruntime import open_session
from attar.models.generation import (
    MODEL,
    START,
    STEP,
    Decoding,
    Integers,
    generate,
    generate_greedily,
    measure_lengths,
    require_decoding,
)
from attar.models.task import Output, Task, Tensor
from attar.pipeline.core.errors import UnsupportedModelError
from tests.support.tasks.sequences import (
    DECODING,
    LONGEST,
    SIZE,
    TASK,
    WORDS,
    Reversal,
    change_task,
    draw_sources,
)

PRECISIONS = ("fp32", "int8-weights")


@pytest.fixture(scope="module")
def folders(reversal_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the graphs ``start``, ``step`` and ``model``, by precision."""
    root = tmp_path_factory.mktemp("assembly")
    for precision in PRECISIONS:
        (root / precision).mkdir()
        for name in (START, STEP):
            source, target = reversal_graphs / f"{name}.onnx", root / precision / f"{name}.onnx"
            if precision == "fp32":
                shutil.copy(source, target)
            else:
                write_int8_weights_graph(source, target, ())
        assemble(root / precision, TASK)
    return {precision: root / precision for precision in PRECISIONS}


def assemble(folder: Path, task: Task) -> Path:
    target = folder / f"{MODEL}.onnx"
    assemble_graph(folder / "start.onnx", folder / "step.onnx", target, task, require_decoding(task))
    return target


def generate_both(
    folder: Path, sources: Integers, decoding: Decoding = DECODING, model: Path | None = None
) -> tuple[Integers, Integers]:
    """Return the tokens of the loop, and those of its parts."""
    files = {name: folder / f"{name}.onnx" for name in (START, STEP, MODEL)}
    with open_session(files | ({MODEL: model} if model else {}), threads=1) as predict:
        inputs = {"source": sources}
        loop = generate({MODEL: predict.graphs[MODEL]}, inputs, decoding)
        return loop, generate_greedily(predict.graphs, inputs, decoding)


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 1000),
    lengths=st.one_of(
        st.lists(st.integers(1, 5), min_size=1, max_size=1),
        st.lists(st.integers(1, 5), min_size=1, max_size=64),
    ),
)
def test_the_loop_says_what_its_parts_say(folders: dict[str, Path], precision: str, seed: int, lengths: list[int]) -> None:
    loop, parts = generate_both(folders[precision], draw_sources(seed, lengths))
    assert loop.tolist() == parts.tolist()
    assert loop.shape == (len(lengths), LONGEST)
    assert loop.dtype == np.int64


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_of_64_has_sequences_of_every_length(folders: dict[str, Path], precision: str) -> None:
    sources = draw_sources(0, [1, 2, 3, 4, 5, 5, 4, 3] * 8)
    loop, parts = generate_both(folders[precision], sources)
    assert loop.tolist() == parts.tolist()
    assert len(set(measure_lengths(loop, WORDS).tolist())) > 3
    assert 0 < (loop == WORDS.end).any(1).sum() < 64
    for row in (0, 4, 63):  # and none depends on its batch mates
        alone, _ = generate_both(folders[precision], sources[row : row + 1])
        assert alone.tolist() == loop[[row]].tolist()


@pytest.mark.parametrize("growth", [(0, 1), (2, 0), (1, 3), (0, 99)])
def test_the_limit_is_in_the_graph(folders: dict[str, Path], tmp_path: Path, growth: tuple[int, int]) -> None:
    output = Output(("batch", LONGEST), kind="tokens", size=SIZE, growth=growth)
    task = change_task(outputs={"words": output})
    for name in (START, STEP):
        shutil.copy(folders["fp32"] / f"{name}.onnx", tmp_path)
    model, decoding = assemble(tmp_path, task), require_decoding(task)
    sources = draw_sources(1, [1, 3, 5, 2, 4])
    loop, parts = generate_both(tmp_path, sources, decoding, model)
    assert loop.tolist() == parts.tolist()
    limits = decoding.limit_lengths({"source": sources})
    lengths = measure_lengths(loop, WORDS)
    assert (lengths <= limits).all()
    assert (lengths == limits).any()


def test_without_a_padded_source_only_the_longest_limits(folders: dict[str, Path], tmp_path: Path) -> None:
    unpadded = {"source": Tensor("int64", ("batch", "source"), high=SIZE)}
    task = change_task(inputs=unpadded)
    for name in (START, STEP):
        shutil.copy(folders["fp32"] / f"{name}.onnx", tmp_path)
    decoding = require_decoding(task)
    assert decoding.source is None
    loop, parts = generate_both(tmp_path, draw_sources(1, [5] * 8), decoding, assemble(tmp_path, task))
    assert loop.tolist() == parts.tolist()


def test_the_graph_reads_the_task_and_gives_its_output(folders: dict[str, Path]) -> None:
    graph = onnx.load(folders["fp32"] / "model.onnx").graph
    assert [value.name for value in graph.input] == ["source"]
    assert [value.name for value in graph.output] == ["words"]
    dims = graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", LONGEST]
    assert [node.op_type for node in graph.node].count("Loop") == 1


def count_bytes(file: Path) -> int:
    return count_graph_bytes(onnx.load(file).graph)


def count_graph_bytes(graph: onnx.GraphProto) -> int:
    """Return the bytes of the weights, those of loops included."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return sum(len(tensor.raw_data) for tensor in graph.initializer) + sum(map(count_graph_bytes, inner))


def test_the_weights_are_held_once(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        whole, *parts = (count_bytes(folder / f"{name}.onnx") for name in (MODEL, START, STEP))
        constants = whole - sum(parts)
        assert 0 < constants < 200


def wrap_logits(folder: Path, target: Path) -> None:
    """Copy the graphs; in the step a branch that is taken gives the logits, and one that is not."""
    shutil.copy(folder / "start.onnx", target)
    model = onnx.load(folder / "step.onnx")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    for part in model.graph.node:
        part.output[:] = ["raw" if name == "logits" else name for name in part.output]
    branches = {
        name: onnx.helper.make_graph(
            [node(operator, ["raw"], ["inner"], "same"), node("Identity", ["inner"], [f"{name}_logits"])],
            name,
            [],
            [value(f"{name}_logits", onnx.TensorProto.FLOAT, None)],
        )
        for name, operator in {"then_branch": "Identity", "else_branch": "Neg"}.items()
    }
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(node("If", ["condition"], ["logits"], "branch", **branches))
    onnx.save(model, target / "step.onnx")


def test_a_step_may_have_branches(folders: dict[str, Path], tmp_path: Path) -> None:
    wrap_logits(folders["fp32"], tmp_path)
    assemble(tmp_path, TASK)
    sources = draw_sources(0, [1, 2, 3, 4, 5])
    loop, parts = generate_both(tmp_path, sources)
    assert loop.tolist() == parts.tolist() == generate_both(folders["fp32"], sources)[0].tolist()


UNREAD = {
    "start": """<ir_version: 10, opset_import: ["" : 20]>
        start (int64[batch,source] source) => (int64[batch] memory_0, int64[batch] state_0)
        <int64[1] axis = {1}> {
            memory_0 = ReduceSum<keepdims = 0>(source, axis)  state_0 = Identity(memory_0)
        }""",
    "step": """<ir_version: 10, opset_import: ["" : 20]>
        step (int64[batch] token, int64[1] place, int64[batch] memory_0)
            => (float[batch,7] logits, int64[batch] next_state_0)
        <float[1,7] row = {0, 0, 3.5, 1, 2, 3, 4}> {
            said = Add(token, memory_0)  number = Cast<to = 1>(said)  axes = Constant<value_ints = [1]>()
            column = Unsqueeze(number, axes)  away = Sub(row, column)  near = Abs(away)
            logits = Neg(near)  next_state_0 = Identity(token)
        }""",
}
"""A state of integers that the step does not read: an exporter leaves such an input out."""


def test_a_state_that_is_not_read(tmp_path: Path) -> None:
    for name, text in UNREAD.items():
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    model = assemble(tmp_path, TASK)
    with open_session({MODEL: model}, threads=1) as predict:
        tokens = generate(predict.graphs, {"source": np.array([[1, 0], [3, 4]])}, DECODING)
    # The likeliest token is that whose number in the row is nearest to the last token plus the memory.
    assert tokens.tolist() == [[4, 6, 0, 0, 0, 0], [6, 6, 6, 0, 0, 0]]


def change_step(folder: Path, target: Path, name: str, new: str) -> None:
    """Copy the graphs; in the step a tensor has another name."""
    shutil.copy(folder / "start.onnx", target)
    model = onnx.load(folder / "step.onnx")
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new if value.name == name else value.name
    for node in model.graph.node:
        node.input[:] = [new if read == name else read for read in node.input]
        node.output[:] = [new if given == name else given for given in node.output]
    onnx.save(model, target / "step.onnx")


@pytest.mark.parametrize(
    ("name", "new"),
    [("memory_1", "memory_9"), ("token", "word"), ("logits", "scores"), ("next_state_3", "cache")],
)
def test_graphs_that_do_not_fit(folders: dict[str, Path], tmp_path: Path, name: str, new: str) -> None:
    change_step(folders["fp32"], tmp_path, name, new)
    with pytest.raises(UnsupportedModelError) as refused:
        assemble(tmp_path, TASK)
    missing = name in ("logits", "next_state_3")
    assert repr(name if missing else new) in str(refused.value)


def test_a_source_of_other_integers(tmp_path: Path) -> None:
    for name, text in UNREAD.items():
        text = text.replace("int64[batch,source] source", "int32[batch,source] narrow")
        text = text.replace("memory_0 = Reduce", "source = Cast<to = 7>(narrow)  memory_0 = Reduce")
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    inputs = {"narrow": Tensor("int32", ("batch", "source"), high=SIZE, pad=0)}
    model = assemble(tmp_path, change_task(inputs=inputs))
    with open_session({MODEL: model}, threads=1) as predict:
        tokens = generate(predict.graphs, {"narrow": np.array([[1, 0], [3, 4]], np.int32)}, DECODING)
    assert tokens.tolist() == [[4, 6, 0, 0, 0, 0], [6, 6, 6, 0, 0, 0]]


@pytest.mark.parametrize("name", ["samples", "token", "place", "limits", "memory_1"])
def test_a_task_may_name_an_input_as_the_loop_names_a_tensor(tmp_path: Path, name: str) -> None:
    for graph, text in UNREAD.items():
        text = text.replace("source] source", f"source] {name}").replace("(source, axis)", f"({name}, axis)")
        onnx.save(onnx.parser.parse_model(text if graph == "start" else UNREAD[graph]), tmp_path / f"{graph}.onnx")
    model = assemble(tmp_path, change_task(inputs={name: Reversal.inputs["source"]}))
    with open_session({MODEL: model}, threads=1) as predict:
        tokens = generate(predict.graphs, {name: np.array([[1, 0], [3, 4]])}, DECODING)
    assert tokens.tolist() == [[4, 6, 0, 0, 0, 0], [6, 6, 6, 0, 0, 0]]


@pytest.mark.parametrize("name", ["steps", "logits", "done", "pad"])
def test_a_task_may_name_its_output_as_the_loop_names_a_tensor(tmp_path: Path, name: str) -> None:
    for graph, text in UNREAD.items():
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{graph}.onnx")
    task = change_task(outputs={name: Reversal.outputs["words"]})
    with open_session({MODEL: assemble(tmp_path, task)}, threads=1) as predict:
        tokens = predict({"source": np.array([[1, 0], [3, 4]])})[name]
    assert tokens.tolist() == [[4, 6, 0, 0, 0, 0], [6, 6, 6, 0, 0, 0]]
