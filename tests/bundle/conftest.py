"""A bundle of points to spoil, and keys to sign it with. A module that needs another bundle has a fixture of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.bundle.sign import sign_bundle
from tests.support.bundles.signing_parts import KeyPair, pair


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(points_bundle, tmp_path / "mine"))


@pytest.fixture
def signed(bundle: Path, key: KeyPair) -> Path:
    sign_bundle(bundle, key.private)
    return bundle
