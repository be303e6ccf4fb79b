"""Whose records of a shared store a machine takes, and with which key it signs its own.

A signature is Ed25519 (RFC 8032) over the record and the facts in canonical JSON. The record has
the artifact's key and the digest of every file, so a signature holds for that artifact alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attar.pipeline.core import signing_keys
from attar.pipeline.core.errors import InvalidBundleError, RecipeError
from attar.pipeline.shared.publication import Publication, RecordSignature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PURPOSE = b"attar record 1\n"
"""Comes before what is signed, so that no signature of anything else is one of a record."""


@dataclass(frozen=True)
class RecordTrust:
    """By default every record is taken, and none is signed."""

    trusted: Sequence[Ed25519PublicKey] | None = None
    """Keys, one of which must have signed a record; None: whoever wrote it is trusted."""
    private: Ed25519PrivateKey | None = field(default=None, repr=False)
    """The key that signs what this machine publishes."""

    @classmethod
    def read(cls, trusted: Path | None, private: Path | None) -> RecordTrust:
        """Read the files of keys. Raises RecipeError for one that cannot be used, and for a key
        that is not trusted itself; MissingDependencyError without the library cryptography."""
        keys = None if trusted is None else read_trusted_keys(trusted)
        if private is None:
            return cls(keys)
        signer = signing_keys.read_private_key(private, "attar run RECIPE --store-key")
        own = signing_keys.compute_fingerprint(signer.public_key())
        if keys is not None and own not in map(signing_keys.compute_fingerprint, keys):
            raise RecipeError(
                f"the key {private} ({own}) is none of those in {trusted}, so this machine would "
                f"not take what it publishes itself; add its public half to {trusted}"
            )
        return cls(keys, signer)

    @property
    def publishes(self) -> bool:
        """Whether this machine would take what it publishes. If not, it only reads."""
        return self.trusted is None or self.private is not None

    def sign(self, made: Publication) -> Publication:
        """Return the publication with a signature, if there is a key to sign with."""
        if self.private is None:
            return made
        signature = RecordSignature(
            key=signing_keys.compute_fingerprint(self.private.public_key()),
            signature=self.private.sign(PURPOSE + made.content).hex(),
        )
        return made.model_copy(update={"signature": signature})

    def accepts(self, made: Publication) -> bool:
        return self.explain_distrust(made) is None

    def explain_distrust(self, made: Publication) -> str | None:
        """Return why a record is not taken; None for one that is."""
        if self.trusted is None:
            return None
        if made.signature is None:
            return "is not signed"
        signature, content = bytes.fromhex(made.signature.signature), PURPOSE + made.content
        if any(signing_keys.is_by(key, signature, content) for key in self.trusted):
            return None
        return (
            f"names the key {made.signature.key} and is signed by no key that is trusted: somebody "
            "else signed it, or it was changed since"
        )


def read_trusted_keys(file: Path) -> Sequence[Ed25519PublicKey]:
    """Return the public keys in a file. Raises RecipeError if it has none, or a private one."""
    signing_keys.require_library()
    try:
        return signing_keys.read_public_keys(file)
    except InvalidBundleError as error:
        raise RecipeError(str(error)) from error
