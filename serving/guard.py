"""Guard: who may ask: bearer tokens from a file, TLS, and no page of another site in the name of its reader."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path

from attar.pipeline.core.errors import RecipeError
from attar.serving.errors import Forbidden, Unauthorized
from attar.serving.settings import Settings

OPEN = (b"/v2/health/live", b"/v2/health/ready")
"""What is answered without a token, as probes have none: whether the server lives and is ready, and nothing else."""
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{16,1000}=*")
"""As RFC 6750 2.1 has it, and long enough not to be guessed."""
PAGE = (b"/", b"/page/page.js", b"/page/page.css", b"/page/icon.svg")
"""So is the page that asks for the token, while there is one; it tells nothing of the models by itself."""
ASK_WITH_TOKEN = "this needs a token; send the header Authorization: Bearer TOKEN"  # noqa: S105  # a message, no token
log = logging.getLogger(__name__)


class Guard:
    """What both transports ask before they read a request."""

    def __init__(self, settings: Settings) -> None:
        """Raises RecipeError for files that cannot be used."""
        self.settings = settings
        self.tls = context(settings)
        self._open = frozenset(OPEN + PAGE if settings.page else OPEN)
        self._digests: list[bytes] | None = None
        self._stamp: tuple[int, ...] = ()
        if settings.token_file:
            self._stamp = stamp(settings.token_file)
            self._digests = tokens(settings.token_file)

    def check(self, target: bytes, headers: Mapping[bytes, bytes]) -> None:
        """Of a request over HTTP. Raises Unauthorized, and Forbidden for what a page of another site sends: browsers send it even
        to a server that only this machine reaches, and say so."""
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise Forbidden("a page of another site may not ask; a proxy in between must pass the header Host on")
        if self._digests is not None and target not in self._open and not self.admits(headers.get(b"authorization", b"")):
            raise Unauthorized(ASK_WITH_TOKEN)

    def admits(self, authorization: bytes) -> bool:
        """Takes as long for a token that is nearly right as for one that is not."""
        if self._digests is None:
            return True
        scheme, _, token = authorization.partition(b" ")
        digest = sha256(token.strip()).digest()
        found = [compare_digest(digest, each) for each in self._digests]
        return scheme.lower() == b"bearer" and any(found)

    def look(self) -> None:
        """Read the tokens again where their file has changed."""
        if self.settings.token_file and stamp(self.settings.token_file) != self._stamp:
            self._read()

    def reload(self) -> None:
        """Read everything again. What cannot be used is told, and what was read before stays."""
        if self.settings.token_file:
            self._read()
        if self.tls:
            try:
                context(self.settings)  # tried on another: a half that fits no more must not spoil the one in use
                load(self.tls, self.settings)
            except RecipeError as error:
                log.error("the old certificate stays in use: %s", error)  # the user's file, no fault of ours

    def _read(self) -> None:
        path = self.settings.token_file
        assert path  # noqa: S101  # its callers looked
        self._stamp = stamp(path)
        try:
            self._digests = tokens(path)
            log.info("read %d tokens from %s", len(self._digests), path)
        except RecipeError as error:
            log.error("the old tokens stay in use: %s", error)  # the user's file, no fault of ours

    def key_pair(self) -> tuple[bytes, bytes] | None:
        """Private key and certificate chain in PEM; None without TLS."""
        cert = self.settings.tls_cert
        return ((self.settings.tls_key or cert).read_bytes(), cert.read_bytes()) if cert else None

    def warnings(self) -> list[str]:
        """What its operator should know before others find it out."""
        host = self.settings.host
        if is_loopback(host):
            return []
        if self._digests is None:
            return [f"{host} is reached from other machines, and everybody there may ask; give --token-file"]
        return [] if self.tls else [f"tokens travel to {host} where everybody on the way reads them; give --tls-cert"]


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def stamp(path: Path) -> tuple[int, ...]:
    """Tells of a change without reading; empty for a file that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def tokens(path: Path) -> list[bytes]:
    """Their digests. Raises RecipeError for a file that cannot be read, has none, or a line that is none; never shows one."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RecipeError(f"the token file cannot be read: {error}") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, token in found:
        if not TOKEN.fullmatch(token):
            raise RecipeError(
                f"line {number} of {path} is no token: 16 characters or more of A-Z a-z 0-9 - . _ ~ + /; `openssl rand -hex 32`"
            )
    if not found:
        raise RecipeError(f"{path} has no token; write one a line, such as from `openssl rand -hex 32`")
    return [sha256(token).digest() for _, token in found]


def context(settings: Settings) -> ssl.SSLContext | None:
    """Raises RecipeError for files that cannot be used."""
    if settings.tls_cert is None:
        if settings.tls_key:
            raise RecipeError("--tls-key is given without a certificate; give --tls-cert too")
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load(made, settings)
    return made


def load(made: ssl.SSLContext, settings: Settings) -> None:
    assert settings.tls_cert  # noqa: S101  # its callers looked
    try:
        made.load_cert_chain(settings.tls_cert, settings.tls_key, password=no_password)
    except OSError as error:  # ssl.SSLError is one
        given = f"{settings.tls_cert} and {settings.tls_key or 'the key in it'}"
        raise RecipeError(f"{given} are no certificate and key in PEM that fit: {error}") from error


def no_password() -> str:
    """Instead of being asked for one at the terminal, which a server has not."""
    return ""
