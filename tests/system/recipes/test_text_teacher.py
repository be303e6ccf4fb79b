"""A program that only translates teaches a network that generates: from rules to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attar
from attar.pipeline.run import Record
from attar.proof.hop import HOPS
from attar.proof.ledger.ledger import Ledger
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.formats.terminal import render_ledger
from attar.recipes.workspace import choose_exit_code, open_workspace
from attar.stages.slots import SLOTS
from tests.support.tasks.number_words import SPELL, TASK

RECIPE = f"""
task = "{TASK}"

[teacher]
function = "{SPELL}"

[answers]
views = 1

[student]
network = "attar.models.networks.translation:translator"
options = {{ size = 41, width = 32, encoder = 1, decoder = 1, hidden = 48, longest = 16, dropout = 0.0 }}
epochs = 4
batch = 16
learning_rate = 0.01
lambda_kd = 0.9
losses = [{{ kind = "sequence" }}]

[onnx]
exporter = "torchscript"

[targets.cpu]
precision = "int8-weights"
repeats = 20
seconds = 0.05

[gates]
score_drop = 1.0
agreement = 0.3
endless = 1.0
teacher_score = 0.97
leak = 1.0
hops = {{ score_drop = 0.1 }}
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TAUGHT = [hop for hop in HOPS if hop not in ("teacher", "reference", "control", "production")]


def run(folder: Path, *overrides: str) -> list[Record]:
    recipe = folder / "spell.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return list(open_workspace(str(recipe), SLOTS, folder / "store", overrides).run.walk())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spell")


@pytest.fixture(scope="module")
def records(folder: Path) -> list[Record]:
    records = run(folder)
    assert choose_exit_code(records) == 0, [record.error for record in records if record.error]
    return records


def find(records: list[Record], slot: str) -> Record:
    return next(record for record in records if record.slot == slot)


@pytest.fixture(scope="module")
def ledger(records: list[Record]) -> Ledger:
    return ledger_from_json(find(records, "cpu.evidence").facts)


def test_the_student_is_compared_with_what_the_teacher_says(ledger: Ledger) -> None:
    assert set(ledger.hops) == {"teacher", *TAUGHT}
    for hop in TAUGHT:
        measured = ledger.hops[hop]
        assert measured.get_value("teacher", "correlation") is None
        assert measured.get_value("teacher", "kdl") is None
        assert 0.3 < float(str(measured.get_value("teacher", "agreement"))) <= 1
        assert measured.get_value("teacher", "identical") is not None
    assert ledger.hops["teacher"].get_score() == 1
    assert not ledger.hops["teacher"].latencies


def test_conversions_are_compared_along_the_teacher_s_tokens(ledger: Ledger) -> None:
    for hop in ("onnx", "model", "engine"):
        divergence = ledger.hops[hop].get_value("previous", "kdl")
        assert divergence is not None
        assert divergence < 0.05
        assert ledger.hops[hop].get_value("previous", "largest_difference") is not None
        assert ledger.hops[hop].get_value("previous", "correlation") is None


def test_every_report_says_what_was_not_measured_and_why(records: list[Record]) -> None:
    said = f"CORR and KDL with the teacher were not measured: {SPELL} only translates"
    assert said in find(records, "cpu.verdict").facts["summary"]
    assert said in render_markdown(records, "spell").replace("\\", "")
    assert said in render_html(records, "spell")
    render_ledger(records)


def test_the_bundle_spells_what_it_learned(records: list[Record]) -> None:
    with attar.open(Path(str(find(records, "cpu.bundle").path))) as model:
        outputs = model(model.preprocess({"digits": np.array(["200"])}))
        assert "cent" in model.postprocess(outputs)["words"][0]


@pytest.mark.parametrize("gate", ["correlation = 0.9", "kdl = 0.5", "speedup = 2.0"])
def test_what_cannot_be_measured_cannot_be_promised(records: list[Record], folder: Path, gate: str) -> None:
    name = gate.split()[0]
    verdict = find(run(folder, f"gates.{gate}"), "cpu.verdict")
    assert f"the gate '{name}'" in str(verdict.error)
    assert f"{SPELL} only translates; remove it from [gates]" in str(verdict.error)
