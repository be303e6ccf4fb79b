"""Errors of requests, with a message for the client and the status over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attar.pipeline.core.errors import AttarError


class RequestError(AttarError):
    """An error whose message is the answer to a request."""

    status: ClassVar[int]
    """The status over HTTP."""
    cause: ClassVar[str]
    """A word for it in metrics and logs."""
    retry_after: ClassVar[int | None] = None
    """Seconds after which a client may try again; None if that is useless."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """The headers of HTTP that say the same."""
        return [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]


class BadRequestError(RequestError):
    """The request is not one of the protocol, or the model does not take it."""

    status, cause = 400, "bad_request"


class UnauthorizedError(RequestError):
    """The token is missing, or not in the file."""

    status, cause = 401, "unauthorized"

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        return [("WWW-Authenticate", "Bearer")]


class ForbiddenError(RequestError):
    """The request was sent by a page of another site, or the sender may not do this."""

    status, cause = 403, "forbidden"


class NotFoundError(RequestError):
    """There is no such model, version or page."""

    status, cause = 404, "not_found"


class MethodNotAllowedError(RequestError):
    """The page is there, the method is not."""

    status, cause = 405, "not_allowed"

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed
        """The methods that are."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        return [("Allow", ", ".join(self.allowed))]


class TooLargeError(RequestError):
    """A limit of ``Settings`` is exceeded."""

    status, cause = 413, "too_large"


class HeaderTooLargeError(RequestError):
    """The request's line and headers are over the limit."""

    status, cause = 431, "header_too_large"


class TooSlowError(RequestError):
    """The client took too long to send it."""

    status, cause = 408, "too_slow"


class BusyError(RequestError):
    """The queue is full, or the model is on its way in or out."""

    status, cause = 503, "busy"
    retry_after = 1


class NoRoomError(BusyError):
    """The memory for requests is taken."""

    cause = "no_room"


class DeadlineError(RequestError):
    """The deadline passed before there was an answer."""

    status, cause = 504, "late"


class EngineFailedError(RequestError):
    """The engine broke; the request was in order."""

    status, cause = 500, "engine_failed"


def describe_kind(value: Any) -> str:
    """Return what a message calls the type of a value."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        type(None): "missing",
    }
    return names.get(type(value), "a number")


def format_value(value: Any) -> str:
    """Return the start of a value, for a message.

    A list or an object may be nested too deeply to be shown, so only its kind is named.
    """
    return describe_kind(value) if isinstance(value, dict | list) else str(value)[:80]
