"""How reports write what was measured."""

from __future__ import annotations

import pytest

from attar.proof.report.formatting import capitalize


@pytest.mark.parametrize(
    ("text", "expected"), [("BLEU on test", "BLEU on test"), ("mAP", "MAP"), ("accuracy", "Accuracy"), ("", "")]
)
def test_a_capital_leaves_the_other_letters(text: str, expected: str) -> None:
    assert capitalize(text) == expected
