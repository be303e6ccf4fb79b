"""Engines of OpenVINO and TensorRT-RTX from a recipe to who serves them, by the commands that a user types."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from attar.cli.main import main
from attar.engines import cpu
from attar.engines.runtimes import cuda, openvino
from tests.support.projects import tiny

pytestmark = pytest.mark.timeout(300)  # a whole run

CPU = ["fp32", "int8", *(["bf16"] if openvino.NATIVE["bf16"] & cpu.cpu_flags() else [])]
RTX = ["fp16", "int8"]
FAST = {("openvino", "int8"), ("tensorrt-rtx", "fp16")}
"""What `make test` holds: one of each runtime, as every target is measured, packaged and opened."""
POINTS = np.array([[0.0, 0.0], [0.99, 0.99]], np.float32)
BEFORE = "import json, sys; sys.modules.update(dict.fromkeys({blocked!r})); import attar; import numpy as np; "
ANSWER = "model = attar.open(sys.argv[1], allow_native=True); raw = {{'point': np.array({points}, np.float32)}}; "
ANSWER += "print(json.dumps(model(model.preprocess(raw))['logits'].argmax(1).tolist()))"


def installed(library: str) -> bool:
    try:
        return bool(version(library))
    except PackageNotFoundError:
        return False


needs_openvino = pytest.mark.skipif(not installed("openvino"), reason="without OpenVINO")
needs_rtx = pytest.mark.skipif(not installed("tensorrt-rtx"), reason="without TensorRT-RTX")
needs_no_gpu = pytest.mark.skipif(cuda.has_driver(), reason="a machine that can run the engine")


def recipe(runtime: str, precisions: list[str], more: str = "") -> str:
    """The tiny recipe with a target for every precision."""
    before, _, after = tiny.RECIPE.partition("[targets.cpu]")
    targets = [f'[targets.{each}]\nprecision = "{each}"\nruntime = "{runtime}"\n{more}\n' for each in precisions]
    return before + "\n".join(targets) + after[after.index("[gates]") :]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """The tiny project, whose teacher, answers and student are made, with recipes for other runtimes."""
    folder = tmp_path_factory.mktemp("chain") / "project"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "openvino.toml").write_text(recipe("openvino", CPU, "threads = 1"))
    (folder / "tensorrt-rtx.toml").write_text(
        recipe("tensorrt-rtx", RTX, 'compute = ["8.6", "8.9"]\nprofile = { batch = [1, 8, 32] }')
    )
    return folder


def run_target(project: Path, runtime: str, precision: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    return tiny.call_run(project, "-o", runtime, "--target", precision, *arguments, recipe=f"{runtime}.toml", code=code)


def choose_precisions(runtime: str, precisions: list[str]) -> list[Any]:
    return [pytest.param(each, marks=[pytest.mark.slow] * ((runtime, each) not in FAST)) for each in precisions]


def attar(folder: Path, *arguments: str, code: int = 0) -> str:
    """Without a store: a bundle needs none."""
    with tiny.project_folder(folder):
        done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    return done.stdout + done.stderr


def opened(bundle: Path, *blocked: str) -> subprocess.CompletedProcess[str]:
    """What a process answers that cannot import these."""
    called = BEFORE.format(blocked=blocked) + ANSWER.format(points=POINTS.tolist())
    command = [sys.executable, "-c", called, str(bundle)]
    return subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=False)


@needs_openvino
@pytest.mark.parametrize("precision", choose_precisions("openvino", CPU))
def test_openvino_from_the_recipe_to_an_answer(project: Path, precision: str) -> None:
    served = run_target(project, "openvino", precision)
    assert served["targets"][precision]["verdict"] == "passed"
    facts = tiny.entry(served, f"{precision}.engine")["facts"]
    assert (facts["runtime"], facts["precision"], facts["why"]) == ("openvino", precision, None)
    bundle = f"openvino/{precision}"
    assert "native code" in attar(project, "check", bundle)
    assert "is fit to serve" in attar(project, "check", bundle, "--allow-native")
    timed = json.loads(attar(project, "bench", bundle, "--allow-native", "--batch", "1", "--seconds", "0.05", "--json"))
    assert timed["batches"]["1"]["rounds"] > 0
    answered = opened(project / bundle, "torch", "onnx", "onnxscript", "sklearn")
    assert (answered.returncode, answered.stdout.strip()) == (0, "[1, 0]"), answered.stderr


@needs_openvino
def test_who_lacks_openvino_is_told_what_to_install(project: Path) -> None:
    run_target(project, "openvino", "int8")
    asked = opened(project / "openvino/int8", "openvino")
    assert asked.returncode == 1
    assert "'attar[openvino]'" in asked.stderr.splitlines()[-1]


@needs_rtx
@needs_no_gpu
@pytest.mark.parametrize("precision", choose_precisions("tensorrt-rtx", RTX))
def test_tensorrt_rtx_from_the_recipe_to_an_unfinished_bundle(project: Path, precision: str) -> None:
    unfinished = run_target(project, "tensorrt-rtx", precision)
    assert unfinished["targets"][precision]["verdict"] == "not run here"
    facts = tiny.entry(unfinished, f"{precision}.engine")["facts"]
    assert (facts["runtime"], facts["precision"], facts["files"]) == ("tensorrt-rtx", precision, {"model": "model.engine"})
    assert facts["asked"] == {"profile": {"batch": [1, 8, 32]}, "options": {"compute": ["8.6", "8.9"]}}
    assert "no NVIDIA driver" in facts["why"]
    bundle = f"tensorrt-rtx/{precision}"
    assert (project / bundle / "engines/tensorrt-rtx/model.engine").read_bytes()[:4] == b"vtrt"
    for command in (["check"], ["bench"], ["finish", "-o", "ready"]):
        said = attar(project, command[0], bundle, *command[1:], code=4)
        assert "no NVIDIA driver" in said
    assert "AttarError" not in said
    assert not list(project.glob("*ready*"))
    asked = opened(project / bundle)
    assert "is unfinished" in asked.stderr.splitlines()[-1]


@needs_rtx
@needs_no_gpu
def test_who_requires_all_targets_gets_exit_code_3(project: Path) -> None:
    run_target(project, "tensorrt-rtx", "fp16")
    again = run_target(project, "tensorrt-rtx", "fp16", "--require-all", code=3)
    assert tiny.made_again(again) == []
