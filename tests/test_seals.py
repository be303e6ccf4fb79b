"""Seals: what a signature covers, and what a list of checksums may not be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.pipeline.errors import Unfit
from attar.stages.bundle import check
from attar.stages.sign import sign
from tests.signing_parts import Pair, pair
from tests.test_bundle import store


@pytest.fixture
def key(tmp_path: Path) -> Pair:
    return pair(tmp_path)


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(points_bundle, tmp_path / "mine"))


def test_what_a_store_writes_is_signed_by_nobody(bundle: Path, key: Pair) -> None:
    """Anybody may write the two so that they hold each other's sum."""
    sign(bundle, key.private)
    store(bundle)
    assert check(bundle)["signature"] == "not checked"
    told = r"facts\.json was added; record\.json was added\. A store's own is never signed: use the copy that `attar run RECIPE -o DIR`"
    with pytest.raises(Unfit, match=told):
        check(bundle, key.public)
