"""An edit of a function that decides a result makes the slot again; an edit of another does not."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.engines.calibration import ranges
from attar.engines.runtimes import onnxruntime, openvino, torch
from attar.models import rows, sample_order
from attar.pipeline.core.stage import Artifact, Stage
from attar.pipeline.keys.deciders import KeyInputs, Keys
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.store.store import Store
from attar.stages.artifacts import Answers, Engine, OnnxModel, Production, Ranges, Weights
from attar.stages.build import Build
from attar.stages.calibrate import Calibrate
from attar.stages.choose.trial import MeasureCandidates
from attar.stages.distill.stage import Distill
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.measure.stage import Measure
from attar.stages.optimize.stage import Optimize
from attar.stages.teach.stage import Teach

ROOMS = ("bundle", "engines", "models", "pipeline", "proof", "stages")
NETWORK = "attar.models.networks.mobile:mobile"
TASK = "attar.models.tasks.digits:Digits"
STAGES: dict[str, tuple[Stage[Any], dict[str, type[Artifact]]]] = {
    "teacher": (Teach(task=TASK, network=NETWORK), {}),
    "answers": (Label(task=TASK), {"teacher": Weights}),
    "answers of a graph": (Label(task=TASK), {"teacher": OnnxModel}),
    "student": (Distill(task=TASK, network=NETWORK), {"teacher": Weights, "answers": Answers}),
    "onnx": (Export(), {"weights": Weights}),
    "calibration": (Calibrate(task=TASK), {"onnx": OnnxModel}),
    "fp32": (Optimize(task=TASK), {"onnx": OnnxModel, "calibration": Ranges, "answers": Answers}),
    "int8": (
        Optimize(task=TASK, precision="int8", floor=0.9),
        {"student": Weights, "onnx": OnnxModel, "calibration": Ranges, "answers": Answers},
    ),
    "engine": (Build(task=TASK), {"model": OnnxModel}),
    "openvino": (Build(task=TASK, runtime="openvino"), {"model": OnnxModel}),
    "trials": (MeasureCandidates(task=TASK), {"answers": Answers, "onnx": OnnxModel, "c1": Engine}),
    "evidence": (
        Measure(task=TASK),
        {"teacher": Weights, "answers": Answers, "onnx": OnnxModel, "engine": Engine, "production": Production},
    ),
}

DECIDES: list[tuple[str, Callable[..., object]]] = [
    ("student", Answers.open_learned_rows),
    ("student", rows.join_rows),
    ("student", sample_order.find_places),
    ("int8", Ranges.compute_ranges),
    ("int8", Answers.open_rows),
    ("int8", ranges.compute_ranges),
    ("evidence", Weights.open),
    ("evidence", Engine.open),
    ("evidence", Production.is_same_model),
    ("evidence", torch.open_network),
    ("evidence", onnxruntime.open_session),
    ("evidence", rows.map_shard),
    ("trials", onnxruntime.open_session),
    ("trials", Answers.read_split),
    ("answers", torch.load_network),
    ("answers of a graph", onnxruntime.open_session),
    ("calibration", onnxruntime.open_session),
    ("openvino", openvino.OpenVino.build),
]
DECIDES_NOT: list[tuple[str, Callable[..., object]]] = [
    ("teacher", onnxruntime.open_session),
    ("answers", onnxruntime.open_session),
    ("answers", Answers.open_learned_rows),
    ("student", onnxruntime.open_session),
    ("onnx", Ranges.compute_ranges),
    ("fp32", Ranges.compute_ranges),
    ("engine", openvino.OpenVino.build),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms, as `attar`."""
    root = tmp_path_factory.mktemp("tree")
    for room in ROOMS:
        source = Path(__file__).parents[2] / room
        shutil.copytree(source, root / "attar" / room, ignore=shutil.ignore_patterns("__pycache__", "static"))
    return root


def decide(slot: str, tree: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> KeyInputs:
    """Return what decides the key of this slot, with the code of the copied tree."""
    stage, kinds = STAGES[slot]
    inputs = {name: kind("key", "digest", home, {}) for name, kind in kinds.items()}
    code = Fingerprint(home, tree / "code.json")
    code.modules.roots["attar"] = [tree / "attar"]
    keys = Keys(Store(home / "store"), code)
    monkeypatch.setattr(keys, "data_of", lambda task, may_import: "data")
    found = keys.deciders(stage, inputs, may_import=False)
    assert found is not None
    code.remember()
    return found


def edit(file: Path, name: str) -> None:
    """Insert a statement into a function or a method, ``Class.method``."""
    text = file.read_text(encoding="utf-8")
    nodes: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        node = next(node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part)
        nodes = node.body
    lines = text.splitlines(keepends=True)
    first = nodes[0]
    lines.insert(first.lineno - 1, f"{' ' * first.col_offset}edited = 1\n")
    file.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def restored(tree: Path) -> Iterator[Path]:
    """The tree, whose edited file gets its content back."""
    before = {file: file.read_bytes() for file in tree.rglob("*.py")}
    yield tree
    for file, content in before.items():
        if file.read_bytes() != content:
            file.write_bytes(content)


@pytest.mark.parametrize(
    ("slot", "function", "counts"),
    [(*case, True) for case in DECIDES] + [(*case, False) for case in DECIDES_NOT],
)
def test_an_edit_counts_where_the_function_is_used(
    slot: str, function: Callable[..., object], counts: bool, restored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = decide(slot, restored, tmp_path, monkeypatch)["code"]
    path = restored.joinpath(*function.__module__.split("."))
    edit(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"), function.__qualname__)
    assert (decide(slot, restored, tmp_path, monkeypatch)["code"] != before) is counts


@pytest.mark.parametrize(
    ("slot", "libraries"),
    [
        ("teacher", {"torch", "accelerate", "safetensors"}),
        ("answers of a graph", {"onnxruntime"}),
        ("onnx", {"torch", "onnx", "onnxscript", "onnxruntime", "safetensors"}),
        ("engine", {"onnxruntime"}),
        ("evidence", {"torch", "onnxruntime", "safetensors"}),
    ],
)
def test_the_libraries_that_a_stage_computes_with_count(
    slot: str, libraries: set[str], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert libraries <= decide(slot, tree, tmp_path, monkeypatch)["libraries"].keys()
