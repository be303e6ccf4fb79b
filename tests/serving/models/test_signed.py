"""A server with trusted keys: what it begins with, what it loads later, and keys that come and go."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from attar.bundle.checksums import SIGNATURE
from attar.bundle.sign import sign_bundle
from attar.pipeline.core.errors import InvalidBundleError
from tests.support.bundles.signing_parts import KeyPair, pair
from tests.support.serving.serve_command import run_refused_serve, run_serve_command
from tests.support.serving.serving_parts import (
    INFER,
    another,
    asked,
    loaded_version,
    running,
    triton_client,
    wait_for_new_version,
)

LOAD = "/v2/repository/models/points/load"


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return pair(tmp_path)


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(points_bundle, tmp_path / "mine"))


def replaced(bundle: Path) -> None:
    """By another that is whole and passed, under the signature of the first."""
    signature = (bundle / SIGNATURE).read_bytes()
    newer = another(bundle, bundle.with_name("newer"))
    shutil.rmtree(bundle)
    newer.rename(bundle)
    (bundle / SIGNATURE).write_bytes(signature)


def test_only_signed_bundles_are_served_and_clients_see_whose(bundle: Path, key: KeyPair) -> None:
    with pytest.raises(InvalidBundleError, match="is not signed"), running(bundle, trusted=key.public):
        pass
    facts = sign_bundle(bundle, key.private)
    with running(bundle, trusted=key.public) as server, triton_client(server.url) as client:
        for name in ("points", "points-raw"):
            assert client.get_model_metadata(name)["properties"]["signed_by"] == facts["key"]
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
    with running(bundle) as server:
        assert "signed_by" not in server.ask("GET", "/v2/models/points")[1]["properties"]


def test_the_command_ends_with_4_and_one_line(bundle: Path, key: KeyPair) -> None:
    code, said = run_refused_serve("--trusted", str(key.public), str(bundle))
    assert (code, said.count("\n"), "is not signed: it has no SHA256SUMS.sig" in said) == (4, 1, True)
    sign_bundle(bundle, key.private)
    with run_serve_command("--trusted", str(key.public), str(bundle)):
        pass


def test_a_bundle_that_somebody_put_in_its_place_is_refused_and_the_old_one_stays(bundle: Path, key: KeyPair) -> None:
    sign_bundle(bundle, key.private)
    with running(bundle, trusted=key.public, model_control=True) as server:
        before = loaded_version(server)
        replaced(bundle)
        status, told, _ = server.ask("POST", LOAD)
        assert (status, "is signed by no key in" in told["error"]) == (400, True)
        assert loaded_version(server) == before
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
        sign_bundle(bundle, key.private)
        assert server.ask("POST", LOAD)[0] == 200
        assert loaded_version(server) != before


def test_a_watched_bundle_is_taken_once_it_is_signed(bundle: Path, key: KeyPair) -> None:
    sign_bundle(bundle, key.private)
    with running(bundle, trusted=key.public, watch=0.05) as server:
        before = loaded_version(server)
        replaced(bundle)
        time.sleep(0.5)
        assert loaded_version(server) == before
        sign_bundle(bundle, key.private)
        wait_for_new_version(server, before)


def test_keys_come_and_go_without_a_restart(bundle: Path, key: KeyPair, tmp_path: Path) -> None:
    new, trusted = pair(tmp_path, "new"), tmp_path / "trusted.pem"
    shutil.copyfile(key.public, trusted)
    sign_bundle(bundle, key.private)
    with running(bundle, trusted=trusted, model_control=True) as server:
        sign_bundle(bundle, new.private)
        assert server.ask("POST", LOAD)[0] == 400
        trusted.write_text(key.public.read_text() + new.public.read_text())
        assert server.ask("POST", LOAD)[0] == 200
        trusted.write_text("half a k")
        status, told, _ = server.ask("POST", LOAD)
        assert (status, "has no key; write public keys into it" in told["error"]) == (400, True)
        shutil.copyfile(key.public, trusted)
        assert server.ask("POST", LOAD)[0] == 400
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
