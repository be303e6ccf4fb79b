"""Contenders: who is compared, how each is built, and in which environment it is built and run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import NNCF, OLIVE, OURS, STOCK, Environment, UnavailableError
from benchmarks.peers.process import ProcessCost, run_build

BATCHES = (1, 32)


@dataclass(frozen=True)
class Given:
    """What every contender starts from, as files in one folder."""

    folder: Path
    samples: int
    cache: Path
    """Where the environments are."""

    @property
    def student(self) -> Path:
        """The student in ONNX, fp32."""
        return self.folder / "student.onnx"

    @property
    def weights(self) -> Path:
        """The facts and the folder of its weights."""
        return self.folder / "student.json"

    @property
    def slots(self) -> Path:
        """The facts and the folders of the slots that attar's own stages read."""
        return self.folder / "slots.json"

    def find_inputs(self, name: str | int) -> Path:
        """Return the file of ``calibration``, ``validation``, ``test``, or a batch to be timed."""
        return self.folder / f"{name}.npz"


@dataclass(frozen=True)
class Built:
    """``file`` is what the worker opens, ``size`` the bytes that answering needs; ``cost`` is None
    for what needs no build."""

    file: Path
    size: int
    cost: ProcessCost | None = None


@dataclass(frozen=True)
class Contender:
    name: str
    environment: Environment
    kind: str
    """What opens it: see ``worker``."""
    int8: bool = False
    script: str | None = None
    """What builds it; None opens the student as it is."""
    target: Mapping[str, Any] = field(default_factory=dict)
    """attar's own: a target's keys."""

    @property
    def ours(self) -> bool:
        return bool(self.target)

    def build_engine(self, given: Given) -> Built:
        """Build from nothing, in an empty folder. Raises UnavailableError when it cannot be had
        here."""
        out = given.folder / self.name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if self.ours:
            return self.build_target(given, out)
        if self.environment is OURS:
            return self.build_module(given, out)
        if self.script is None:
            return Built(given.student, given.student.stat().st_size)
        arguments = [
            str(path.resolve()) for path in (given.student, given.find_inputs("calibration"), out)
        ]
        cost = run_build(self.environment, given.cache, self.script, arguments, out / "build.log")
        made = [
            path
            for path in out.glob("model.*")
            if path.suffix in (".onnx", ".xml", ".bin", ".data")
        ]
        if not made:
            raise UnavailableError(f"{self.script} wrote no model")
        return Built(
            next(path for path in made if path.suffix in (".onnx", ".xml")), sum_sizes(made), cost
        )

    def build_target(self, given: Given, out: Path) -> Built:
        arguments = [str(given.slots), str(given.samples), str(out), json.dumps(dict(self.target))]
        cost = run_build(OURS, given.cache, "build_attar", arguments, out / "build.log")
        root = Path(json.loads((out / "engine.json").read_text())["root"])
        return Built(
            out / "engine.json",
            sum_sizes([path for path in root.rglob("*") if path.is_file()]),
            cost,
        )

    def build_module(self, given: Given, out: Path) -> Built:
        file, cost = out / "student.json", None
        shutil.copyfile(given.weights, file)
        if self.script:
            arguments = [
                self.kind,
                str(file),
                *(str(given.find_inputs(batch)) for batch in BATCHES),
            ]
            cost = run_build(OURS, given.cache, self.script, arguments, out / "build.log")
        weights = Path(json.loads(file.read_text())["root"]) / "weights.safetensors"
        return Built(file, weights.stat().st_size, cost)


def sum_sizes(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)


FLOAT = "ONNX Runtime fp32"
OLIVE_INT8 = "Olive int8"
PEERS = (
    Contender(FLOAT, STOCK, "onnxruntime"),
    Contender(
        "ONNX Runtime int8, quantize_static", STOCK, "onnxruntime", True, "build_onnxruntime"
    ),
    Contender(OLIVE_INT8, OLIVE, "onnxruntime", True, "build_olive"),
    Contender("OpenVINO fp32", NNCF, "openvino-f32"),
    Contender("OpenVINO, its own precision", NNCF, "openvino"),
    Contender("NNCF int8 in OpenVINO", NNCF, "openvino", True, "build_nncf"),
    Contender("PyTorch", OURS, "torch"),
    Contender("torch.compile", OURS, "torch-compile", script="build_torch"),
    Contender("torch.compile, freezing", OURS, "torch-frozen", script="build_torch"),
)
CANDIDATES = (
    Contender(
        "attar, ONNX Runtime int8",
        OURS,
        "attar",
        True,
        target={"precision": "int8", "runtime": "onnxruntime", "threads": 1},
    ),
    Contender(
        "attar, OpenVINO int8",
        OURS,
        "attar",
        True,
        target={"precision": "int8", "runtime": "openvino", "threads": 1},
    ),
    Contender(
        "attar, ONNX Runtime int8-dynamic",
        OURS,
        "attar",
        True,
        target={"precision": "int8-dynamic", "runtime": "onnxruntime", "threads": 1},
    ),
    Contender(
        "attar, OpenVINO bf16",
        OURS,
        "attar",
        target={"precision": "bf16", "runtime": "openvino", "threads": 1},
    ),
    Contender(
        "attar, ONNX Runtime fp32",
        OURS,
        "attar",
        target={"precision": "fp32", "runtime": "onnxruntime", "threads": 1},
    ),
)
