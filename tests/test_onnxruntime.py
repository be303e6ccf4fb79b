from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from attar.models.task import Arrays
from attar.pipeline.errors import StageError
from attar.stages.artifacts import OnnxModel
from attar.stages.runtimes import onnxruntime

IMAGE = np.zeros((2, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"the graph wants an input 'image' \(float32 \[batch, 1, 8, 8\]\) and got none"),
        ({"picture": IMAGE}, r"the graph wants an input 'image' .* and got picture"),
        ({"image": IMAGE, "imag": IMAGE}, r"the graph has no input 'imag': did you mean 'image'\?"),
        ({"image": IMAGE.astype(np.float64)}, r"'image' must be float32 \[batch, 1, 8, 8\], got float64 \[2, 1, 8, 8\]"),
        ({"image": IMAGE[..., :4]}, r"'image' must be float32 \[batch, 1, 8, 8\], got float32 \[2, 1, 8, 4\]"),
        ({"image": IMAGE[0]}, r"'image' must be float32 \[batch, 1, 8, 8\], got float32 \[1, 8, 8\]"),
    ],
)
def test_wrong_inputs_are_named(digits_onnx: OnnxModel, inputs: Arrays, message: str) -> None:
    with digits_onnx.open(threads=1) as predict, pytest.raises(StageError, match=message):
        predict(inputs)


def test_an_unknown_provider_is_not_replaced_by_the_cpu(digits_onnx: OnnxModel) -> None:
    files = {"model": digits_onnx.file()}
    with (
        pytest.raises(StageError, match=r"no provider 'CpuExecutionProvider'; did you mean 'CPUExecutionProvider'\?"),
        onnxruntime.opened(files, 1, "CpuExecutionProvider"),
    ):
        pass


def test_a_provider_that_takes_no_node_is_an_error(digits_onnx: OnnxModel, capfd: pytest.CaptureFixture[str]) -> None:
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no provider that falls back to the CPU")
    with (
        pytest.raises(StageError, match=r"cannot open .*model\.onnx on AzureExecutionProvider: .*fallback"),
        onnxruntime.opened({"model": digits_onnx.file()}, 1, "AzureExecutionProvider"),
    ):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StageError, match=r"cannot open .*broken\.onnx"), onnxruntime.opened({"model": file}, 1):
        pass


def test_threads() -> None:
    for asked, expected, spinning in ((None, len(os.sched_getaffinity(0)), None), (1, 1, "0"), (3, 3, "1")):
        made = onnxruntime.options(asked, onnxruntime.CPU, optimize=True)
        assert (made.intra_op_num_threads, made.inter_op_num_threads) == (expected, 1)
        if spinning:
            assert made.get_session_config_entry("session.intra_op.allow_spinning") == spinning
    with pytest.raises(StageError, match="0 threads"):
        onnxruntime.options(0, onnxruntime.CPU, optimize=True)


def test_machine_facts() -> None:
    facts = onnxruntime.machine()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["flags"] == sorted(facts["flags"])
    assert set(facts["flags"]) <= onnxruntime.FLAGS
