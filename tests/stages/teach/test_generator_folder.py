"""A Hugging Face encoder-decoder as the teacher of a network that generates: adopted, labelled, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.models.task import Output
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.measure.stored import check_answers
from attar.stages.teach.pretrained import GENERATOR, check_vocabulary
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.sequences import LONGEST, REVERSAL, SIZE, Reversal, change_task
from tests.support.tasks.smoke import artifact
from tests.support.tasks.translators import KINDS, make_generator, save_folder


def teach(root: Path, kind: str, **given: Any) -> Weights:
    save_folder(kind, root / "folder")
    settings: dict[str, Any] = {"task": REVERSAL, "network": GENERATOR, "options": {"begin": 1}, "device": "cpu"}
    out = make_out(root / "teacher")
    return artifact(Weights, out, Teach(**{**settings, **given, "huggingface": root / "folder"}).run(out))


@pytest.mark.parametrize("kind", KINDS)
def test_its_answers_are_stored_and_are_its_own(tmp_path: Path, kind: str) -> None:
    teacher, out = teach(tmp_path, kind), make_out(tmp_path / "answers")
    answers = artifact(Answers, out, Label(task=REVERSAL, views=1, beam=2, device="cpu").run(out, teacher=teacher))
    check_answers(Reversal(), teacher, answers)
    assert teacher.facts["history"] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_it_is_exported_with_its_loop(tmp_path: Path, kind: str, exporter: Any) -> None:
    """``Export`` proves parity of tokens and logits at every promised size."""
    facts = Export(exporter=exporter).run(make_out(tmp_path), weights=teach(tmp_path, kind))
    assert facts["graphs"] == ["start", "step", "model"]
    assert facts["difference"] < 1e-2


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"size": SIZE + 1}, "size = 7, not 8"), ({"begin": 3}, "begin = 1, not 3"), ({"end": 4}, "end = 2, not 4")],
)
def test_a_vocabulary_that_is_not_the_task_s_is_named(changed: dict[str, Any], named: str) -> None:
    output = Output(("batch", LONGEST), kind="tokens", target="words", **{"size": SIZE, **changed})
    with pytest.raises(StageError, match=named):
        check_vocabulary(make_generator("t5"), change_task(outputs={"words": output}), Path("folder"))


def test_sequences_beyond_its_places_are_refused() -> None:
    output = Output(("batch", 17), kind="tokens", target="words", size=SIZE)
    with pytest.raises(StageError, match="16 tokens, Changed allows 17"):
        check_vocabulary(make_generator("marian"), change_task(outputs={"words": output}), Path("folder"))


def test_a_classifier_is_told_which_network_generates(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=GENERATOR):
        teach(tmp_path, "t5", network="attar.models.networks.huggingface:encoder", options={})
