"""Which line is blamed for an error: the user's own, not the library's that it called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.models.task import hits
from attar.pipeline.core import error_context as blame
from attar.pipeline.core.error_context import name_slot_in_errors
from attar.pipeline.core.errors import StageError


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
    assert blame.locate_user_code(caught.value) == f" (test_error_context.py:{line}, in {call.__name__})"


def test_packages_are_not_ones_own_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    file = tmp_path / "site-packages" / "elsewhere.py"
    file.write_text("def broken():\n    raise ValueError\n")
    spaces: dict[str, Any] = {}
    exec(compile(file.read_text(), file, "exec"), spaces)  # noqa: S102  # a module where a user's site would have it
    with pytest.raises(ValueError, match=r"^$") as caught:
        spaces["broken"]()
    assert blame.locate_user_code(caught.value).endswith("in test_packages_are_not_ones_own_wherever_they_lie)")


def test_an_error_without_a_line_names_none() -> None:
    assert blame.locate_user_code(ValueError("made, not raised")) == ""


def test_what_breaks_in_a_slot_names_the_line() -> None:
    with (
        pytest.raises(StageError, match=r"^student .*ValueError: .* in by_numpy\)$"),
        name_slot_in_errors("student"),
    ):
        by_numpy()
    with (
        pytest.raises(StageError, match=r"\(/gone/points\.npz\) \(test_error_context\.py:\d+, "),
        name_slot_in_errors("student"),
    ):
        Path("/gone/points.npz").read_bytes()
