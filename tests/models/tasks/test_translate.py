"""Translate: the task on lists written here, and the real texts where a package index is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu

from attar.models.checks import task as task_check
from attar.models.generation import require_decoding
from attar.models.postprocess.known import OUTPUT_STEPS
from attar.models.tasks import translate, translations
from attar.models.tasks.translate import Translate, TranslateSmall, TranslateTiny
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.recipes.workspace import find_recipe
from tests.support.datasets.promised import missing
from tests.support.datasets.translated_lists import write_release

TASKS = (Translate, TranslateSmall, TranslateTiny)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a small release, made by ``fetch`` itself."""
    root = tmp_path_factory.mktemp("data")
    lists = write_release(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_DATA", str(root))
        patch.setenv("PATH", str(root))
        translate.fetch_snapshot(lists.parent)
    return root


@pytest.fixture
def data(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_DATA", str(made))
    return made / translate.FOLDER


def read_texts(task: Translate, name: Any) -> tuple[list[str], list[str]]:
    """The sources, and the references as their tokens say them."""
    split = task.split(name)
    batch = split.take(np.arange(len(split)))
    (step,) = task.postprocess["translation"]
    return batch.inputs["text"].tolist(), step(batch.targets["translation"]).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_it_is_a_sound_task(data: Path, task: type[Translate]) -> None:
    task_check.check_task(task())
    assert task().data() == [data / translations.PAIRS, data / translations.TOKENIZER]
    assert min(len(task().split(name)) for name in task_check.SPLITS) > 10


def test_targets_decode_to_the_references(data: Path) -> None:
    task = Translate()
    sources, references = read_texts(task, "test")
    assert references == [each.foreign for each in task.select_sentences("test")]
    assert sources == [each.english for each in task.select_sentences("test")]
    assert any(text.startswith("piccolo strumento per file") for text in references)


def test_the_score_is_sacrebleu_s(data: Path) -> None:
    task = Translate()
    split = task.split("test")
    targets = split.take(np.arange(len(split))).targets
    outputs = np.roll(np.asarray(targets["translation"]), 1, 0)
    _, references = read_texts(task, "test")
    statistics = task.score({"translation": outputs}, targets)
    assert statistics.shape == (len(split), 10)
    expected = sacrebleu.corpus_bleu([references[-1], *references[:-1]], [references]).score
    assert task.aggregate(statistics) == pytest.approx(expected, abs=1e-12)
    assert task.aggregate(task.score(dict(targets), targets)) == pytest.approx(100)


def test_subsets_are_of_the_split(data: Path) -> None:
    for task in TASKS:
        novel = task().mark_subsets()["novel"]
        assert novel.shape == (len(task().split("test")),)


def test_short_sentences_are_short(data: Path) -> None:
    for task in (TranslateSmall(), TranslateTiny()):
        for each in task.select_sentences("train"):
            assert max(len(each.english.split()), len(each.foreign.split())) <= 12
        assert require_decoding(task).longest == 32
    assert len(TranslateTiny().split("train")) <= 2000


def test_the_step_on_outputs_travels_as_data(data: Path) -> None:
    steps = {name: list(each) for name, each in Translate().postprocess.items()}
    assert OUTPUT_STEPS.validate_json(OUTPUT_STEPS.dump_json(OUTPUT_STEPS.validate_python(steps))) == steps


def test_fetch_says_how_many_sentences_there_are(elsewhere: Path) -> None:
    write_release(elsewhere, 200)
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(elsewhere))
        with listen_to_progress(lambda what, done, total, note: notes.append(note)):
            Translate().fetch()
    counts = {name: len(Translate().split(name)) for name in task_check.SPLITS}
    assert notes[-1].startswith(f"{counts['train']} train, {counts['validation']} validation (")
    assert translate.HOME.find() == elsewhere / "cache" / "attar" / translate.FOLDER


def test_without_data_it_says_how_to_get_them(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(StageError, match="attar fetch"):
        Translate().data()
    with pytest.raises(StageError, match=r"debian-translations/lists.*Acquire::Languages=en,it"):
        Translate().fetch()


@pytest.mark.parametrize("name", ["translate", "translate-small"])
def test_networks_fit_the_task(name: str) -> None:
    recipe = tomllib.loads(find_recipe(name).read_text("utf-8"))
    longest = {"translate": translations.LONGEST, "translate-small": translate.SHORT_LONGEST}[name]
    for slot in ("teacher", "student"):
        assert recipe[slot]["options"]["size"] == translations.VOCABULARY
        assert recipe[slot]["options"]["longest"] == longest


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_texts(elsewhere: Path) -> None:
    """Fetched anew. Of Debian 12 in November 2026: 136,507 to train on, 1,120 and 4,012 held out."""
    try:
        Translate().fetch()
    except StageError as error:
        missing("debian-translations", str(error))
    task = Translate()
    counts = [len(task.select_sentences(name)) for name in ("train", "validation", "test")]
    for count, expected in zip(counts, (136_507, 1_120, 4_012), strict=True):
        assert abs(count - expected) < 0.2 * expected
    assert 0.8 < task.mark_subsets()["novel"].mean() < 0.98
    sources, references = read_texts(task, "test")
    assert references == [each.foreign for each in task.select_sentences("test")]
    assert 5 < sacrebleu.corpus_bleu(sources, [references]).score < 12
    assert len(TranslateSmall().split("test")) >= 2000
    task_check.check_task(TranslateTiny())
