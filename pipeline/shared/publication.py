"""What is said of an artifact to the machines that share a store."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from attar.pipeline.core.disk import encode_json
from attar.pipeline.core.errors import CorruptArtifactError, StoreError
from attar.pipeline.core.version import VERSION
from attar.pipeline.store.entry import Recorded
from attar.pipeline.store.format import STORE_VERSION


class RecordSignature(BaseModel):
    """Who vouches for a record; see ``record_trust``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
    """The fingerprint of the key that signed it, as the record says."""
    signature: Annotated[str, StringConstraints(pattern="^[0-9a-f]{128}$")]
    """Of ``Publication.content``, 64 bytes."""


class Publication(BaseModel):
    """The record of an artifact and its facts, so that a plan needs no file of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: int
    """The version of the store's layout."""
    record: dict[str, Any]
    facts: dict[str, Any]
    signature: RecordSignature | None = None

    @property
    def key(self) -> str:
        return str(self.record["key"])

    @property
    def digest(self) -> str:
        return str(self.record["digest"])

    @property
    def files(self) -> dict[str, str]:
        """Return the digest of each file, by its path in the artifact."""
        return {name: digest for name, (_, _, digest) in self.record["files"].items()}

    @property
    def signer(self) -> str | None:
        """The fingerprint of the key that it says has signed it; None if it is not signed."""
        return None if self.signature is None else self.signature.key

    @property
    def content(self) -> bytes:
        """Return all but the signature, which is what a signature is of."""
        return encode_json(self.model_dump(exclude={"signature"})).encode()

    def encode(self) -> bytes:
        return encode_json(self.model_dump()).encode() if self.signature else self.content


def read_publication(key: str, text: bytes, place: str) -> Publication:
    """Return the publication of ``key``, whose digests agree with each other.

    Raises CorruptArtifactError, StoreError if a newer attar wrote it.
    """
    try:
        values = json.loads(text, parse_float=parse_finite, parse_constant=parse_finite)
        check_version(values, place)
        made = Publication.model_validate(values)
        is_sound = Recorded.model_validate(made.record).key == key and is_consistent(made)
    except (ValueError, TypeError, LookupError, RecursionError):
        is_sound = False
    if not is_sound:
        raise CorruptArtifactError(f"the record of {key[:12]} in {place} is damaged")
    return made


def check_version(values: Mapping[str, Any], place: str) -> None:
    """Raises StoreError if a newer attar wrote this."""
    version = values["store"]
    if isinstance(version, int) and version > STORE_VERSION:
        raise StoreError(
            f"the store {place} has version {version}, and attar {VERSION} reads stores up to "
            f"version {STORE_VERSION}: upgrade attar, or choose another store with --store"
        )


def is_consistent(publication: Publication) -> bool:
    """Whether the digests are those of the facts and of the files, and all files lie inside the
    artifact."""
    files = publication.files
    facts = encode_json(publication.facts, indent=1)
    return (
        all(is_inside(name) for name in files)
        and files["facts.json"] == hashlib.sha256(facts.encode()).hexdigest()
        and publication.digest == hashlib.sha256(encode_json(files).encode()).hexdigest()
    )


def parse_finite(text: str) -> float:
    """Return a number. Raises ValueError for infinity and NaN, which have no canonical form to be
    signed."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name != "record.json"
