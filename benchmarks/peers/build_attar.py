"""attar's own engine: calibration, precision and engine, as a target's stages make them.

``python build_attar.py GIVEN SAMPLES OUT TARGET``. GIVEN holds the facts and folders of the slots
before; TARGET is a target's keys in JSON. As in a recipe, a key goes to every stage that has a
field of that name, and one that none has is an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from attar.pipeline.core.stage import Artifact, Stage
from attar.stages.artifacts import Answers, Engine, OnnxModel, Ranges, Weights
from attar.stages.build import Build
from attar.stages.calibrate import Calibrate
from attar.stages.optimize.stage import Optimize
from benchmarks.measuring import make_artifact

A = TypeVar("A", bound=Artifact)
S = TypeVar("S", bound=Stage[Any])
STAGES: tuple[type[Stage[Any]], ...] = (Calibrate, Optimize, Build)


def check_keys(target: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in target:
        if not any(key in stage.model_fields for stage in STAGES):
            raise SystemExit(f"attar has no {key} yet")
    return target


def make_stage(stage: type[S], target: Mapping[str, Any], task: str) -> S:
    try:
        return stage.model_validate(
            {"task": task}
            | {key: value for key, value in target.items() if key in stage.model_fields}
        )
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}"
            for each in error.errors()
        ]
        raise SystemExit(f"{stage.__name__} refuses {'; '.join(found)}") from error


def main() -> None:
    given, samples, out, target = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        check_keys(json.loads(sys.argv[4])),
    )
    slots = json.loads(given.read_text(encoding="utf-8"))
    task = slots["onnx"]["facts"]["task"]

    def open_slot(kind: type[A], name: str) -> A:
        return kind("", "", Path(slots[name]["root"]), slots[name]["facts"])

    onnx = open_slot(OnnxModel, "onnx")
    calibration = make_artifact(
        Ranges, out / "calibration", Calibrate(task=task, samples=samples), onnx=onnx
    )
    model = make_artifact(
        OnnxModel,
        out / "model",
        make_stage(Optimize, target, task),
        student=open_slot(Weights, "student"),
        onnx=onnx,
        calibration=calibration,
        answers=open_slot(Answers, "answers"),
    )
    engine = make_artifact(Engine, out / "engine", make_stage(Build, target, task), model=model)
    (out / "engine.json").write_text(
        json.dumps({"root": str(engine.root), "facts": dict(engine.facts)})
    )


if __name__ == "__main__":
    main()
