"""A network that generates is exported and converted in two graphs, and assembled into one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from attar.engines.runtimes.onnxruntime import open_session
from attar.engines.runtimes.torch_sequences import check_sequence_network, open_graphs
from attar.models.generation import MODEL, START, STEP, generate, generate_greedily
from attar.pipeline.core.errors import UnfitSettingsError, UnsupportedModelError
from attar.stages.artifacts import OnnxModel
from attar.stages.build import Build
from attar.stages.export.sequences import describe_graphs
from attar.stages.export.stage import Export
from attar.stages.optimize.sequences import write_sequence_graphs
from attar.stages.optimize.stage import Optimize
from tests.support.stages.training import make_out
from tests.support.tasks import smoke
from tests.support.tasks.sequences import (
    DECODING,
    REVERSAL,
    SIZE,
    TASK,
    WORDS,
    Recurrent,
    draw_sources,
    make_translator,
)
from tests.support.tasks.smoke import artifact


def test_which_axes_of_memory_and_state_are_dynamic() -> None:
    forms = describe_graphs(make_translator(), TASK)
    cache = ("batch", 2, "source", 4)
    state = ("batch", 2, "past", 4)
    assert dict(forms[START].inputs) == {"source": ("batch", "source")}
    assert forms[START].outputs == {
        "memory_0": ("batch", 1, 1, "source"),
        **{f"memory_{number}": cache for number in range(1, 5)},
        **{f"state_{number}": ("batch", 2, 0, 4) for number in range(4)},
    }
    assert forms[STEP].inputs["token"] == ("batch",)
    assert forms[STEP].inputs["place"] == (1,)
    assert forms[STEP].inputs["state_3"] == state
    assert forms[STEP].outputs["next_state_0"] == ("batch", 2, "present", 4)


@pytest.fixture
def exported(reversal_graphs: Path) -> OnnxModel:
    return artifact(OnnxModel, reversal_graphs, {"graphs": [START, STEP, MODEL], "precision": "fp32"})


def test_both_graphs_are_converted_and_the_facts_name_both(exported: OnnxModel, tmp_path: Path) -> None:
    def write(source: Path, target: Path) -> dict[str, object]:
        shutil.copy(source, target)
        return {"quantized": {"MatMul": 2}, "float": {source.stem: "excluded"}}

    facts = write_sequence_graphs(tmp_path, exported, TASK, DECODING, "int8-weights", write)
    assert facts["quantized"] == {"MatMul": 4}
    assert facts["float"] == {"start/start": "excluded", "step/step": "excluded"}
    files = {MODEL: tmp_path / "model.onnx"}
    sources = {"source": draw_sources(0, [1, 3, 5])}
    with open_session(files, threads=1) as got, exported.open(threads=1) as expected:
        tokens = generate(got.graphs, sources, DECODING)
        assert tokens.tolist() == generate(expected.graphs, sources, DECODING).tolist()


@pytest.mark.parametrize("precision", ["int8", "fp16", "bf16"])
def test_a_precision_that_needs_calibration(exported: OnnxModel, tmp_path: Path, precision: str) -> None:
    with pytest.raises(UnsupportedModelError, match=precision) as refused:
        write_sequence_graphs(tmp_path, exported, TASK, DECODING, precision, lambda *_: {})
    assert "int8-weights" in str(refused.value)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_such_a_target_is_refused_before_anything_is_trained(precision: Literal["int8", "fp16"]) -> None:
    with pytest.raises(UnfitSettingsError, match=r"to be calibrated.*int8-weights"):
        Optimize(task=REVERSAL, precision=precision).check_settings()
    Optimize(task=REVERSAL, precision="int8-dynamic").check_settings()
    Optimize(task=smoke.DIGITS, precision=precision).check_settings()


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_runtime_that_parses_no_loop_is_refused_as_early(
    exported: OnnxModel, tmp_path: Path, runtime: Literal["tensorrt", "tensorrt-rtx"]
) -> None:
    """A candidate is refused in its turn, also where its hardware is not here."""
    said = rf"'{runtime}': .*use onnxruntime or openvino"
    with pytest.raises(UnfitSettingsError, match=said):
        Build(task=REVERSAL, runtime=runtime).check_settings()
    with pytest.raises(UnsupportedModelError, match=said):
        Build(task=REVERSAL, runtime=runtime).run(tmp_path, model=exported)
    Build(task=REVERSAL, runtime="openvino").check_settings()
    Build(task=smoke.DIGITS, runtime=runtime).check_settings()


def test_exported_graphs_multiply_once_and_skip_padding(exported: OnnxModel) -> None:
    """Of one encoder and two decoder layers: queries, keys and values are one product."""
    start, step = (onnx.load(exported.file(name)).graph for name in (START, STEP))
    read = [node.input[0] for node in start.node if node.op_type == "MatMul"]
    assert len(read) == 7  # two of them in the attention, one for the decoder's keys and values
    assert sum(name.endswith(".rows") for name in read) == 5
    products = [node.op_type for node in step.node].count("MatMul")
    assert products == 2 * 10 + 1  # each layer: 2 by 2 in the attentions; q-k-v, 2 out, q, 2 feed


def test_the_exported_model_says_what_the_network_says(exported: OnnxModel) -> None:
    sources = draw_sources(2, [1, 2, 3, 4, 5] * 4)
    expected = generate(open_graphs(make_translator(), TASK, DECODING), {"source": sources}, DECODING)
    with exported.open(threads=1) as predict:
        assert generate(predict.graphs, {"source": sources}, DECODING).tolist() == expected.tolist()
    assert (expected == WORDS.end).any()
    assert int(np.max(expected)) < SIZE
    for name in (START, STEP, MODEL):
        assert not onnx.load(exported.file(name)).graph.value_info


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_recurrent_network(tmp_path: Path, exporter: Literal["torchscript", "dynamo"]) -> None:
    """It has no memory, a state that does not grow, another of integers, and does not use the place."""
    check_sequence_network(Recurrent(), TASK, DECODING)
    weights = smoke.weights(tmp_path / "weights", "tests.support.tasks.sequences:Recurrent", REVERSAL)
    out = make_out(tmp_path)
    facts = Export(exporter=exporter).run(out, weights=weights)
    sources = {"source": draw_sources(2, [1, 2, 3, 4, 5] * 4)}
    files = {name: out / f"{name}.onnx" for name in facts["graphs"]}
    with open_session(files, threads=1) as predict, weights.open() as network:
        expected = generate(network.graphs, sources, DECODING).tolist()
        assert predict(sources)["words"].tolist() == expected
        assert generate_greedily(predict.graphs, sources, DECODING).tolist() == expected
    assert len({tuple(row) for row in expected}) > 3
