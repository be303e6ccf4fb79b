"""Steps on outputs: token ids to text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from attar.models.postprocess import Detokenize
from attar.models.postprocess.known import OUTPUT_STEPS
from attar.models.preprocess import Tokenize
from attar.models.tasks.snapshot import train_tokenizer
from attar.pipeline.core.errors import AttarError
from tests.support.tasks.words import saved

PAD, BEGIN, END = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level vocabulary of a few Italian words."""
    file = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    train_tokenizer(file, ["perché è così", "il file è qui"] * 9, 300, ("[PAD]", "[BEGIN]", "[END]"), is_written=True)
    return file


def test_by_hand(tokenizer: Path) -> None:
    (tokens,) = Tokenize(file=tokenizer, length=32)(np.array(["il file è qui"])).tolist()
    rows = np.full((4, len(tokens) + 3), PAD)
    rows[0, : len(tokens) + 1] = [*tokens, END]
    rows[1, : len(tokens) + 2] = [BEGIN, *tokens, PAD]
    rows[2, : len(tokens) + 1] = [END, *tokens]
    rows[3, : len(tokens) + 2] = [-5, *tokens, 300]
    made = Detokenize(file=tokenizer)(rows)
    assert made.dtype == object
    assert made.tolist() == ["il file è qui", "il file è qui", "", "il file è qui"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4))
def test_a_text_comes_back(tokenizer: Path, texts: list[str]) -> None:
    """Normalized, and not the text that a special token's name is in, nor white space before it."""
    texts = [text.replace("[", "").strip() for text in texts]
    normalize = Tokenizer.from_file(str(tokenizer)).normalizer.normalize_str
    tokens = Tokenize(file=tokenizer, length=99)(np.array(texts, object))
    assert Detokenize(file=tokenizer)(tokens).tolist() == [normalize(text) for text in texts]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(-3, 310), min_size=1, max_size=12))
def test_no_tokens_are_refused(tokenizer: Path, tokens: list[int]) -> None:
    (text,) = Detokenize(file=tokenizer)(np.array([tokens])).tolist()
    assert isinstance(text, str)
    text.encode()  # no half of a surrogate pair


def test_bytes_that_are_no_text_are_replaced(tokenizer: Path) -> None:
    letter = Tokenizer.from_file(str(tokenizer)).token_to_id("Ã")  # the first byte of two
    assert Detokenize(file=tokenizer)(np.array([[letter, END]])).tolist() == ["\ufffd"]


def test_shapes(tokenizer: Path) -> None:
    step = Detokenize(file=tokenizer)
    assert step(np.zeros((0, 4), np.int64)).shape == (0,)
    assert step(np.zeros((2, 0), np.int32)).tolist() == ["", ""]


@pytest.mark.parametrize("tokens", [np.zeros((2, 3)), np.zeros(3, np.int64), np.array([["a"]])])
def test_what_is_no_tokens_is_refused(tokenizer: Path, tokens: Any) -> None:
    with pytest.raises(AttarError, match="'detokenize' got"):
        Detokenize(file=tokenizer)(tokens)


def test_words_without_a_decoder_are_joined_by_spaces(tmp_path: Path) -> None:
    step = Detokenize(file=saved(tmp_path / "words.json"), end=2)
    assert step(np.array([[4, 5, 2, 6]])).tolist() == ["sun moon"]


def test_a_missing_file_and_a_missing_library(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttarError, match=r"'detokenize'.*nowhere\.json"):
        Detokenize(file=tmp_path / "nowhere.json").tokenizer  # noqa: B018  # opening raises
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(AttarError, match=r"'detokenize'.*'attar\[serve-text\]'"):
        Detokenize(file=saved(tmp_path / "words.json")).tokenizer  # noqa: B018  # as above


def test_a_manifest_holds_known_steps_alone(tokenizer: Path) -> None:
    steps = {"text": [Detokenize(file=tokenizer, end=3)]}
    assert OUTPUT_STEPS.validate_json(OUTPUT_STEPS.dump_json(OUTPUT_STEPS.validate_python(steps))) == steps
    with pytest.raises(ValidationError):
        OUTPUT_STEPS.validate_python({"text": [{"step": "eval", "file": "x"}]})
