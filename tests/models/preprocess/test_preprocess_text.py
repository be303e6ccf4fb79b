"""Tokenize gives what the library `tokenizers` gives, from a file, and says what is wrong with anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from attar.models.preprocess import Tokenize, apply, text
from attar.pipeline.core.errors import AttarError
from tests.support.tasks.words import PAD, WORDS, saved, tokenizer


def test_by_hand(tmp_path: Path) -> None:
    step = Tokenize(file=saved(tmp_path / "words.json"), length=5)
    made = step(np.array(["sun moon", "", "moon stone sun sun sun", "other"]))
    assert made.dtype == np.int64
    assert made.tolist() == [[1, 4, 5, 2, 9], [1, 2, 9, 9, 9], [1, 5, 6, 4, 2], [1, 3, 2, 9, 9]]
    assert step.pad == PAD


@pytest.mark.parametrize("texts", [np.array(["sun", "moon sun"]), np.array(["sun", "moon sun"], object)])
def test_both_kinds_of_string_arrays_are_read_by_apply(tmp_path: Path, texts: Any) -> None:
    steps = {"tokens": [Tokenize(file=saved(tmp_path / "words.json"), length=8)]}
    assert apply(steps, {"tokens": texts})["tokens"].tolist() == [[1, 4, 2, PAD], [1, 5, 4, 2]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.sampled_from([*WORDS, "?", "Sun,", "é"])).map(" ".join), min_size=1, max_size=6), st.integers(3, 9))
def test_the_same_numbers_as_the_library(tmp_path: Path, texts: list[str], length: int) -> None:
    file = tmp_path / "words.json"
    theirs = Tokenizer.from_file(str(file if file.exists() else saved(file)))
    theirs.enable_truncation(length)
    theirs.enable_padding(pad_id=PAD)
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    assert Tokenize(file=file, length=length)(np.array(texts, object)).tolist() == expected


def test_a_tokenizer_that_adds_nothing_has_a_column_for_an_empty_text(tmp_path: Path) -> None:
    step = Tokenize(file=saved(tmp_path / "bare.json", frame=False), length=1)
    assert step(np.array(["", ""])).tolist() == [[PAD], [PAD]]
    assert step(np.array([], "U1")).shape == (0, 1)
    assert step(np.array(["sun moon"])).tolist() == [[4]]


@pytest.mark.parametrize("frame", [True, False])
def test_a_text_that_must_be_whole(tmp_path: Path, frame: bool) -> None:
    """The tokens that frame a text make no empty one full, and count as its length."""
    file = saved(tmp_path / "words.json", frame=frame)
    step = Tokenize(file=file, length=2 + 2 * frame, whole=True)
    assert step(np.array(["sun moon", "stone"])).shape == (2, step.length)
    with pytest.raises(AttarError, match=rf"more than {step.length} tokens, number 2"):
        step(np.array(["sun", "sun moon sun"]))
    for empty in ("", " \n\t"):
        with pytest.raises(AttarError, match="an empty text, number 1"):
            step(np.array([empty, "sun"]))


@pytest.mark.parametrize("characters", [1, 8, 10, 100])
def test_texts_become_the_same_tokens_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int) -> None:
    step = Tokenize(file=saved(tmp_path / "words.json"), length=4, whole=True)
    texts = np.array(["sun", "stone", "sun moon", "moon"])
    whole = step(texts).tolist()
    monkeypatch.setattr(text, "PIECE_CHARACTERS", characters)
    assert step(texts).tolist() == whole
    with pytest.raises(AttarError, match="more than 4 tokens, number 4"):
        step(np.array([*texts[:3], "sun moon sun"]))


def test_long_texts_become_tokens_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECE_CHARACTERS", 4)
    assert [*text.cut_texts(["a", "bcd", "e", "fghijk", "", "l"])] == [["a", "bcd"], ["e"], ["fghijk"], ["", "l"]]
    assert not [*text.cut_texts([])]


def test_a_step_that_cuts_is_written_as_before(tmp_path: Path) -> None:
    file = saved(tmp_path / "words.json")
    assert "whole" not in Tokenize(file=file, length=4).content()
    assert Tokenize(file=file, length=4, whole=True).content()["whole"] is True


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    step = Tokenize(file=saved(tmp_path / "tokenizer.json"), length=4)
    with pytest.raises(AttarError, match="no Unicode"):
        step(np.array(["a \ud800"], object))


def test_a_changed_file_is_opened_again(tmp_path: Path) -> None:
    step = Tokenize(file=saved(tmp_path / "words.json"), length=8)
    assert step.tokenizer is step.tokenizer
    assert step(np.array(["sun"])).tolist() == [[1, 4, 2]]
    saved(tmp_path / "words.json", frame=False)
    assert step(np.array(["sun"])).tolist() == [[4]]


def test_the_file_s_own_padding_and_truncation(tmp_path: Path) -> None:
    made = tokenizer()
    made.enable_padding(pad_id=7, length=20)  # another length than the longest: the step's own is what counts
    made.enable_truncation(2, direction="left")
    made.save(str(tmp_path / "own.json"))
    step = Tokenize(file=tmp_path / "own.json", length=4)
    assert step(np.array(["sun moon stone", "sun"])).tolist() == [[1, 5, 6, 2], [1, 4, 2, 7]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (np.array([1, 2]), r"'tokenize' got int64 \[2\]"),
        (np.array([b"sun"]), r"got \|S3 \[1\]"),
        (np.array([["sun"]]), r"got <U3 \[1, 1\]"),
        (np.array([b"sun", "moon"], object), r"got bytes objects \[2\]"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, texts: Any, message: str) -> None:
    with pytest.raises(AttarError, match=message):
        Tokenize(file=saved(tmp_path / "words.json"), length=8)(texts)


def no_file(path: Path) -> None:
    path.unlink()


def no_tokenizer(path: Path) -> None:
    path.write_text('{"version": "1.0"}', encoding="utf-8")


def no_pad(path: Path) -> None:
    saved(path, pad="[NOTHING]")


def pads_left(path: Path) -> None:
    made = tokenizer()
    made.enable_padding(direction="left", pad_id=PAD)
    made.save(str(path))


@pytest.mark.parametrize(
    ("spoil", "length", "message"),
    [
        (no_file, 8, r"'tokenize'.*words.json.*tokenizer.json"),
        (no_tokenizer, 8, r"words\.json is no"),
        (no_pad, 8, r"\[PAD\], .*enable_padding"),
        (pads_left, 8, "on the left"),
        (saved, 2, r"2 tokens .*length of 2"),
    ],
)
def test_what_is_wrong_with_a_tokenizer(tmp_path: Path, spoil: Any, length: int, message: str) -> None:
    file = saved(tmp_path / "words.json")
    spoil(file)
    with pytest.raises(AttarError, match=message):
        Tokenize(file=file, length=length)(np.array(["sun"]))


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(AttarError, match=r"'attar\[serve-text\]'"):
        Tokenize(file=saved(tmp_path / "words.json"), length=8)(np.array(["sun"]))


FORKS = """
import os, sys
import numpy as np
from attar.models.preprocess import Tokenize
step, texts = Tokenize(file=sys.argv[1], length=8), np.array(["sun moon"] * 64)
first = step(texts)
child = os.fork()
same = (step(texts) == first).all()
if child == 0:
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_goes_on_silently(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    file = str(saved(tmp_path / "words.json"))
    done = subprocess.run([sys.executable, "-c", FORKS, file], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
