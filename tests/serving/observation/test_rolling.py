"""Rolling numbers: when they are computed, and the readiness that follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from attar.proof.estimates.metrics import compare_outputs
from attar.serving.core.settings import Settings
from attar.serving.observation import rolling
from attar.serving.observation.rolling import RollingAgreement

EXPECTED, GOT = np.random.default_rng(0).standard_normal((2, 30, 3))


def test_looks_between_two_samples_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of readiness need no token, so what a look costs must not depend on the window."""
    made = RollingAgreement({"vector": "embedding"}, Settings(shadow="fp32", ready_correlation=0.5, ready_samples=2))
    made.add_samples({"vector": EXPECTED}, {"vector": GOT})
    expected = compare_outputs("embedding", EXPECTED, GOT).numbers["correlation"]
    monkeypatch.setattr(made.windows["vector"], "compute_numbers", lambda: pytest.fail("computed at a look"))
    assert not made.ready
    assert made.latest["vector"].samples == 30
    assert made.latest["vector"].numbers["correlation"] == pytest.approx(expected)


def test_numbers_that_take_long_are_computed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of computing is followed by ten seconds without."""
    now, spent = [100.0], iter([0.0, 0.5, 0.5, 1.0])
    monkeypatch.setattr(rolling, "monotonic", lambda: now[0])
    monkeypatch.setattr(rolling, "thread_time", lambda: next(spent))
    made = RollingAgreement({"logits": "logits"}, Settings(shadow="fp32"))
    for seconds, samples in ((0, 10), (9.9, 10), (0.2, 30)):
        now[0] += seconds
        made.add_samples({"logits": EXPECTED[:10]}, {"logits": GOT[:10]})
        assert made.latest["logits"].samples == samples
    assert not made.is_due


def test_readiness_comes_back_a_quarter_of_the_way_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = RollingAgreement({"logits": "logits"}, Settings(shadow="fp32", ready_correlation=0.8, ready_samples=10))
    made.add_samples({"logits": EXPECTED}, {"logits": EXPECTED})
    for correlation, is_ready in ((0.81, True), (0.79, False), (0.84, False), (0.86, True), (0.81, True)):
        numbers = {"correlation": correlation}
        monkeypatch.setattr(made.windows["logits"], "compute_numbers", lambda numbers=numbers: numbers)
        made.compute()
        assert made.ready is is_ready
