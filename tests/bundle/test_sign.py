"""Signing: which keys sign, what they sign, and the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attar.bundle.checksums import SIGNATURE, SUMS
from attar.bundle.finish import finish_bundle
from attar.bundle.opening import check_bundle
from attar.bundle.sign import sign_bundle
from attar.cli.main import main
from attar.pipeline.core.errors import InvalidBundleError, MissingDependencyError, RecipeError
from tests.support.bundles.packaging import edit_manifest, package_unfinished, write_store_files
from tests.support.bundles.signing_parts import NEEDS_OPENSSL, PASSPHRASE, KeyPair, pair, run_openssl
from tests.support.serving.serving_parts import spoil


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_that_do_not_sign(bundle: Path, tmp_path: Path, key: KeyPair) -> None:
    locked = pair(tmp_path, "locked", locked=True)
    for private, told in [
        (locked.private, r"is encrypted; `openssl pkey -in .*locked\.pem \| attar sign BUNDLE --key /dev/stdin` asks"),
        (key.public, "holds no private key in PEM; `openssl genpkey"),
        (bundle / "README.md", "holds no private key in PEM"),
        (pair(tmp_path, kind="rsa").private, "of another kind than Ed25519, a RSAPrivateKey"),
        (tmp_path / "nowhere", "cannot be read: No such file"),
    ]:
        with pytest.raises(RecipeError, match=told):
            sign_bundle(bundle, private)
    assert not (bundle / SIGNATURE).exists()


@NEEDS_OPENSSL
def test_an_encrypted_key_signs_through_a_pipe(bundle: Path, tmp_path: Path) -> None:
    locked = pair(tmp_path, "locked", locked=True)
    opened = run_openssl("pkey", "-in", locked.private, "-passin", f"pass:{PASSPHRASE}")
    command = [sys.executable, "-m", "attar", "sign", str(bundle), "--key", "/dev/stdin"]
    done = subprocess.run(command, input=opened, capture_output=True, check=True)
    assert not done.stderr
    assert check_bundle(bundle, locked.public)["signature"] == "valid"


def test_without_the_library_it_says_what_to_install(signed: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match=r"'attar\[sign\]'$"):
        sign_bundle(signed, key.private)
    with pytest.raises(InvalidBundleError, match=r"verified: .*'attar\[sign\]'$"):
        check_bundle(signed, key.public)
    assert check_bundle(signed)["signature"] == "not checked"


# -- what is signed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (spoil, r"model\.onnx was changed"),
        (lambda bundle: edit_manifest(bundle, lambda m: m["verdict"].update(verdict="failed")), "was never passed"),
        (lambda bundle: edit_manifest(bundle, lambda m: m["verdict"]["gates"][0].update(limit=0.5)), "contradicts itself"),
        (lambda bundle: (bundle / SUMS).unlink(), "SHA256SUMS is missing"),
    ],
)
def test_only_what_is_whole_and_passed_is_signed(bundle: Path, key: KeyPair, change: Callable[[Path], object], told: str) -> None:
    change(bundle)
    with pytest.raises(InvalidBundleError, match=told):
        sign_bundle(bundle, key.private)
    assert not (bundle / SIGNATURE).exists()


def test_it_is_signed_on_any_machine(bundle: Path, key: KeyPair) -> None:
    edit_manifest(bundle, lambda manifest: manifest["engine"]["machine"].update(flags=["sve2"]))
    sign_bundle(bundle, key.private)
    with pytest.raises(InvalidBundleError, match="built on another machine"):
        check_bundle(bundle, key.public)


def test_nothing_is_written_into_a_store(bundle: Path, key: KeyPair) -> None:
    write_store_files(bundle)
    with pytest.raises(RecipeError, match="`attar run RECIPE -o DIR`"):
        sign_bundle(bundle, key.private)
    assert not (bundle / SIGNATURE).exists()


def test_what_lies_where_a_signature_is_begun_is_replaced(bundle: Path, key: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".mine.SHA256SUMS.sig.partial").symlink_to(tmp_path / "mine.txt")
    sign_bundle(bundle, key.private)
    assert check_bundle(bundle, key.public)["signature"] == "valid"
    assert ((tmp_path / "mine.txt").read_text(), len(list(tmp_path.iterdir()))) == ("mine", 2)


def test_an_unfinished_bundle_is_signed_for_who_finishes_it(tmp_path: Path, key: KeyPair, stranger: KeyPair) -> None:
    unfinished = package_unfinished(tmp_path)
    done = tmp_path / "done"
    with pytest.raises(InvalidBundleError, match="is not signed"):
        finish_bundle(unfinished, done, key.public)
    sign_bundle(unfinished, key.private)
    with pytest.raises(InvalidBundleError, match="is unfinished"):
        check_bundle(unfinished, key.public)
    with pytest.raises(InvalidBundleError, match="is signed by no key in"):
        finish_bundle(unfinished, done, stranger.public)
    refused = run("finish", unfinished, "-o", done, "--recipe", "digits", "--trusted", stranger.public)
    assert (refused.exit_code, "is signed by no key in" in refused.stderr) == (4, True)
    assert not done.exists()
    assert run("finish", unfinished, "-o", done, "--trusted", key.public).exit_code == 0
    assert not (done / SIGNATURE).exists()
    with pytest.raises(InvalidBundleError, match="is not signed"):
        check_bundle(done, key.public)
    sign_bundle(done, stranger.private)
    assert check_bundle(done, stranger.public)["signature"] == "valid"


# -- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands(bundle: Path, key: KeyPair) -> None:
    done = run("sign", bundle, "--key", key.private)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{bundle} is signed: ")
    told = json.loads(run("sign", bundle, "--key", key.private, "--json").stdout)
    done = run("check", bundle, "--trusted", key.public)
    assert (done.exit_code, f"signature valid, key {told['key']}" in done.stdout) == (0, True)
    assert "signature not checked" in run("check", bundle).stdout
    assert run("check", bundle, "--trusted", key.private).exit_code == 4
    assert run("sign", bundle, "--key", key.public).exit_code == 2


def test_a_key_that_others_may_read_is_told(bundle: Path, tmp_path: Path) -> None:
    mine = pair(tmp_path)
    mine.private.chmod(0o640)
    done = run("sign", bundle, "--key", mine.private)
    assert done.exit_code == 0
    assert done.stderr.startswith(f"warning: {mine.private} ")


def test_trusted_keys_that_others_may_write_are_told(bundle: Path, key: KeyPair, tmp_path: Path) -> None:
    sign_bundle(bundle, key.private)
    trusted = tmp_path / "trusted.pem"
    shutil.copyfile(key.public, trusted)
    trusted.chmod(0o644)
    assert run("check", bundle, "--trusted", trusted).stderr == ""
    trusted.chmod(0o664)
    done = run("check", bundle, "--trusted", trusted)
    told = f"warning: others may write {trusted}, so they decide who is trusted; chmod go-w it\n"
    assert (done.exit_code, done.stderr) == (0, told)
    assert run("bench", bundle, "--batch", "1", "--seconds", "0.05", "--trusted", trusted).exit_code == 0
