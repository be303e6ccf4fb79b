"""The HTTP API: the routes of the Open Inference Protocol v2, and what each of them answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from time import perf_counter_ns
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools

from attar.models.task import Array
from attar.serving.core import logs
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import (
    BadRequestError,
    EngineFailedError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
    TooLargeError,
)
from attar.serving.http import openapi
from attar.serving.http.body import content_encoding, decompress, read_body
from attar.serving.http.message import Reply, Request, error_reply, json_reply
from attar.serving.models.descriptions import describe_configuration
from attar.serving.models.model import Model
from attar.serving.models.service import InferenceService
from attar.serving.protocol import response
from attar.serving.protocol.json_checks import check_flag, parse_object
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.json_numbers import Body
from attar.serving.protocol.request import HEADER_LENGTH, InferenceRequest

Handler: TypeAlias = Callable[..., Awaitable[Reply]]
"""Called with a request and, by name, with the parts of its path that the route names."""
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
MODEL_PARTS = {"name", "version"}
"""The parts of a path that name a model."""
REQUEST_ID = b"x-request-id"
PRINTABLE_ID = re.compile(rb"[!-~]{1,128}")
"""A request id that is echoed and logged; any other is ignored."""
log = logging.getLogger(__name__)
access = logging.getLogger("attar.access")


class HttpApi:
    def __init__(self, service: InferenceService, authenticator: Authenticator) -> None:
        self.service, self.repository, self.settings = service, service.repository, service.settings
        self._authenticator = authenticator
        self.routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._find_cached = lru_cache(maxsize=1024)(self._find_handler)
        for method, path, handler in (
            ("GET", "/v2/health/live", self.get_liveness),
            ("GET", "/v2/health/ready", self.get_readiness),
            ("GET", "/v2/?", self.get_server_metadata),
            ("GET", r"/openapi\.json", self.get_openapi),
            ("GET", r"/v2/models/stats", self.get_statistics),
            ("GET", MODEL, self.get_model_metadata),
            ("GET", MODEL + "/ready", self.get_model_readiness),
            ("GET", MODEL + "/config", self.get_model_configuration),
            ("GET", MODEL + "/stats", self.get_statistics),
            ("POST", MODEL + "/infer", self.infer),
            ("POST", "/v2/repository/index", self.list_models),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/load", self.load_model),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/unload", self.unload_model),
        ):
            self.add_route(method, path, handler)

    def add_route(self, method: str, path: str, handler: Handler) -> None:
        """Add a handler for a pattern of whole paths; its named groups are the handler's arguments.

        A route of GET answers HEAD too.
        """
        self.routes.append((method, re.compile(path), handler))
        self._find_cached.cache_clear()

    async def answer(self, request: Request) -> Reply:
        """Return the reply to a request. An unforeseen error is logged and answered with 500."""
        started = perf_counter_ns() if self.settings.access_log else 0
        given_id = request.headers.get(REQUEST_ID)
        if given_id and PRINTABLE_ID.fullmatch(given_id):
            request.id = given_id.decode()
        try:
            handler, parts = self._find_cached(request.method, request.target)
            reply = await handler(request, **parts)
        except RequestError as error:
            reply = self.refuse(error, request)
        except Exception:
            log.exception("a request failed", extra=logs.log_fields(**describe_request(request)))
            reply = self.refuse(EngineFailedError("the server failed; its log says why"), request)
        if given_id and request.id:
            reply.headers = [*reply.headers, ("X-Request-ID", request.id)]
        if started:
            log_access(request, reply, perf_counter_ns() - started)
        return reply

    def refuse(self, error: RequestError, request: Request | None = None) -> Reply:
        """Return the reply that refuses, and record it. ``request``: None if none was read
        whole."""
        about = describe_request(request) if request else {}
        self.service.record_refusal(error, **about)
        return error_reply(error)

    def find_largest_body(self, method: str, target: bytes) -> int:
        """Return how many bytes the body of a request may have, from its first line alone.

        Raises RequestError where the first line says already that the request is refused.
        """
        if self.settings.max_body is not None:
            return self.settings.max_body
        _, parts = self._find_cached(method, target)
        if not parts or not parts.keys() <= MODEL_PARTS:
            return SHORT_BYTES
        return self.repository.find_model(**parts).reader.largest

    def _find_handler(self, method: str, target: bytes) -> tuple[Handler, dict[str, str]]:
        path = parse_path(target)
        by_method: dict[str, tuple[Handler, dict[str, str]]] = {}
        for route_method, pattern, handler in self.routes:
            if match := pattern.fullmatch(path):
                by_method.setdefault(route_method, (handler, match.groupdict()))
        if "GET" in by_method:
            by_method.setdefault("HEAD", by_method["GET"])
        if method in by_method:
            handler, parts = by_method[method]
            return handler, {name: value for name, value in parts.items() if value}
        if by_method:
            allowed = sorted(by_method)
            raise MethodNotAllowedError(
                f"{method} is not allowed here, {' and '.join(allowed)} is", allowed
            )
        raise NotFoundError(f"there is no {path[:200]!r}")

    # -- the server -------------------------------------------------------------------------------

    async def get_liveness(self, request: Request) -> Reply:
        live = self.repository.live
        return json_reply({"live": live}, 200 if live else 503)

    async def get_readiness(self, request: Request) -> Reply:
        ready = self.service.is_ready
        return json_reply({"ready": ready}, 200 if ready else 503)

    async def get_server_metadata(self, request: Request) -> Reply:
        return json_reply(self.service.describe_server())

    async def get_openapi(self, request: Request) -> Reply:
        return json_reply(openapi.build_document(self.repository.list_models(), self.settings))

    # -- models -----------------------------------------------------------------------------------

    async def get_model_metadata(self, request: Request, name: str, version: str = "") -> Reply:
        return json_reply(self.repository.describe_metadata(name, version))

    async def get_model_readiness(self, request: Request, name: str, version: str = "") -> Reply:
        ready = self.service.is_model_ready(name, version)
        return json_reply({"name": name, "ready": ready}, 200 if ready else 503)

    async def get_model_configuration(
        self, request: Request, name: str, version: str = ""
    ) -> Reply:
        return json_reply(describe_configuration(self.repository.find_model(name, version)))

    async def get_statistics(self, request: Request, name: str = "", version: str = "") -> Reply:
        return json_reply({"model_stats": self.service.collect_statistics(name, version)})

    async def infer(self, request: Request, name: str, version: str = "") -> Reply:
        model = self.repository.find_model(name, version)
        with model.served.use():
            asked = await self.read_inference(request, model)
            return inference_reply(model, asked, await model.infer(asked))

    async def read_inference(self, request: Request, model: Model) -> InferenceRequest:
        """Return the request for a model whose bundle is in use. Raises RequestError."""
        reading = read_body(request, model.reader, self.service.reader_thread)
        asked = await model.read_request(reading)
        request.id = request.id or asked.id
        return asked

    # -- the repository ---------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Reply:
        asked = parse_object(read_short_body(request) or b"{}")
        only_ready = check_flag(asked.get("ready", False), "ready")
        return json_reply(self.service.list_models(only_ready=only_ready))

    async def load_model(self, request: Request, name: str) -> Reply:
        self._authenticator.check_control(request.headers.get(b"authorization", b""))
        asked = parse_object(read_short_body(request) or b"{}")
        await self.service.load_model(name, asked.get("parameters"))
        return Reply()

    async def unload_model(self, request: Request, name: str) -> Reply:
        self._authenticator.check_control(request.headers.get(b"authorization", b""))
        await self.repository.unload(name)
        return Reply()


def inference_reply(model: Model, asked: InferenceRequest, outputs: Mapping[str, Array]) -> Reply:
    answer = response.build_response(
        asked, outputs, model.name, model.version, model.signature.labels
    )
    pieces, size = response.write_response(answer)
    if size is None:
        return Reply(pieces)
    headers = [(HEADER_LENGTH, str(size))]
    return Reply(pieces, content_type="application/octet-stream", headers=headers)


def describe_request(request: Request) -> dict[str, Any]:
    """Return what a line of the log says about a request."""
    target = request.target[:200].decode("latin-1")
    return {"id": request.id, "method": request.method, "target": target}


def log_access(request: Request, reply: Reply, nanoseconds: int) -> None:
    told = {"status": reply.status, "milliseconds": round(nanoseconds / 1e6, 3)}
    access.info("answered", extra=logs.log_fields(**describe_request(request), **told))


def parse_path(target: bytes) -> str:
    """Return the path of a request's target. Raises BadRequestError if it is no URL."""
    try:
        return unquote_to_bytes(httptools.parse_url(target).path or b"/").decode()
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
        raise BadRequestError(f"{target[:200]!r} is no path") from error


def read_short_body(request: Request) -> Body:
    """Return the body of a request without tensors. Raises BadRequestError and TooLargeError."""
    if len(request.body) > SHORT_BYTES:
        raise TooLargeError(f"the body is over {SHORT_BYTES} bytes, which no request is here")
    reserve = request.reservation.add
    return decompress(request.body, content_encoding(request), SHORT_BYTES, reserve)
