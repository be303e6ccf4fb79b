"""The recipe `numbers`, from the task to a bundle: cut down in seconds, and whole as a slow test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from attar.models.tasks.numbers import END, read_vocabulary, spell_number
from attar.pipeline.run import Record
from attar.proof.gate import Metric
from attar.proof.hop import HOPS
from attar.proof.ledger.ledger import Ledger
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.verdict_json import verdict_from_json
from attar.recipes.workspace import choose_exit_code, open_workspace
from attar.stages.slots import SLOTS
from tests.support.tasks.number_words import TASK

CUT = (
    f'task = "{TASK}"',
    "teacher.epochs = 4",
    "teacher.options.width = 32",
    "teacher.batch = 32",
    "teacher.learning_rate = 0.01",
    "student.epochs = 3",
    "student.options.width = 32",
    "student.learning_rate = 0.01",
    "targets.cpu.repeats = 20",
    "targets.cpu.seconds = 0.05",
    "gates.score_drop = 1.0",
    "gates.correlation = 0.0",
    "gates.agreement = 0.0",
    "gates.endless = 1.0",
    "gates.teacher_score = 0.0",
    "gates.score = 0.0",
)
"""So few samples teach little: what is looked at is that every part does its work."""
MEASURED: tuple[Metric, ...] = ("correlation", "kdl", "agreement", "identical", "score_drop")
TRANSLATED = [hop for hop in HOPS if hop not in ("control", "production")]
WITHOUT_TORCH = """
import sys
for name in ("torch", "onnx", "onnxscript", "tokenizers.trainers"):
    sys.modules[name] = None
import numpy as np
import attar
with attar.open(sys.argv[1]) as predict:
    digits = np.array(sys.argv[2:])
    print(predict(predict.preprocess({"digits": digits}))["words"].tolist())
"""


def run_recipe(store: Path, overrides: Sequence[str] = ()) -> list[Record]:
    records = list(open_workspace("numbers", SLOTS, store, overrides).run.walk())
    assert choose_exit_code(records) == 0, [record.error for record in records if record.error]
    return records


def select_record(records: Sequence[Record], slot: str) -> Record:
    return next(record for record in records if record.slot == slot)


def select_bundle(records: Sequence[Record]) -> Path:
    return Path(str(select_record(records, "cpu.bundle").path))


def open_without_torch(bundle: Path, numbers: Sequence[int]) -> list[list[int]]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(bundle), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[list[int]] = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return run_recipe(tmp_path_factory.mktemp("numbers") / "store", CUT)


@pytest.fixture(scope="module")
def ledger(cut: list[Record]) -> Ledger:
    return ledger_from_json(select_record(cut, "cpu.evidence").facts)


@pytest.mark.parametrize("hop", TRANSLATED)
def test_every_hop_is_measured_along_the_teacher_and_by_its_own_tokens(ledger: Ledger, hop: str) -> None:
    measured = ledger.hops[hop]
    values = {metric: measured.comparisons["teacher", metric].value for metric in MEASURED}
    assert all(value is not None and np.isfinite(value) for value in values.values())
    assert measured.endless_share is not None
    assert 0 <= measured.endless_share <= 1
    assert measured.loop_faults == (None if hop in ("teacher", "student") else 0)
    if hop in ("teacher", "reference"):
        assert values["identical"] == values["agreement"] == 1
        assert values["kdl"] == pytest.approx(0, abs=1e-4)
    else:
        assert 0 < float(str(values["agreement"])) < 1  # so short a training leaves some of them apart


def test_what_was_stored_is_the_evidence(cut: list[Record], ledger: Ledger) -> None:
    evidence = load_file(Path(str(select_record(cut, "cpu.evidence").path)) / "hops.safetensors")
    tokens, teacher = (evidence[f"{hop}.output.words"] for hop in ("engine", "teacher"))
    assert ledger.hops["engine"].comparisons["teacher", "identical"].value == (tokens == teacher).all(1).mean()
    assert ledger.hops["engine"].endless_share == (tokens != END).all(1).mean()
    assert sum(array.nbytes for array in evidence.values()) < 10e6


def test_golden_requests_are_the_teacher_s_tokens_and_repeated_without_torch(cut: list[Record]) -> None:
    bundle = select_bundle(cut)
    golden = load_file(bundle / "golden.safetensors")
    assert golden["engine.words"].shape == golden["teacher.words"].shape == (16, 16)
    numbers = [int(row.tobytes().strip(b"\0")) for row in golden["raw.digits:text"]]
    assert open_without_torch(bundle, numbers) == golden["engine.words"].tolist()
    assert sorted(file.name for file in (bundle / "graphs").iterdir()) == ["model.onnx", "start.onnx", "step.onnx"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_keeps_all_of_its_promises(tmp_path: Path) -> None:
    records = run_recipe(tmp_path / "store")
    verdict = verdict_from_json(select_record(records, "cpu.verdict").facts)
    assert {gate.verdict for gate in verdict.gates} == {"passed"}
    vocabulary = read_vocabulary()
    expected = [vocabulary[word] for word in spell_number(71).split()]
    assert open_without_torch(select_bundle(records), [71])[0][: len(expected) + 1] == [*expected, END]
