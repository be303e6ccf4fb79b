"""Keys of signatures, as files in PEM: Ed25519 (RFC 8032), which openssl makes and uses, too.

Needs the library cryptography, which is imported only where a key is given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attar.pipeline.core.errors import InvalidBundleError, MissingDependencyError, RecipeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

BEGIN = b"-----BEGIN "
BLOCK = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]+)-----\s.*?^-----END \1-----\s*?$", re.DOTALL | re.MULTILINE
)
PUBLIC = "PUBLIC KEY"
GENERATE = "`openssl genpkey -algorithm ed25519 -out private.pem` makes one"
TO_PUBLIC = "`openssl pkey -in private.pem -pubout -out public.pem` makes one"


def is_by(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def compute_fingerprint(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def read_public_keys(file: Path) -> Sequence[Ed25519PublicKey]:
    """Return the keys of a file that holds PEM blocks, with any other lines between them.

    Raises InvalidBundleError unless all are Ed25519 keys, and public: a block that cannot be read
    may be one that somebody meant to remove.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidBundleError(
            f"the trusted keys {file} cannot be read: {error.strerror or error}"
        ) from error
    blocks = list(BLOCK.finditer(content))
    if len(blocks) != content.count(BEGIN):
        raise InvalidBundleError(
            f"{file} has a PEM block that is broken or commented out; to trust a key no more "
            "remove its block"
        )
    if not blocks:
        raise InvalidBundleError(
            f"{file} has no key; write public keys into it, in PEM, one after another; {TO_PUBLIC}"
        )
    return [read_public_key(file, block[0], block[1].decode()) for block in blocks]


def read_public_key(file: Path, block: bytes, label: str) -> Ed25519PublicKey:
    if label.endswith("PRIVATE KEY"):
        raise InvalidBundleError(
            f"{file} holds a private key, which belongs to the signer alone; give its public half; "
            f"{TO_PUBLIC}"
        )
    if label != PUBLIC:
        raise InvalidBundleError(f"{file} holds a {label}, expected a {PUBLIC}; {TO_PUBLIC}")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidBundleError(f"{file} holds a {PUBLIC} that cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidBundleError(describe_other_kind(file, key))
    return key


def read_private_key(file: Path, command: str) -> Ed25519PrivateKey:
    """Read the key that ``command`` signs with, whose next argument is the file.

    Raises RecipeError unless the file holds one, and not encrypted;
    MissingDependencyError without the library."""
    require_library()
    check_is_file_name(file)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise RecipeError(f"the key {file} cannot be read: {error.strerror or error}") from error
    except TypeError as error:  # it is encrypted
        through = f"`openssl pkey -in {file} | {command} /dev/stdin`"
        raise RecipeError(
            f"the key {file} is encrypted; {through} asks for its passphrase"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RecipeError(f"{file} holds no private key in PEM; {GENERATE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RecipeError(describe_other_kind(file, key))
    return key


def describe_other_kind(file: Path, key: object) -> str:
    return f"{file} holds a key of another kind than Ed25519, a {type(key).__name__}; {GENERATE}"


def check_is_file_name(file: Path | None) -> None:
    """Raises RecipeError, without repeating it, for a key that was given itself."""
    if file is not None and BEGIN.decode() in str(file):
        raise RecipeError(
            "a key was given where the name of its file belongs; write the key to a file, a "
            "private one for its owner alone (chmod 600), and give the name of that"
        )


def require_library() -> None:
    """Raises MissingDependencyError where it is not installed."""
    try:
        import cryptography  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need the library cryptography: pip install 'attar[sign]'"
        ) from error


def open_to_others(key: Path) -> str | None:
    """Return what the group or everybody may do with a private key: ``read``, ``write`` or
    nothing."""
    mode = key.stat().st_mode
    return "read" if mode & 0o044 else "write" if mode & 0o022 else None
