"""The recipe `translate-small`, from Debian's texts to a bundle: cut to 2,000 pairs, and whole at night."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import attar
from attar.models.tasks.translate import Translate, TranslateTiny
from attar.pipeline.core.errors import StageError
from attar.pipeline.run import Record
from attar.proof.verdicts.verdict_json import verdict_from_json
from attar.recipes.workspace import choose_exit_code, open_workspace
from attar.stages.slots import SLOTS
from tests.support.datasets.promised import missing

TEXTS = os.environ.get("ATTAR_DATA")
"""The texts, if they are there when the tests begin; else they are fetched."""
CUT = (
    'task = "attar.models.tasks.translate:TranslateTiny"',
    "teacher.epochs = 12",
    "teacher.batch = 32",
    "teacher.options.width = 64",
    "teacher.options.hidden = 128",
    "teacher.options.encoder = 2",
    "student.epochs = 8",
    "student.batch = 32",
    "student.options.width = 48",
    "student.options.hidden = 96",
    "student.options.encoder = 1",
    "targets.cpu.repeats = 20",
    "targets.cpu.seconds = 0.05",
    "gates.score_drop = 100.0",
    "gates.hops.score_drop = 100.0",
    "gates.correlation = 0.0",
    "gates.agreement = 0.0",
    "gates.endless = 1.0",
    "gates.teacher_score = 0.0",
)
"""So few sentences teach hardly a word: what is looked at is that every part does its work."""
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module", autouse=True)
def _texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_DATA", TEXTS or str(tmp_path_factory.mktemp("texts")))
        try:
            Translate().fetch()
        except StageError as error:
            missing("debian-translations", str(error))
        yield


def run_recipe(store: Path, overrides: Sequence[str] = ()) -> dict[str, Record]:
    records = list(open_workspace("translate-small", SLOTS, store, overrides).run.walk())
    assert choose_exit_code(records) == 0, [record.error for record in records if record.error]
    return {record.slot: record for record in records}


def translate(bundle: Path, texts: Sequence[str]) -> list[str]:
    with attar.open(bundle) as model:
        outputs = model(model.preprocess({"text": np.array(texts)}))
        translated: list[str] = model.postprocess(outputs)["translation"].tolist()
    return translated


@pytest.mark.timeout(900)
def test_a_cut_of_it_becomes_a_bundle_that_translates(tmp_path: Path) -> None:
    records = run_recipe(tmp_path / "store", CUT)
    assert len(TranslateTiny().split("train")) == 2000
    translated = translate(Path(str(records["cpu.bundle"].path)), ["This package contains the documentation."])
    assert [type(text) for text in translated] == [str]


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_the_whole_recipe_keeps_all_of_its_promises(tmp_path: Path) -> None:
    records = run_recipe(tmp_path / "store")
    verdict = verdict_from_json(records["cpu.verdict"].facts)
    assert {gate.verdict for gate in verdict.gates} == {"passed"}
    translated = translate(Path(str(records["cpu.bundle"].path)), ["This package contains the documentation."])
    assert "documentazione" in translated[0]
