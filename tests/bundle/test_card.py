"""The card of a bundle: its README."""

from __future__ import annotations

from typing import Any

import pytest

from attar.bundle.card import format_hop

HOP: dict[str, Any] = {
    "hop": "engine",
    "status": "measured",
    "format": "TensorRT",
    "precision": "fp16",
    "score": 0.9,
    "teacher": {"score_drop": 0.01, "correlation": 0.99},
    "latency": {"1": {"p50": 81.2}},
    "bytes": 1000,
}


@pytest.mark.parametrize(("where", "told"), [({}, "81"), ({"device": "cuda"}, "81 on cuda")])
def test_a_latency_names_its_device_if_that_is_not_the_cpu(where: dict[str, str], told: str) -> None:
    row = format_hop(HOP | where, batch=1)
    assert row == f"| engine | TensorRT | fp16 | 0.9000 | +0.0100 | 0.9900 | {told} | 1,000 |"
