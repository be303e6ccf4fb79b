from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import UnsupportedModelError
from attar.stages.optimize.ladder import Attempt, run_attempts, select_best


def rungs(made: list[str]) -> list[Attempt]:
    def make(name: str, value: float) -> Attempt:
        def write(file: Path) -> dict[str, Any]:
            made.append(name)
            file.write_text(str(value), encoding="utf-8")
            return {"of": name}

        return Attempt(name, write)

    return [make("a", 0.5), make("b", 0.7), make("c", 0.6), make("d", 0.7)]


def test_what_is_refused_is_no_end_unless_nothing_was_made(tmp_path: Path) -> None:
    def refuse(file: Path) -> dict[str, Any]:
        raise UnsupportedModelError("not so")

    first, *others = rungs([])
    tried = run_attempts(
        lambda tried: [first, Attempt("odd", refuse), *others], lambda file: float(file.read_text()) - 1.5, 0.9, tmp_path
    )
    assert [each.name for each in tried] == ["a", "odd", "b", "c", "d"]
    assert tried[1].facts == {"refused": "not so"}
    assert select_best(tried).name == "b"  # with a correlation of -0.8
    with pytest.raises(UnsupportedModelError, match="not so"):
        run_attempts(lambda tried: [Attempt("odd", refuse), first], lambda file: 1.0, 0.9, tmp_path)


@pytest.mark.parametrize(
    ("floor", "tried", "kept"), [(0.5, ["a"], "a"), (0.6, ["a", "b"], "b"), (0.9, ["a", "b", "c", "d"], "b")]
)
def test_no_rung_above_the_floor_is_made_and_the_best_is_kept(tmp_path: Path, floor: float, tried: list[str], kept: str) -> None:
    made: list[str] = []
    found = run_attempts(lambda tried: rungs(made), lambda file: float(file.read_text()), floor, tmp_path)
    assert made == tried == [each.name for each in found]
    assert select_best(found).name == kept  # of equals the first
    assert select_best(found).facts == {"of": kept}
    assert select_best(found).file == tmp_path / f"{kept}.onnx"
