"""Seals: what a signature covers, and what a list of checksums may not be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from errno import EACCES, EXDEV
from pathlib import Path
from typing import Any

import pytest

from attar.bundle import golden
from attar.bundle.checksums import SIGNATURE, SUMS
from attar.bundle.opening import check_bundle, open_bundle
from attar.bundle.sign import sign_bundle
from attar.pipeline.core.errors import InvalidBundleError, StoreError
from attar.pipeline.core.signing_keys import open_to_others
from attar.serving.core.settings import Settings
from attar.serving.models.engines import open_engines
from tests.support.bundles.packaging import write_store_files
from tests.support.bundles.signing_parts import KeyPair, pair


def test_what_a_store_writes_is_signed_by_nobody(bundle: Path, key: KeyPair) -> None:
    """Anybody may write the two so that they hold each other's sum."""
    sign_bundle(bundle, key.private)
    write_store_files(bundle)
    assert check_bundle(bundle)["signature"] == "not checked"
    told = r"facts\.json was added; record\.json was added\. A store's own is never signed: use the copy that `attar run"
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(bundle, key.public)


def linked(bundle: Path) -> None:
    (bundle / SUMS).rename(bundle.with_suffix(".sums"))
    (bundle / SUMS).symlink_to(bundle.with_suffix(".sums"))


def twice(bundle: Path) -> None:
    """`sha256sum --check` refuses it; whoever reads it as a table takes one of the two."""
    lines = (bundle / SUMS).read_text().splitlines(keepends=True)
    (bundle / SUMS).write_text("".join(["0" * 64 + lines[0][64:], *lines]))


def endless(bundle: Path) -> None:
    """A sparse file: it takes no disk, and took as much memory as it says."""
    os.truncate(bundle / SUMS, 2**33)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (endless, "SHA256SUMS was changed: it has more than 1,048,576 bytes"),
        (linked, "SHA256SUMS is a link"),
        (twice, r"SHA256SUMS .*11 .*12 lines"),
        (lambda bundle: (bundle / SIGNATURE).mkdir(), r"SHA256SUMS\.sig is no signature, a plain file of 64 bytes"),
    ],
)
def test_a_list_and_a_signature_that_are_none(bundle: Path, key: KeyPair, change: Callable[[Path], object], told: str) -> None:
    change(bundle)
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(bundle)
    with pytest.raises(InvalidBundleError, match=told):
        sign_bundle(bundle, key.private)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (EXDEV, r"mine: .*mount"),
        (EACCES, "mine: Permission denied"),
    ],
)
def test_a_signature_that_cannot_be_written_leaves_nothing(
    bundle: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refused(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(self), None, str(target))

    before = sorted(bundle.parent.rglob("*"))
    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(StoreError, match=told):
        sign_bundle(bundle, key.private)
    assert sorted(bundle.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("mode", "allowed"), [(0o600, None), (0o400, None), (0o640, "read"), (0o604, "read"), (0o622, "write"), (0o602, "write")]
)
def test_what_others_may_do_with_a_key(tmp_path: Path, mode: int, allowed: str | None) -> None:
    private = pair(tmp_path).private
    private.chmod(mode)
    assert open_to_others(private) == allowed


def serve(bundle: Path, trusted: Path | None) -> None:
    open_engines(bundle, Settings(trusted=trusted)).close()


def open_and_close(bundle: Path, trusted: Path | None) -> None:
    open_bundle(bundle, trusted=trusted).close()


@pytest.mark.parametrize("opener", [check_bundle, open_and_close, serve])
def test_a_bundle_that_comes_in_the_place_of_another_while_that_is_opened(
    bundle: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch, opener: Callable[[Path, Path | None], object]
) -> None:
    """What was verified of the one would stand for the other. A private copy is read to its end."""
    sign_bundle(bundle, key.private)
    fresh, replay = shutil.copytree(bundle, bundle.with_name("fresh")), golden.replay_requests

    def replace(*given: Any, **more: Any) -> float:
        if fresh.exists():
            shutil.rmtree(bundle.with_name("old"), ignore_errors=True)
            bundle.rename(bundle.with_name("old"))
            fresh.rename(bundle)
        return replay(*given, **more)

    monkeypatch.setattr(golden, "replay_requests", replace)
    with pytest.raises(InvalidBundleError, match=f"{bundle} was changed while it was opened; open it again"):
        opener(bundle, None)
    opener(bundle, None)
    fresh = shutil.copytree(bundle, fresh)
    opener(bundle, key.public)
