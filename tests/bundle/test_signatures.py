"""Signatures: whose bundle it is. What somebody else made, or changed since, is refused, and so are keys that are none."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import attar
from attar.bundle import checksums, signatures, verified
from attar.bundle.checksums import SIGNATURE, SUMS, Checksums
from attar.bundle.opening import check_bundle
from attar.bundle.sign import sign_bundle
from attar.pipeline.core import signing_keys
from attar.pipeline.core.errors import InvalidBundleError
from tests.support.bundles.signing_parts import NEEDS_OPENSSL, KeyPair, pair, run_openssl
from tests.support.serving.serving_parts import another, spoil


def flip(file: Path, at: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


# -- whose it is ------------------------------------------------------------------------------------------------------


def test_who_signed_it_is_told(bundle: Path, key: KeyPair) -> None:
    facts = sign_bundle(bundle, key.private)
    assert facts == {"bundle": "points", "files": 11, "signature": str(bundle / SIGNATURE), "key": facts["key"]}
    assert len((bundle / SIGNATURE).read_bytes()) == 64
    told = check_bundle(bundle, key.public)
    assert (told["signature"], told["key"], told["files"]) == ("valid", facts["key"], 11)
    with attar.open(bundle, trusted=str(key.public)) as predict:
        assert predict.manifest.name == "points"


def test_without_trusted_keys_a_signature_is_not_looked_at(bundle: Path, key: KeyPair) -> None:
    assert (check_bundle(bundle)["signature"], check_bundle(bundle)["key"]) == (None, None)
    sign_bundle(bundle, key.private)
    assert (check_bundle(bundle)["signature"], check_bundle(bundle)["key"]) == ("not checked", None)
    flip(bundle / SIGNATURE)
    assert check_bundle(bundle)["signature"] == "not checked"


@NEEDS_OPENSSL
def test_openssl_verifies_what_attar_signs(signed: Path, key: KeyPair, stranger: KeyPair) -> None:
    command = ["pkeyutl", "-verify", "-pubin", "-rawin", "-in", signed / SUMS, "-sigfile", signed / SIGNATURE, "-inkey"]
    assert b"Verified Successfully" in run_openssl(*command, key.public)
    with pytest.raises(subprocess.CalledProcessError):
        run_openssl(*command, stranger.public)


@NEEDS_OPENSSL
def test_attar_verifies_what_openssl_signs(bundle: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    run_openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    run_openssl("pkey", "-in", private, "-pubout", "-out", public)
    run_openssl("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", bundle / SUMS, "-out", bundle / SIGNATURE)
    raw = run_openssl("pkey", "-pubin", "-in", public, "-outform", "DER")[-32:]  # RFC 8410: the raw key comes last
    assert check_bundle(bundle, public)["key"] == hashlib.sha256(raw).hexdigest()[:16]
    before = (bundle / SIGNATURE).read_bytes()
    sign_bundle(bundle, private)
    assert (bundle / SIGNATURE).read_bytes() == before


def test_several_keys_are_trusted_while_one_follows_another(
    bundle: Path, key: KeyPair, stranger: KeyPair, tmp_path: Path
) -> None:
    old, new = key.public.read_text(), stranger.public.read_text()
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(f"the old one, until summer\n{old}\n\nthe new one\r\n{new}".replace("\n", "\r\n"), newline="")
    found = [(sign_bundle(bundle, each.private)["key"], check_bundle(bundle, trusted)["key"]) for each in (key, stranger)]
    assert found == [(found[0][0],) * 2, (found[1][0],) * 2]
    trusted.write_text(old)
    with pytest.raises(InvalidBundleError, match=rf"trusted\.pem \({found[0][0]}\)"):
        check_bundle(bundle, trusted)


# -- what is caught ---------------------------------------------------------------------------------------------------


def resealed(bundle: Path) -> None:
    """What no checksum can show."""
    (bundle / "README.md").write_text("mine\n")
    checksums.write_checksums(bundle)


def linked(bundle: Path) -> None:
    (bundle / SIGNATURE).rename(bundle.with_suffix(".sig"))
    (bundle / SIGNATURE).symlink_to(bundle.with_suffix(".sig"))


def of_another(bundle: Path) -> None:
    other = another(bundle, bundle.with_name("another"))
    sign_bundle(other, bundle.with_name("key.pem"))
    shutil.copyfile(other / SIGNATURE, bundle / SIGNATURE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda bundle: (bundle / SIGNATURE).unlink(), r"SHA256SUMS\.sig.*`attar sign`"),
        (of_another, "is signed by no key in"),
        (lambda bundle: sign_bundle(bundle, pair(bundle.parent, "other").private), "is signed by no key in"),
        (resealed, r"no key .*: .* changed since"),
        (lambda bundle: flip(bundle / SUMS), r"no key .*: .* changed since"),
        (lambda bundle: flip(bundle / SIGNATURE, 63), "is signed by no key in"),
        (spoil, r"model\.onnx was changed"),
        (lambda bundle: (bundle / "more").write_text(""), "more was added"),
        (lambda bundle: (bundle / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes()[:63]), "is not signed: it has no"),
        (lambda bundle: (bundle / SIGNATURE).write_bytes(b""), "is not signed: it has no"),
        (linked, r"not signed: .*64 bytes"),
        (lambda bundle: (bundle / SUMS).unlink(), "SHA256SUMS is missing"),
    ],
)
def test_what_is_not_opened(bundle: Path, tmp_path: Path, change: Callable[[Path], object], told: str) -> None:
    mine = pair(tmp_path)
    sign_bundle(bundle, mine.private)
    change(bundle)
    with pytest.raises(InvalidBundleError, match=told) as unfit:
        check_bundle(bundle, mine.public)
    assert unfit.value.exit_code == 4
    with pytest.raises(InvalidBundleError, match=told):
        attar.open(bundle, trusted=mine.public)


@pytest.mark.parametrize("spoil", [linked, lambda bundle: (bundle / SIGNATURE).write_bytes(b"short")])
def test_what_cannot_be_a_signature_is_refused_by_everybody(signed: Path, spoil: Callable[[Path], object]) -> None:
    spoil(signed)
    with pytest.raises(InvalidBundleError, match=r"SHA256SUMS\.sig.*64"):
        check_bundle(signed)


def test_what_was_signed_is_what_is_compared(signed: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changes files and list just after the signature was verified gains nothing: the list is read once."""

    def late(bundle: Path, seal: Checksums, trusted: Path) -> Checksums:
        found = signatures.verify_signature(bundle, seal, trusted)
        resealed(bundle)
        return found

    monkeypatch.setattr(verified, "signatures", type("Late", (), {"verify_signature": staticmethod(late)}))
    with pytest.raises(InvalidBundleError, match=r"README\.md was changed"):
        check_bundle(signed, key.public)


@cache
def example() -> tuple[Ed25519PrivateKey, bytes]:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return private, private.sign(b"0" * 64 + b"  manifest.json\n")


@given(st.binary(max_size=100))
def test_a_signature_is_of_one_content_and_no_other(content: bytes) -> None:
    private, signature = example()
    is_it = content == b"0" * 64 + b"  manifest.json\n"
    assert signing_keys.is_by(private.public_key(), signature, content) == is_it


@given(st.integers(0, 64 * 8 - 1))
def test_no_bit_of_a_signature_may_differ(bit: int) -> None:
    private, signature = example()
    spoilt = bytearray(signature)
    spoilt[bit // 8] ^= 1 << bit % 8
    assert signing_keys.is_by(private.public_key(), signature, b"0" * 64 + b"  manifest.json\n")
    assert not signing_keys.is_by(private.public_key(), bytes(spoilt), b"0" * 64 + b"  manifest.json\n")


# -- keys that cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda public, private: "", "has no key"),
        (lambda public, private: "ssh-ed25519 AAAA me\n", "has no key"),
        (lambda public, private: public + private, "private key"),
        (lambda public, private: public[:-20], "PEM block"),
        (lambda public, private: public + public[:60], r"PEM block .*broken"),
        (lambda public, private: public + "# " + public.replace("\n", "\n# "), "commented out"),
        (lambda public, private: public + public.replace("PUBLIC KEY", "CERTIFICATE"), r"CERTIFICATE.*PUBLIC"),
        (lambda public, private: public.replace("MCow", "AAAA"), "PUBLIC KEY"),
    ],
)
def test_trusted_keys_that_are_none(
    signed: Path, key: KeyPair, tmp_path: Path, write: Callable[[str, str], str], told: str
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(write(key.public.read_text(), key.private.read_text()))
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(signed, trusted)


def test_trusted_keys_of_another_kind_or_not_there(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="RSAPublicKey"):
        check_bundle(signed, pair(tmp_path, kind="rsa").public)
    with pytest.raises(InvalidBundleError, match=r"nowhere .*: No such file"):
        check_bundle(signed, tmp_path / "nowhere")
    with pytest.raises(InvalidBundleError, match="Is a directory"):
        check_bundle(signed, tmp_path)
