"""Access to the server: bearer tokens from files, TLS, and no pages of other sites."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping

from attar.pipeline.core.errors import RecipeError
from attar.serving.core.errors import ForbiddenError, UnauthorizedError
from attar.serving.core.hosts import check_host, is_loopback, normalize_host, parse_host
from attar.serving.core.settings import Settings
from attar.serving.core.tokens import TokenFile

OPEN = (b"/v2/health/live", b"/v2/health/ready")
"""Paths that need no token, as probes have none. They tell only whether the server lives and is
ready."""
PAGE = (b"/", b"/page/page.js", b"/page/page.css", b"/page/icon.svg")
"""The page's own files, which need no token either: the page asks for it, and says nothing about
the models itself."""
ASK_WITH_TOKEN = "this needs a token; send the header Authorization: Bearer TOKEN"  # noqa: S105  # a message, no token
CONTROL_OFF = "clients may not load or unload models on this server; start it with --model-control"
ASK_WITH_CONTROL = "this token may not load or unload models; send one of --control-token-file"
log = logging.getLogger(__name__)


class Authenticator:
    """Checks both transports' requests before they are read."""

    def __init__(self, settings: Settings) -> None:
        """Raises RecipeError for files that cannot be used."""
        self.settings = settings
        self.tls = create_tls_context(settings)
        self._hosts = {normalize_host(name) for name in (settings.host, *settings.allowed_host)}
        self._open = frozenset(OPEN + PAGE if settings.page else OPEN)
        self._tokens = TokenFile(settings.token_file) if settings.token_file else None
        self._control = (
            TokenFile(settings.control_token_file) if settings.control_token_file else None
        )
        self._check_control_settings()

    def check_request(self, target: bytes, headers: Mapping[bytes, bytes]) -> None:
        """Check a request over HTTP.

        Browsers send requests of pages of other sites even to a server that only this machine
        reaches, and say so: these are refused. Without tokens and TLS the Host must be a name of
        this server, except for health: such a page has no token, and its name is not in the
        certificate. Raises UnauthorizedError, ForbiddenError, and BadRequestError for an invalid
        Host.
        """
        if (host := headers.get(b"host")) is not None:
            parse_host(host)
            if self._tokens is None and self.tls is None and target not in OPEN:
                check_host(host, self._hosts)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise ForbiddenError(
                "a page of another site may not ask; a proxy in between must pass the header "
                "Host on"
            )
        if (
            self._tokens
            and target not in self._open
            and not self.is_authorized(headers.get(b"authorization", b""))
        ):
            raise UnauthorizedError(ASK_WITH_TOKEN)

    def is_authorized(self, authorization: bytes) -> bool:
        """Whether it opens what is not control of the repository.

        Who may control that may do all else, too.
        """
        return not self._tokens or any(file.has_token(authorization) for file in self._list_files())

    def check_control(self, authorization: bytes) -> None:
        """Check a request to load or unload a model.

        Raises ForbiddenError, and UnauthorizedError without a token.
        """
        if not self.settings.model_control:
            raise ForbiddenError(CONTROL_OFF)
        if not self._control:
            return  # only this machine reaches the server, and no client needs a token
        if not authorization:
            raise UnauthorizedError(ASK_WITH_TOKEN)
        if not self._control.has_token(authorization) or (
            self._tokens and self._tokens.has_token(authorization)
        ):
            raise ForbiddenError(ASK_WITH_CONTROL)

    def _check_control_settings(self) -> None:
        """Raises RecipeError where more would control the repository than were asked to."""
        if not self._control:
            if self.settings.model_control and (
                self._tokens or not is_loopback(self.settings.host)
            ):
                raise RecipeError(
                    "--model-control lets others change what is served; say who may with "
                    "--control-token-file"
                )
            return
        if not self.settings.model_control:
            raise RecipeError(
                "--control-token-file is for --model-control, which is not given; give it too"
            )
        if self._tokens and set(self._tokens.digests) & set(self._control.digests):
            raise RecipeError(
                f"a token of {self._control.path} is in {self._tokens.path} too; control of "
                "the models needs one of its own"
            )

    def _list_files(self) -> list[TokenFile]:
        return [file for file in (self._tokens, self._control) if file]

    def reload_if_changed(self) -> None:
        """Read the tokens again where their file has changed."""
        for file in self._list_files():
            file.reload_if_changed()

    def reload(self) -> None:
        """Read all files again. A file that cannot be used is logged, and its old content stays."""
        for file in self._list_files():
            file.reload()
        if self.tls:
            try:
                # Tried on another context: certificate and key that do not fit would spoil the
                # one in use.
                create_tls_context(self.settings)
                load_certificate(self.tls, self.settings)
            except RecipeError as error:
                log.error("the old certificate stays in use: %s", error)

    def key_pair(self) -> tuple[bytes, bytes] | None:
        """Return the private key and the certificate chain in PEM; None without TLS."""
        cert = self.settings.tls_cert
        return ((self.settings.tls_key or cert).read_bytes(), cert.read_bytes()) if cert else None

    def list_warnings(self) -> list[str]:
        """Return what the operator should know before others find it out."""
        host = self.settings.host
        if is_loopback(host):
            return []
        if not self._tokens:
            return [
                (
                    f"{host} is reached from other machines, and everybody there may ask; give "
                    "--token-file"
                )
            ]
        return (
            []
            if self.tls
            else [f"tokens travel to {host} where everybody on the way reads them; give --tls-cert"]
        )


def create_tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Raises RecipeError for files that cannot be used."""
    if settings.tls_cert is None:
        if settings.tls_key:
            raise RecipeError("--tls-key is given without a certificate; give --tls-cert too")
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load_certificate(made, settings)
    return made


def load_certificate(made: ssl.SSLContext, settings: Settings) -> None:
    assert settings.tls_cert  # noqa: S101  # its callers looked
    try:
        made.load_cert_chain(settings.tls_cert, settings.tls_key, password=no_password)
    except OSError as error:  # ssl.SSLError is one
        given = f"{settings.tls_cert} and {settings.tls_key or 'the key in it'}"
        raise RecipeError(f"{given} are no certificate and key in PEM that fit: {error}") from error


def no_password() -> str:
    """Return no password, so that no terminal is asked for one."""
    return ""
