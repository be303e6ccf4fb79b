"""Checks of ``postprocess``: steps that no bundle can hold, and steps that do not fit their output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from attar.models.checks.output_steps import check_output_steps
from attar.models.checks.task import check_task
from attar.models.postprocess import Detokenize
from attar.models.preprocess import Scale
from attar.models.task import Output
from attar.models.tasks.numbers import SIZE, TOKENIZER, Numbers
from attar.pipeline.core.errors import StageError
from tests.support.tasks.words import saved


class Spoken(Numbers):
    """Numbers whose words are answered."""

    postprocess: ClassVar[Mapping[str, Sequence[Any]]] = {"words": [Detokenize(file=TOKENIZER)]}


def test_steps_that_fit() -> None:
    check_output_steps(Numbers())
    check_output_steps(Spoken())


def test_a_task_is_checked_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoken, "postprocess", {"words": [Detokenize(file=TOKENIZER, end=1)]})
    with pytest.raises(StageError, match=r"Spoken\.postprocess.*end = 1"):
        check_task(Spoken())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"word": [Detokenize(file=TOKENIZER)]}, "'words'"),
        ({"words": [Scale(by=2.0)]}, "Scale"),
        ({"words": [Detokenize(file=TOKENIZER, end=1)]}, "end = 1"),
        ({"words": [Detokenize(file=Path("elsewhere.json"))]}, r"elsewhere\.json"),
    ],
)
def test_steps_that_do_not_fit(steps: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoken, "postprocess", steps)
    with pytest.raises(StageError, match=message):
        check_output_steps(Spoken())


def test_another_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "words.json")
    monkeypatch.setattr(Spoken, "postprocess", {"words": [Detokenize(file=file)]})
    monkeypatch.setattr(Spoken, "data", lambda self: [file])
    check_output_steps(Spoken())  # an output may have more tokens than there are texts for
    monkeypatch.setattr(Spoken, "outputs", {"words": Output(("batch", 16), kind="tokens", size=9)})
    with pytest.raises(StageError, match=r"10 tokens.*size = 9"):
        check_output_steps(Spoken())


def test_logits_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spoken, "outputs", {"words": Output(("batch", SIZE))})
    with pytest.raises(StageError, match="logits"):
        check_output_steps(Spoken())
