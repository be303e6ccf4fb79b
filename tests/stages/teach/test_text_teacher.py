"""A teacher that only translates: adopted, asked, and never said to be more certain than it told."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.engines.runtimes.torch import PREFIX
from attar.models import views
from attar.models.postprocess import Detokenize
from attar.models.task import Output
from attar.models.tasks.numbers import END, TOKENIZER, Numbers, encode_words
from attar.models.text_function import TextFunction, make_text_task
from attar.pipeline.core.errors import AttarError, RecipeError, StageError
from attar.pipeline.core.names import load_object
from attar.pipeline.keys.deciders import list_code_names
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.stages.artifacts import Answers, Model, OnnxModel, TextProgram
from attar.stages.choose.speeds import TimeEngines
from attar.stages.distill.feature_loss_settings import AnyLoss
from attar.stages.distill.sequence_loss_settings import SequenceLoss, TopPearsonLoss, WordLoss
from attar.stages.distill.sequence_objective import SequenceObjective
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.learning.lesson import send_lesson
from attar.stages.measure.stored import check_answers
from attar.stages.measure.teacher_path import TeacherPath
from attar.stages.teach.stage import ADOPT_FUNCTION, Teach
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out
from tests.support.tasks import number_words, smoke
from tests.support.tasks.number_words import SPELL, TASK, FewNumbers
from tests.support.tasks.sequences import change_task


def adopt(function: str = SPELL, task: str = TASK) -> dict[str, Any]:
    return dict(Teach(task=task, function=function).run(Path("nowhere")))


def make_program(function: str = SPELL) -> TextProgram:
    return smoke.artifact(TextProgram, Path("nowhere"), {"task": TASK, "function": function})


def name_function(name: str) -> str:
    return f"{number_words.__name__}:{name}"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    out = make_out(tmp_path_factory.mktemp("answers"))
    return smoke.artifact(Answers, out, Label(task=TASK, views=1).run(out, teacher=make_program()))


def test_a_function_is_adopted_with_its_score_on_validation() -> None:
    facts = adopt()
    assert facts == {
        "task": TASK,
        "function": SPELL,
        "device": "cpu",
        "score": 1.0,
        "history": [],
        "best_epoch": 0,
    }
    assert type(Model.create("key", "digest", Path("nowhere"), facts)) is TextProgram


def test_its_task_reads_raw_texts_and_its_answers_are_tokens() -> None:
    program = make_program()
    batch = program.load_task().split("test").take(np.arange(5))
    with program.open() as predict:
        tokens = predict(batch.inputs)["words"]
    numbers = [int(text) for text in batch.inputs["digits"]]
    assert tokens.tolist() == encode_words(numbers).tolist() == batch.targets["words"].tolist()


def test_answers_hold_its_tokens_and_no_probabilities(answers: Answers) -> None:
    rows = answers.open_rows("train", 0)
    assert list(rows) == ["words"]
    expected = FewNumbers().split("train").take(np.arange(len(rows["words"]))).targets["words"]
    longest = rows["words"][:].shape[1]
    assert np.nan_to_num(rows["words"][:]).tolist() == expected[:, :longest].tolist()
    assert answers.why_opaque == f"{SPELL} only translates"


def test_its_path_is_described_by_its_tokens_alone(answers: Answers) -> None:
    path = TeacherPath.read(FewNumbers(), answers, "test")
    assert path is not None
    assert path.top is None
    said = path.describe_teacher()
    assert said.shape == (160, (path.tokens == END).argmax(1).max() + 1, 1)
    np.testing.assert_array_equal(np.nan_to_num(said[..., 0]), path.tokens[:, : said.shape[1]])
    assert np.isnan(said[..., 0]).sum(1).tolist() == (path.tokens[:, : said.shape[1]] == 0).sum(1).tolist()


def test_another_program_s_answers_are_found_out(answers: Answers) -> None:
    program = make_program()
    check_answers(program.load_task(), program, answers)
    other = make_program(name_function("shift"))
    with pytest.raises(StageError, match="translates 32 of 32 texts of test otherwise now"):
        check_answers(other.load_task(), other, answers)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drop_last", "returned a list of 7 for 8 texts, the first .*; it must return a list with one"),
        ("join", "returned a str for 8 texts"),
        ("count", r"as \d+, which is no text; return at least a word"),
        ("keep_silent", "as ' ', which is no text"),
        ("fail", r"raised ConnectionError: the service is away for 8 texts, .*number_words.py:\d+, in fail"),
        ("ramble", r"has 16 tokens and its end, at most \d+ are allowed; give 'words' more columns"),
        ("speak_english", "as 'seven', which holds what numbers.tokenizer.json has no token for"),
        ("say_end", "holds what numbers.tokenizer.json has no token for"),
        ("shift", "otherwise alone than among 8 texts"),
        ("waver", "or the second time"),
        ("Speller", "must be a function that takes a list of texts"),
        ("CONSTANT", "'no function'; it must be a function"),
    ],
)
def test_what_is_no_translation_is_told(name: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        adopt(name_function(name))


def test_a_text_that_is_no_unicode_is_told() -> None:
    with pytest.raises(AttarError, match="half of a surrogate pair"):
        adopt(name_function("break_surrogates"))


def test_a_translation_is_as_long_as_its_source_allows() -> None:
    """`7` may have 2 * 1 + 6 tokens, of which the end is one."""
    function = TextFunction("say", lambda texts: [" ".join(["sept"] * 7) for _ in texts], Numbers())
    tokens = function({"digits": np.array(["7"])})["words"]
    assert (tokens[0] != 0).sum() == 8
    longer = TextFunction("say", lambda texts: [" ".join(["sept"] * 8) for _ in texts], Numbers())
    with pytest.raises(StageError, match="8 tokens and its end, at most 8"):
        longer({"digits": np.array(["7"])})


class TwoInputs(FewNumbers):
    inputs = {**FewNumbers.inputs, "other": FewNumbers.inputs["digits"]}


class NoTexts(FewNumbers):
    preprocess = {}


class NoDetokenizer(FewNumbers):
    postprocess = {}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TwoInputs, "reads digits, other, and a function of texts needs one input"),
        (NoTexts, "which attar.Tokenize makes of texts"),
        (NoDetokenizer, "has no attar.Detokenize for 'words'"),
    ],
)
def test_a_task_that_is_not_of_texts_is_told(task: type[Numbers], message: str) -> None:
    with pytest.raises(StageError, match=message):
        make_text_task(task())


def test_a_task_without_tokens_is_told() -> None:
    task = change_task(FewNumbers, outputs={"words": Output(("batch", 3))})
    with pytest.raises(StageError, match="no output of kind 'tokens'"):
        make_text_task(task)


@pytest.mark.parametrize("settings", [{"top": 8}, {"along": "labels"}, {"beam": 4}, {"beam": 4, "hypothesis": "closest"}])
def test_answers_cannot_ask_for_what_it_does_not_tell(settings: dict[str, Any], tmp_path: Path) -> None:
    label = Label(task=TASK, **settings)
    with pytest.raises(StageError, match=r"only translates: .* leave top, along, beam and hypothesis out"):
        label.run(make_out(tmp_path), teacher=make_program())


def test_another_tokenizer_makes_the_tokens_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts that the program reads are the same, and so is what it returns."""
    out = make_out(tmp_path)
    label_with(make_program(), out, views=1)
    content = json.loads(TOKENIZER.read_text("utf-8"))
    words = content["model"]["vocab"]
    words["un"], words["deux"] = words["deux"], words["un"]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content), "utf-8")
    monkeypatch.setattr(FewNumbers, "postprocess", {"words": [Detokenize(file=file, end=END)]})
    monkeypatch.setattr(FewNumbers, "data", lambda task: [TOKENIZER, file])
    for folder in (out, out.parent / "scratch"):
        shutil.rmtree(folder)
    stored = label_with(make_program(), make_out(tmp_path), views=1).read_split("test")["words"]
    with make_program().open() as predict:
        said = predict(FewNumbers().split("test").take(np.arange(len(stored))).inputs)["words"]
    assert np.nan_to_num(stored).tolist() == np.asarray(said)[:, : stored.shape[1]].tolist()


def test_answers_have_no_precision(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="leave precision out"):
        Label(task=TASK, precision="bf16").run(make_out(tmp_path), teacher=make_program())


@pytest.mark.parametrize("loss", [WordLoss(), TopPearsonLoss()])
def test_a_loss_of_probabilities_is_refused(answers: Answers, loss: AnyLoss) -> None:
    objective = SequenceObjective(0.9, [SequenceLoss(), loss], answers)
    with pytest.raises(StageError, match=f"the loss {loss.kind} learns .*'sequence'"):
        objective.check_task(FewNumbers())


def test_its_tokens_are_learned_as_labels_are(answers: Answers) -> None:
    """A student without an idea has the loss log(41) at each token, here twice."""
    task, objective = FewNumbers(), SequenceObjective(1.0, [SequenceLoss(weight=2)], answers)
    objective.check_task(task)
    batch = views.make_chunk(task, task.split("train"), 0, view=0).take(np.arange(4))
    lesson = send_lesson(objective.read_lesson(task, batch, 0), torch.device("cpu"))
    labels = batch.targets["words"]
    assert lesson.parts["answers", "words"].tolist() == labels[labels != 0].tolist()
    logits = torch.zeros(*lesson.inputs[PREFIX].shape, 41)
    assert float(objective(task, {"words": logits}, lesson)) == pytest.approx(2 * math.log(41))


def test_it_has_no_reference(tmp_path: Path) -> None:
    assert Export().run(tmp_path, weights=make_program()) == {"off": True}


def test_no_search_is_timed_beside_a_reference_that_is_not_there() -> None:
    absent = smoke.artifact(OnnxModel, Path("nowhere"), {"off": True})
    with pytest.raises(StageError, match="a teacher that only translates has none; search with"):
        TimeEngines(task=TASK).run(Path("nowhere"), reference=absent)


def test_a_recipe_names_one_teacher_and_an_existing_function() -> None:
    with pytest.raises(ValueError, match="onnx and function are two teachers"):
        Teach(task=TASK, function=SPELL, onnx=TOKENIZER)
    with pytest.raises(ValueError, match="a function is used unchanged"):
        Teach(task=TASK, function=SPELL, fine_tune=True)
    with pytest.raises(RecipeError, match="spel"):
        Fingerprint(Path()).require(name_function("spel"), None)
    assert callable(load_object(SPELL))


def test_the_code_of_the_function_decides_its_key_and_no_other_s() -> None:
    named = list_code_names(Teach(task=TASK, function=SPELL))
    assert {TASK, SPELL, ADOPT_FUNCTION} <= set(named)
    assert ADOPT_FUNCTION not in list_code_names(Teach(task=TASK, network="nets.py:teacher"))
