"""Keys to sign bundles with, as files in PEM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PASSPHRASE = "of a key that locks nothing"  # noqa: S105  # for tests


class KeyPair(NamedTuple):
    private: Path
    public: Path


def pair(folder: Path, name: str = "key", *, kind: str = "ed25519", seed: bytes | None = None, locked: bool = False) -> KeyPair:
    """A new key; the private half only its owner may read, ``locked`` with the passphrase.

    ``seed``: 32 bytes for an Ed25519 key that is always the same.
    """
    made: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if kind == "rsa":
        made = rsa.generate_private_key(65537, 2048)
    else:
        made = ed25519.Ed25519PrivateKey.from_private_bytes(seed) if seed else ed25519.Ed25519PrivateKey.generate()
    lock: KeySerializationEncryption = BestAvailableEncryption(PASSPHRASE.encode()) if locked else NoEncryption()
    found = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    found.private.touch(0o600)
    found.private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    found.public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return found


NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the PATH")


def run_openssl(*arguments: object) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout
