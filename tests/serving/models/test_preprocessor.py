"""Where steps run: short texts on the event loop, all else in a thread beside it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from attar.models import preprocess
from attar.models.preprocess import Scale
from attar.models.task import Arrays
from attar.models.tasks.numbers import LONGEST, Numbers
from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.core.ledger import MemoryLedger
from attar.serving.models.engines import Engines
from attar.serving.models.preprocessor import (
    CHARACTER_SECONDS,
    TEXT_BYTES,
    TEXT_SECONDS,
    TOKEN_BYTES,
    TOKEN_SECONDS,
    Preprocessor,
)

TEXTS = {"digits": np.array(["4711", "7"], object)}
TOKENS = {"words": np.full((2, LONGEST), 14)}
Threads = list[str]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """The names of the threads in which steps ran."""
    seen: Threads = []
    apply = preprocess.apply

    def noted(steps: object, tensors: Arrays) -> object:
        seen.append(threading.current_thread().name.partition("_")[0])
        return apply(steps, tensors)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(preprocess, "apply", noted)
    return seen


def make_preprocessor(inline_below: float, **steps: object) -> Preprocessor:
    given = {"preprocess": Numbers.preprocess, "postprocess": Numbers.postprocess, **steps}
    engines = SimpleNamespace(manifest=SimpleNamespace(**given), predicts=[None])
    return Preprocessor(cast(Engines, engines), 1000, inline_below)


def run_both(steps: Preprocessor, inputs: Arrays = TEXTS) -> None:
    async def run() -> None:
        await steps.run(inputs, None)
        answers = await steps.convert_outputs(dict(TOKENS))
        assert answers["words"].tolist() == [" ".join(["zéro"] * LONGEST).encode()] * 2

    asyncio.run(run())
    steps.close()


def test_short_texts_change_no_thread(threads: Threads) -> None:
    run_both(make_preprocessor(1e-3))
    assert threads == ["MainThread", "MainThread"]


def test_what_takes_longer_than_a_change_of_threads_is_done_beside_the_loop(threads: Threads) -> None:
    """Five characters in two texts; twice sixteen tokens, which take less."""
    texts = 2 * TEXT_SECONDS
    run_both(make_preprocessor(texts + 4.5 * CHARACTER_SECONDS))
    assert threads == ["prepare", "MainThread"]
    threads.clear()
    run_both(make_preprocessor(texts + 5.5 * CHARACTER_SECONDS))
    assert threads == ["MainThread", "MainThread"]
    threads.clear()
    run_both(make_preprocessor(31.5 * TOKEN_SECONDS))
    assert threads == ["prepare", "prepare"]


def test_many_texts_of_one_character_are_read_beside_the_loop(threads: Threads) -> None:
    run_both(make_preprocessor(1e-3), {"digits": np.array(["7"] * 1000, object)})
    assert threads == ["prepare", "MainThread"]


def test_an_input_without_steps_is_no_text(threads: Threads) -> None:
    steps = {**Numbers.preprocess, "weight": []}
    run_both(make_preprocessor(1e-3, preprocess=steps), TEXTS | {"weight": np.ones(2, np.float32)})
    assert threads == ["MainThread", "MainThread"]


def test_other_steps_than_those_of_texts_are_done_beside_the_loop(threads: Threads) -> None:
    run_both(make_preprocessor(1e-3, preprocess={"x": [Scale(by=2)]}), {"x": np.ones((1, 2), np.float32)})
    assert threads == ["prepare", "MainThread"]


@pytest.mark.parametrize("inline_below", [0.0, 1e-3])
def test_a_text_that_is_refused_is_a_bad_request_wherever_it_is_read(inline_below: float) -> None:
    steps = make_preprocessor(inline_below)
    with pytest.raises(BadRequestError, match="an empty text"):
        asyncio.run(steps.run({"digits": np.array([" "], object)}, None))
    steps.close()


def test_the_memory_in_which_texts_become_tokens_is_reserved() -> None:
    """2 MB of texts had taken 224 MB, and no ledger knew."""
    ledger, steps = MemoryLedger(1000 * TEXT_BYTES), make_preprocessor(0.0)
    with closing(ledger.open_reservation()) as reservation:
        for text, error, told in (
            ("7" * 1000, BadRequestError, "more than 6 tokens"),
            ("7" * 1001, TooLargeError, "400,400 bytes of memory"),
            ("é" * 501, TooLargeError, "400,800 bytes of memory"),
        ):
            with pytest.raises(error, match=told):
                asyncio.run(steps.run({"digits": np.array([text], object)}, reservation))
            assert ledger.held == 0
    steps.close()


def test_many_texts_take_the_memory_of_a_piece() -> None:
    """4 MB of texts had been refused, for 1.5 GB that they do not take."""
    ledger, steps = MemoryLedger(2**16 * TEXT_BYTES + 64 * 2**16 * TOKEN_BYTES), make_preprocessor(0.0)
    with closing(ledger.open_reservation()) as reservation:
        for size, error in ((2**16, BadRequestError), (2**17, TooLargeError)):
            with pytest.raises(error, match="more than 6 tokens" if error is BadRequestError else "bytes of memory"):
                asyncio.run(steps.run({"digits": np.array(["7" * size] * 64, object)}, reservation))
            assert ledger.held == 0
    steps.close()
