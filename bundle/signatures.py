"""Signatures: whose bundle it is. Ed25519 (RFC 8032) over the bytes of ``SHA256SUMS``, which names
every file.

A signature is ``SHA256SUMS.sig``, 64 raw bytes, and keys are PEM, so that openssl makes and
verifies all of it too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attar.bundle.checksums import LENGTH, SIGNATURE, Checksums
from attar.pipeline.core.errors import InvalidBundleError
from attar.pipeline.core.signing_keys import (
    compute_fingerprint,
    is_by,
    read_public_keys,
    require_library,
)


def verify_signature(bundle: Path, seal: Checksums, trusted: Path) -> Checksums:
    """With the key that signed what was read. Raises InvalidBundleError where none of those in
    ``trusted`` did, and where that file cannot be used; MissingDependencyError without the
    library."""
    require_library()
    keys = read_public_keys(trusted)
    if seal.signature is None:
        raise InvalidBundleError(
            f"{bundle} is not signed: it has no {SIGNATURE}, a plain file of {LENGTH} bytes; "
            f"`attar sign` writes one, with a key whose public half is in {trusted}"
        )
    for key in keys:
        if is_by(key, seal.signature, seal.content):
            return replace(seal, key=compute_fingerprint(key))
    known = ", ".join(map(compute_fingerprint, keys))
    raise InvalidBundleError(
        f"{bundle} is signed by no key in {trusted} ({known}): it was changed since, or somebody "
        "else signed it"
    )
