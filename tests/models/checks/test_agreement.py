"""A teacher that reads other inputs than its student: two tasks that are one problem, or are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from attar.models.checks import agreement
from attar.models.preprocess import Scale, Step
from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks import numbers as spelling
from attar.pipeline.core.errors import RecipeError, StageError
from attar.pipeline.recipe.recipe import load_recipe
from attar.pipeline.recipe.schema import build_schema
from attar.pipeline.recipe.slot import Slot
from attar.stages.artifacts import Weights
from attar.stages.distill.live_features import require_layers
from attar.stages.label.stage import Label, check_teacher_inputs
from attar.stages.slots import SLOTS
from tests.support.projects import tiny
from tests.support.projects.toy import Tasked
from tests.support.tasks.sequences import Reversal
from tests.support.tasks.smoke import DIGITS, ThreeNumbers, artifact

TASK = (
    tiny.TASK.replace("class Circle(attar.Task):", "class Problem(attar.Task):").replace("    ranges =", "    ranges: dict =")
    + """
class Circle(Problem):
    '''As the student reads it.'''

class Doubled(Problem):
    '''As the teacher reads it: half the coordinates, under the same name.'''
    preprocess = {"point": [Scale(by=0.5)]}
"""
).replace("import attar\n", "import attar\nfrom attar.models.preprocess import Scale\n")
RECIPE = tiny.RECIPE.replace("[teacher]\n", '[teacher]\ntask = "task.py:Doubled"\n').replace("int8", "fp32")


class Halved(ThreeNumbers):
    """The same numbers, prepared otherwise."""

    preprocess = {"x": [Scale(by=0.5)]}


class Integers(ThreeNumbers):
    inputs = {"x": Tensor("int64", ("batch", 3))}


class NamedNumbers(ThreeNumbers):
    classes = ("a", "b")


class OtherOutput(ThreeNumbers):
    outputs = {"y": Output(("batch", 2), kind="values")}


class Fewer(ThreeNumbers):
    def split(self, name: SplitName) -> Split:
        return InMemory({"x": self.numbers()[: 50 if name == "test" else 100]}, {})


class ReversedNumbers(ThreeNumbers):
    def split(self, name: SplitName) -> Split:
        return InMemory({"x": self.numbers()[::-1]}, {})


class ShakenNumbers(ThreeNumbers):
    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"x": np.asarray(inputs["x"]) + generator.standard_normal(3).astype(np.float32)}


@pytest.mark.parametrize("teacher", [ThreeNumbers, Halved, Integers])
def test_inputs_and_their_preparation_may_differ(teacher: type[Task]) -> None:
    agreement.check_agreement(ThreeNumbers(), teacher())


@pytest.mark.parametrize(
    ("teacher", "difference"),
    [
        (NamedNumbers, "['a', 'b'], the student's: []"),
        (OtherOutput, "{'y': ('values', ['batch', 2])}, the"),
        (Fewer, "50 samples, the student's 100"),
        (ReversedNumbers, "samples of train"),
        (ShakenNumbers, "`augment`"),
    ],
)
def test_another_problem_is_refused_with_what_differs(teacher: type[Task], difference: str) -> None:
    with pytest.raises(StageError, match=re.escape(difference)):
        agreement.check_agreement(ThreeNumbers(), teacher())


def test_the_same_inputs_are_those_that_a_network_gets() -> None:
    assert agreement.same_inputs(ThreeNumbers(), ReversedNumbers())
    assert not agreement.same_inputs(ThreeNumbers(), Halved())
    assert not agreement.same_inputs(ThreeNumbers(), Integers())


def test_a_teacher_kept_from_another_task_is_not_asked(tmp_path: Path) -> None:
    kept = artifact(Weights, tmp_path, {"task": "tests.models.checks.test_agreement:Halved"})
    with pytest.raises(StageError, match=r"'tests.models.checks.test_agreement:Halved'"):
        check_teacher_inputs(ThreeNumbers(), kept)


def test_layers_cannot_be_compared_where_the_inputs_differ(tmp_path: Path) -> None:
    require_layers(ThreeNumbers(), artifact(Weights, tmp_path, {"task": "tests.support.tasks.smoke:ThreeNumbers"}))
    with pytest.raises(StageError, match=r"test_agreement:Halved, .*ThreeNumbers"):
        require_layers(ThreeNumbers(), artifact(Weights, tmp_path, {"task": "tests.models.checks.test_agreement:Halved"}))


def recipe(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


def test_only_a_slot_that_says_so_has_a_task_of_its_own_and_what_is_like_it(tmp_path: Path) -> None:
    table = (Slot("one", Tasked, own_task=True), Slot("two", Tasked, like=("one",)), Slot("three", Tasked))
    other = "attar.models.tasks.fashion:FashionMnist"
    made = load_recipe(recipe(tmp_path, f"task = {DIGITS!r}\n[one]\ntask = {other!r}"), table).pipeline.slots
    assert [made[name].stage.task for name in made] == [other, other, DIGITS]  # type: ignore[attr-defined]  # of Tasked
    with pytest.raises(RecipeError, match=r"three\.task: .*\[one\]"):
        load_recipe(recipe(tmp_path, f"task = {DIGITS!r}\n[three]\ntask = {other!r}"), table)


def test_the_answers_are_the_teacher_s_task_s(tmp_path: Path) -> None:
    text = f"task = {DIGITS!r}\n[student]\nnetwork = 'attar.models.networks.mobile:mobile'\n[teacher]\ntask = {DIGITS!r}\n"
    made = load_recipe(recipe(tmp_path, text + "network = 'attar.models.networks.residual:residual'"), SLOTS).pipeline.slots
    assert isinstance(made["answers"].stage, Label)
    assert made["answers"].stage.task == DIGITS


@pytest.mark.slow
@pytest.mark.timeout(0)  # a machine that is busy may take any time for a run of every slot
def test_every_hop_is_asked_in_its_own_task_and_the_student_s_preparation_costs_no_answers(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    tiny.write(folder, task=TASK, recipe=RECIPE)
    first = tiny.call_run(folder)
    facts = {name: tiny.entry(first, name)["facts"] for name in tiny.SLOTS}
    read = {name: facts[name]["task"] for name in ("teacher", "reference", "answers", "student", "onnx", "cpu.engine")}
    assert read == {name: f"task.py:{'Doubled' if name in ('teacher', 'reference', 'answers') else 'Circle'}" for name in read}
    hops = {hop["hop"]: hop for hop in facts["cpu.evidence"]["hops"]}
    assert hops["reference"]["teacher"]["correlation"] > 0.9999
    assert hops["teacher"]["score"] > 0.9
    as_student = "'''As the student reads it.'''"
    changed = TASK.replace(as_student, as_student + '\n    preprocess = {"point": [Scale(by=3.0)]}')
    (folder / "task.py").write_text(changed)
    second = tiny.read_run(tiny.call(folder, "distill", "recipe.toml", "--json"), 0)
    reused = {name: status for name, status in tiny.statuses(second).items() if name in ("teacher", "reference", "answers")}
    assert set(reused.values()) == {"reused"}
    assert tiny.statuses(second)["student"] == "made"


def test_the_schema_shows_a_task_where_one_may_be_written() -> None:
    sections = build_schema(SLOTS)["properties"]
    assert "task" in sections["teacher"]["properties"]
    assert not any("task" in sections[name]["properties"] for name in ("answers", "student", "reference"))


class OtherTokens(Reversal):
    outputs = {"words": replace(Reversal.outputs["words"], size=9)}


class OtherGrowth(Reversal):
    outputs = {"words": replace(Reversal.outputs["words"], growth=(2, 1))}


class OtherWords(Reversal):
    postprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"words": spelling.Numbers.postprocess["words"]}


@pytest.mark.parametrize(
    ("task", "named"), [(OtherTokens, "'size': 9"), (OtherGrowth, "'growth': (2, 1)"), (OtherWords, "postprocess")]
)
def test_tokens_that_mean_something_else(task: type[Reversal], named: str) -> None:
    with pytest.raises(StageError, match=re.escape(named)):
        agreement.check_agreement(Reversal(), task())
