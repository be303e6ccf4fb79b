"""Tokens: the secrets that callers send, read from a file that may change while the server runs."""

from __future__ import annotations

import logging
import re
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from attar.pipeline.core.errors import RecipeError

TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{16,1000}=*")
"""The syntax of RFC 6750 2.1, with a length that cannot be guessed."""
log = logging.getLogger(__name__)


class TokenFile:
    """A file with one token a line, of which only digests are held."""

    def __init__(self, path: Path) -> None:
        """Raises RecipeError for a file that cannot be used."""
        self.path = path
        self._stamp = read_stamp(path)
        self.digests = read_digests(path)

    def has_token(self, authorization: bytes) -> bool:
        """Return in a time that does not depend on how much of a token is right."""
        scheme, _, token = authorization.partition(b" ")
        digest = sha256(token.strip()).digest()
        found = [compare_digest(digest, each) for each in self.digests]
        return scheme.lower() == b"bearer" and any(found)

    def reload_if_changed(self) -> None:
        """Read it again where it has changed."""
        if read_stamp(self.path) != self._stamp:
            self.reload()

    def reload(self) -> None:
        """Read the file again. If it cannot be used, that is logged, and the old tokens stay."""
        self._stamp = read_stamp(self.path)
        try:
            self.digests = read_digests(self.path)
            log.info("read %d tokens from %s", len(self.digests), self.path)
        except RecipeError as error:
            log.error("the old tokens stay in use: %s", error)


def read_stamp(path: Path) -> tuple[int, ...]:
    """Return what tells of a change without reading; empty for a file that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_digests(path: Path) -> list[bytes]:
    """Return the digests of a file's tokens.

    Raises RecipeError for a file without tokens or with an invalid line, and never shows one.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RecipeError(f"the token file cannot be read: {error}") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, token in found:
        if not TOKEN.fullmatch(token):
            raise RecipeError(
                f"line {number} of {path} is no token: 16 characters or more of A-Z a-z 0-9 - "
                ". _ ~ + /; `openssl rand -hex 32`"
            )
    if not found:
        raise RecipeError(
            f"{path} has no token; write one a line, such as from `openssl rand -hex 32`"
        )
    return [sha256(token).digest() for _, token in found]
