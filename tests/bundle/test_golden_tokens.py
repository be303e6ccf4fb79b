"""Golden answers of tokens: another token is another answer, however large the vocabulary is."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from attar.bundle.golden import check_engine_answers
from attar.bundle.manifest import Manifest
from attar.models.task import Output, Task
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.stages.package.golden_requests import check_repeated, measure_margins
from tests.support.tasks.sequences import change_task

TOKENS = np.full((4, 6), 7000)
OTHER = TOKENS + np.eye(4, 6, dtype=np.int64) * 3
"""0.0004 of the magnitude apart, which is less than any tolerance of numbers."""


def make_manifest(kind: str) -> Manifest:
    """Return what is read of a manifest."""
    needs = SimpleNamespace(runtime="onnxruntime", precision="int8-weights", provider=None)
    return cast(Manifest, SimpleNamespace(engine=needs, outputs={"words": SimpleNamespace(kind=kind)}))


def make_task(kind: str) -> Task:
    output = Output(("batch", 6), kind="tokens", size=8000) if kind == "tokens" else Output(("batch", 6), kind="values")
    return change_task(outputs={"words": output})


def test_an_engine_finished_elsewhere_says_every_token() -> None:
    golden = {"model.words": TOKENS, "engine.words": OTHER}
    assert check_engine_answers(Path("bundle"), make_manifest("values"), golden) == pytest.approx(3 / 7000)
    assert check_engine_answers(Path("bundle"), make_manifest("tokens"), golden | {"engine.words": TOKENS}) == 0
    with pytest.raises(InvalidBundleError, match="words"):
        check_engine_answers(Path("bundle"), make_manifest("tokens"), golden)


def test_what_is_packaged_repeats_every_measured_token() -> None:
    measured = {"words": TOKENS.astype(np.float32)}
    check_repeated("engine", make_task("values"), measured, {"words": OTHER}, 1e-3)
    check_repeated("engine", make_task("tokens"), measured, {"words": TOKENS}, 1e-3)
    with pytest.raises(StageError, match="words"):
        check_repeated("engine", make_task("tokens"), measured, {"words": OTHER}, 1e-3)


def test_the_margin_is_between_the_two_likeliest_tokens() -> None:
    """Shares of two tokens and of the others, or of one token and the others."""
    two = np.log([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 4, 5 / 8]]).astype(np.float16)
    np.testing.assert_allclose(measure_margins(two), [math.log(2)] * 2, atol=2e-3)
    one = np.log([[3 / 4, 1 / 4], [1 / 2, 1 / 2]]).astype(np.float16)
    np.testing.assert_allclose(measure_margins(one), [math.log(3), 0], atol=2e-3)
