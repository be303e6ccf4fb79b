"""The recipes of kinds of output beside one class a sample, whole, to a bundle that is opened without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from attar.proof.verdicts.verdict_json import verdict_from_json
from attar.recipes.workspace import choose_exit_code, open_workspace
from attar.stages.slots import SLOTS

WITHOUT_TORCH = """
import json, sys
for name in ("torch", "onnx", "sklearn"):
    sys.modules[name] = None
import attar
from safetensors.numpy import load_file
golden = load_file(sys.argv[1] + "/golden.safetensors")
with attar.open(sys.argv[1]) as predict:
    answers = predict(predict.preprocess({"image": golden["raw.image"]}))
print(json.dumps({name: float(abs(array - golden["engine." + name]).max()) for name, array in answers.items()}))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["attributes", "pixels"])
def test_the_recipe_keeps_all_of_its_promises(tmp_path: Path, recipe: str) -> None:
    records = {record.slot: record for record in open_workspace(recipe, SLOTS, tmp_path / "store").run.walk()}
    assert choose_exit_code(list(records.values())) == 0, [each.error for each in records.values() if each.error]
    verdict = verdict_from_json(records["cpu.verdict"].facts)
    assert {gate.verdict for gate in verdict.gates} == {"passed"}
    bundle = str(records["cpu.bundle"].path)
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, bundle], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout).values()) < 1e-3
    assert load_file(Path(bundle) / "golden.safetensors")["raw.image"].shape[0] == 16
