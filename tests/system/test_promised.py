"""A test that lacks something is skipped, and fails where that was promised."""

from __future__ import annotations

import pytest

from tests.support.datasets.promised import missing


def test_what_is_missing_is_skipped_unless_it_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    for promised in ("", "chromium", "fashion-mnist-2"):
        monkeypatch.setenv("ATTAR_PROMISED", promised)
        with pytest.raises(pytest.skip.Exception, match="no fashion-mnist"):
            missing("fashion-mnist", "install it")
    monkeypatch.setenv("ATTAR_PROMISED", "chromium fashion-mnist")
    with pytest.raises(pytest.fail.Exception, match=r"ATTAR_PROMISED .*fashion"):
        missing("fashion-mnist", "install it")
