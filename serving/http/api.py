"""The HTTP API: finds the handler of a request by its path, and makes a reply of every error."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter_ns
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools

from attar.serving.core import logs
from attar.serving.core.errors import (
    BadRequestError,
    EngineFailedError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
)
from attar.serving.http.message import Reply, Request, json_reply
from attar.serving.models.service import InferenceService
from attar.serving.protocol.json_data import SHORT_BYTES

Handler: TypeAlias = Callable[..., Awaitable[Reply]]
"""Called with a request and, by name, with the parts of its path that the route names."""
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
REQUEST_ID = b"x-request-id"
PRINTABLE_ID = re.compile("[!-~]{1,128}")
log = logging.getLogger(__name__)
access = logging.getLogger("attar.access")


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: re.Pattern[str]
    handler: Handler
    takes_tensors: bool
    """Whether its body may be as long as the largest request of the model in its path."""


class HttpApi:
    def __init__(self, service: InferenceService) -> None:
        self.service, self.repository, self.settings = service, service.repository, service.settings
        self.routes: list[Route] = []
        self._find_cached = lru_cache(maxsize=1024)(self._find_route)

    def add_route(
        self, method: str, path: str, handler: Handler, *, takes_tensors: bool = False
    ) -> None:
        """Add a handler for a pattern of whole paths; its named groups are the handler's arguments.

        A route of GET answers HEAD too. One that takes tensors names a model in its path.
        """
        self.routes.append(Route(method, re.compile(path), handler, takes_tensors))
        self._find_cached.cache_clear()

    async def answer(self, request: Request) -> Reply:
        """Return the reply to a request. An unforeseen error is logged and answered with 500."""
        started = perf_counter_ns() if self.settings.access_log else 0
        given = request.headers.get(REQUEST_ID)
        request.id = given_id = filter_id(given.decode("latin-1")) if given else ""
        try:
            route, parts = self._find_cached(request.method, request.target)
            reply = await route.handler(request, **parts)
        except RequestError as error:
            reply = self.refuse(error, request)
        except Exception:
            log.exception("a request failed", extra=logs.log_fields(**describe_request(request)))
            reply = self.refuse(EngineFailedError("the server failed; its log says why"), request)
        if given_id:
            reply.headers = [*reply.headers, ("X-Request-ID", given_id)]
        if started:
            log_access(request, reply, perf_counter_ns() - started)
        return reply

    def refuse(self, error: RequestError, request: Request | None = None) -> Reply:
        """Return the reply to an error, and record it; ``request`` is None if it is not whole."""
        self.service.record_refusal(error, **(describe_request(request) if request else {}))
        return json_reply({"error": str(error)}, error.status, error.headers)

    def find_largest_body(self, method: str, target: bytes) -> int:
        """Return the limit on the body of a request, given its first line.

        Raises RequestError if the first line alone is a reason to refuse it.
        """
        if self.settings.max_body is not None:
            return self.settings.max_body
        route, parts = self._find_cached(method, target)
        if not route.takes_tensors:
            return SHORT_BYTES
        return self.repository.find_model(**parts).reader.largest

    def _find_route(self, method: str, target: bytes) -> tuple[Route, dict[str, str]]:
        """Return the route of a request, and the parts of its path. Raises RequestError."""
        path = parse_path(target)
        by_method: dict[str, tuple[Route, dict[str, str]]] = {}
        for route in self.routes:
            if match := route.path.fullmatch(path):
                parts = {name: value for name, value in match.groupdict().items() if value}
                by_method.setdefault(route.method, (route, parts))
        if "GET" in by_method:
            by_method.setdefault("HEAD", by_method["GET"])
        if method in by_method:
            return by_method[method]
        if by_method:
            allowed = sorted(by_method)
            raise MethodNotAllowedError(
                f"{method} is not allowed here, {' and '.join(allowed)} is", allowed
            )
        raise NotFoundError(f"there is no {path[:200]!r}")


def filter_id(given: str) -> str:
    """Return an id that may be echoed and logged; an empty one for any other."""
    return given if PRINTABLE_ID.fullmatch(given) else ""


def describe_request(request: Request) -> dict[str, Any]:
    """Return the fields of a line of the log."""
    target = request.target[:200].decode("latin-1")
    return {"id": request.id, "method": request.method, "target": target}


def log_access(request: Request, reply: Reply, nanoseconds: int) -> None:
    fields = {"status": reply.status, "milliseconds": round(nanoseconds / 1e6, 3)}
    access.info("answered", extra=logs.log_fields(**describe_request(request), **fields))


def parse_path(target: bytes) -> str:
    """Return the path of a request's target. Raises BadRequestError if it is no URL."""
    try:
        return unquote_to_bytes(httptools.parse_url(target).path or b"/").decode()
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
        raise BadRequestError(f"{target[:200]!r} is no path") from error
