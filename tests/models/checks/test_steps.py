"""What is wrong with a task's steps is said before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from attar.models.checks import steps as step_check
from attar.models.checks import task as task_check
from attar.models.preprocess import Scale, Step, Tokenize
from attar.models.preprocess.step import Array
from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys.fingerprint import Fingerprint
from tests.support.tasks.words import PAD, WORDS, saved


def texts(tokenizer: Path, *, tensor_pad: int = PAD, listed: bool = True, steps: Any = None) -> Task:
    class SunnyTexts(Task):
        """Does a text name the sun? Every text occurs once."""

        inputs = {"tokens": Tensor("int64", ("batch", "sequence"), high=10, pad=tensor_pad)}
        outputs = {"logits": Output(("batch", 2), target="sunny")}
        ranges = {"batch": (1, 8), "sequence": (1, 6)}
        preprocess = steps or {"tokens": [Tokenize(file=tokenizer, length=6)]}

        def data(self) -> Sequence[Path | str]:
            return ["texts, version 1", *([tokenizer] if listed else [])]

        def split(self, name: SplitName) -> Split:
            return split(name)

        def score(self, outputs: Arrays, targets: Arrays) -> Any:
            return hits(outputs["logits"], targets["sunny"])

    return SunnyTexts()


def split(name: str, kind: Any = object) -> Split:
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(WORDS, 1 + i % 5)) + f" {name}{i}" for i in range(40)]
    return InMemory({"tokens": np.array(lines, kind)}, {"sunny": np.array([int("sun" in line) for line in lines])})


class Own(Step):
    step: Literal["own"] = "own"

    def __call__(self, x: Array) -> Array:
        return x


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "words.json")


def test_a_task_of_texts_is_sound(file: Path) -> None:
    task_check.check_task(texts(file))


@pytest.mark.parametrize("kind", [object, "U80"])
def test_a_text_that_is_in_test_and_train_is_noticed_in_any_kind_of_array(
    file: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = texts(file)
    monkeypatch.setattr(task, "split", lambda name: split("test", kind) if name == "train" else split(name))
    with pytest.raises(StageError, match=r"40 of 40 .* train split"):
        task_check.check_task(task)


def test_a_file_that_data_does_not_list(file: Path) -> None:
    with pytest.raises(StageError, match=r"SunnyTexts\.preprocess .*SunnyTexts\.data\(\)"):
        step_check.check_steps(texts(file, listed=False))


def test_another_pad_than_the_tokenizer_s(file: Path) -> None:
    with pytest.raises(StageError, match=r"\['tokens'\] .*pad=0, .*pad=9"):
        step_check.check_steps(texts(file, tensor_pad=0))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"tokens": [Own()]}, r"\['tokens'\] holds Own,"),
        ({"tokens": [abs]}, "builtin_function_or_method"),
        ({"token": [Scale(by=1)]}, r"'token', .*'tokens'"),
    ],
)
def test_what_no_bundle_could_hold(file: Path, steps: Mapping[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        step_check.check_steps(texts(file, steps=steps))


def test_who_tokenizes_depends_on_the_tokenizer_s_library_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from attar.models.preprocess import Tokenize\nSTEPS = [Tokenize(file='a', length=1)]\n")
    code = Fingerprint(tmp_path)
    assert "tokenizers" in code.of(["own:STEPS"]).packages
    others = code.of(["attar.stages.teach.stage:Teach", "attar.models.tasks.digits:Digits"])
    assert "attar.models.checks.steps:check_steps" in others.definitions
    assert not others.packages.keys() & {"tokenizers", "pillow"}
