"""Which line is blamed for an error: the user's own, not the library's that it called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.models.task import hits
from attar.pipeline import blame
from attar.pipeline.errors import StageError
from attar.pipeline.run import breaking


def by_numpy() -> None:
    np.concatenate([])


def by_json() -> None:
    json.loads("{")


def by_attar() -> None:
    hits(np.zeros((2, 3)), np.zeros(5))


@pytest.mark.parametrize("call", [by_numpy, by_json, by_attar])
def test_the_last_line_of_ones_own_is_named(call: Any) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        call()
    line = call.__code__.co_firstlineno + 1
    assert blame.where(caught.value) == f" (test_blame.py:{line}, in {call.__name__})"


def test_an_error_without_a_line_names_none() -> None:
    assert blame.where(ValueError("made, not raised")) == ""


def test_what_breaks_in_a_slot_names_the_line() -> None:
    with (
        pytest.raises(StageError, match=r"^student broke: ValueError: .* \(test_blame\.py:\d+, in by_numpy\)$"),
        breaking("student"),
    ):
        by_numpy()
    with (
        pytest.raises(StageError, match=r"No such file or directory \(/gone/points\.npz\) \(test_blame\.py:\d+, in .*\); is the"),
        breaking("student"),
    ):
        Path("/gone/points.npz").read_bytes()
