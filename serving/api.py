"""API: what is asked for by which method and path, and what is answered: the Open Inference Protocol v2 over HTTP.

Written against ``Request`` and ``Reply`` alone. Further pages are further routes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from time import perf_counter_ns
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools

from attar.models.task import Array
from attar.pipeline.core.errors import InvalidBundleError
from attar.pipeline.core.version import VERSION
from attar.serving import logs, openapi, protocol
from attar.serving.errors import BadRequest, EngineFailed, NotAllowed, NotFound, Refused, TooLarge
from attar.serving.guard import Guard
from attar.serving.http_message import Reply, Request, error_reply, json_reply
from attar.serving.json_data import SHORT_BYTES, Body
from attar.serving.model import Model
from attar.serving.observer import Observer
from attar.serving.protocol import Infer
from attar.serving.reader import flag, parsed
from attar.serving.reading import BodyReading, content_encoding, decompress
from attar.serving.repository import Repository

Handler: TypeAlias = Callable[..., Awaitable[Reply]]
"""Of a request and, by name, of the parts that its path names."""
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]
NAMES = {"name", "version"}
"""The parts of a path that name a model."""
REQUEST_ID = b"x-request-id"
SHOWN = re.compile(rb"[!-~]{1,128}")
"""An id that is echoed and logged; any other is passed over."""
log = logging.getLogger(__name__)
access = logging.getLogger("attar.access")


class Api:
    def __init__(self, repository: Repository, guard: Guard, observers: Iterable[Observer] = ()) -> None:
        self.repository, self.settings, self.observers = repository, repository.settings, tuple(observers)
        self._guard = guard
        self.draining = False
        self._lines = logs.LineLimit()
        self.reading = BodyReading(self.settings.deadline)
        self.routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._found = lru_cache(maxsize=1024)(self._find)
        for method, path, handler in (
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/v2/?", self.server),
            ("GET", r"/openapi\.json", self.openapi),
            ("GET", r"/v2/models/stats", self.every_statistics),
            ("GET", MODEL, self.model),
            ("GET", MODEL + "/ready", self.model_ready),
            ("GET", MODEL + "/config", self.configuration),
            ("GET", MODEL + "/stats", self.statistics),
            ("POST", MODEL + "/infer", self.infer),
            ("POST", "/v2/repository/index", self.index),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/load", self.load),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/unload", self.unload),
        ):
            self.route(method, path, handler)

    def route(self, method: str, path: str, handler: Handler) -> None:
        """``path``: a pattern of the whole path; its named groups are handed to the handler. GET answers HEAD too."""
        self.routes.append((method, re.compile(path), handler))
        self._found.cache_clear()

    async def answer(self, request: Request) -> Reply:
        """Never fails: what was not foreseen is logged and told as 500."""
        started = perf_counter_ns() if self.settings.access_log else 0
        named = request.headers.get(REQUEST_ID)
        if named and SHOWN.fullmatch(named):
            request.id = named.decode()
        try:
            handler, parts = self._found(request.method, request.target)
            reply = await handler(request, **parts)
        except Refused as error:
            reply = self.refused(error, request)
        except Exception:
            log.exception("a request failed", extra=logs.fields(**told_of(request)))
            reply = self.refused(EngineFailed("the server failed; its log says why"), request)
        if named and request.id:
            reply.headers = [*reply.headers, ("X-Request-ID", request.id)]
        if started:
            taken = round((perf_counter_ns() - started) / 1e6, 3)
            access.info("answered", extra=logs.fields(**told_of(request), status=reply.status, milliseconds=taken))
        return reply

    def refused(self, error: Refused, request: Request | None = None) -> Reply:
        """The answer that says no; ``request``: None where what came was never a whole one."""
        self.noted(error, **(told_of(request) if request else {}))
        return error_reply(error)

    def noted(self, error: Refused, **about: Any) -> None:
        """Whoever asked, over either transport, is told no: it is counted, and logged while the log has room for its cause."""
        for observer in self.observers:
            observer.refused(error)
        if (left_out := self._lines.count(error.cause)) is not None:
            more = {"left_out": left_out} if left_out else {}
            told = logs.fields(**about, status=error.status, cause=error.cause, error=str(error), **more)
            log.warning("refused", extra=told)

    @property
    def largest_model(self) -> int:
        """Bytes of the longest request that any model takes."""
        return max((model.reader.largest for model in self.repository.models()), default=SHORT_BYTES)

    def largest_body(self, method: str, target: bytes) -> int:
        """Bytes that the body of a request may have, by its line alone."""
        if self.settings.max_body is not None:
            return self.settings.max_body
        try:
            _, parts = self._found(method, target)
            return self.repository.model(**parts).reader.largest if parts.keys() <= NAMES and parts else SHORT_BYTES
        except Refused:  # it is told when the request is there
            return SHORT_BYTES

    def _find(self, method: str, target: bytes) -> tuple[Handler, dict[str, str]]:
        path = path_of(target)
        found = {  # by method, of several routes the first
            made: (handler, match.groupdict())
            for made, pattern, handler in reversed(self.routes)
            if (match := pattern.fullmatch(path))
        }
        if "GET" in found:
            found.setdefault("HEAD", found["GET"])
        if method in found:
            handler, parts = found[method]
            return handler, {name: value for name, value in parts.items() if value}
        if found:
            raise NotAllowed(f"{method} is not allowed here, {' and '.join(sorted(found))} is", sorted(found))
        raise NotFound(f"there is no {path[:200]!r}")

    # -- the server -------------------------------------------------------------------------------------------------

    async def live(self, request: Request) -> Reply:
        return json_reply({"live": self.repository.live}, 200 if self.repository.live else 503)

    async def ready(self, request: Request) -> Reply:
        ready = self.repository.ready and not self.draining
        return json_reply({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Reply:
        return json_reply({"name": "attar", "version": VERSION, "extensions": EXTENSIONS})

    async def openapi(self, request: Request) -> Reply:
        return json_reply(openapi.document(self.repository.models(), self.settings))

    # -- models -----------------------------------------------------------------------------------------------------

    async def model(self, request: Request, name: str, version: str = "") -> Reply:
        return json_reply(self.repository.metadata(name, version))

    async def model_ready(self, request: Request, name: str, version: str = "") -> Reply:
        ready = self.repository.model(name, version).served.ready and not self.draining
        return json_reply({"name": name, "ready": ready}, 200 if ready else 503)

    async def configuration(self, request: Request, name: str, version: str = "") -> Reply:
        return json_reply(self.repository.model(name, version).configuration())

    async def statistics(self, request: Request, name: str, version: str = "") -> Reply:
        return json_reply({"model_stats": [model.told() for model in self.repository.versions(name, version)]})

    async def every_statistics(self, request: Request) -> Reply:
        return json_reply({"model_stats": [model.told() for model in self.repository.models()]})

    async def infer(self, request: Request, name: str, version: str = "") -> Reply:
        model = self.repository.model(name, version)
        asked = await self.read(request, model)
        return written(model, asked, await model.infer(asked))

    async def read(self, request: Request, model: Model) -> Infer:
        """What the model is asked. Raises Refused, and tells whoever observes it."""
        try:
            asked = await self.reading.read(request, model.reader)
        except Refused as error:
            model.failed(error, 0)
            raise
        request.id, asked.reservation = request.id or asked.id, request.reservation
        return asked

    # -- the repository ---------------------------------------------------------------------------------------------

    async def index(self, request: Request) -> Reply:
        asked = parsed(short_body(request) or b"{}")
        ready = flag(asked.get("ready", False), "ready")
        return json_reply([entry for entry in self.repository.index() if not ready or entry["state"] == "READY"])

    async def load(self, request: Request, name: str) -> Reply:
        self._guard.check_control(request.headers.get(b"authorization", b""))
        asked = parsed(short_body(request) or b"{}")
        await load(self.repository, name, asked.get("parameters"))
        return Reply()

    async def unload(self, request: Request, name: str) -> Reply:
        self._guard.check_control(request.headers.get(b"authorization", b""))
        await self.repository.unload(name)
        return Reply()


async def load(repository: Repository, name: str, parameters: object) -> None:
    """As either transport asks for it. Raises BadRequest for a bundle that is not fit, too."""
    if parameters:
        raise BadRequest("a bundle says everything about itself; nothing of it is replaced by parameters")
    try:
        await repository.load(name)
    except InvalidBundleError as error:
        raise BadRequest(str(error)) from error


def written(model: Model, asked: Infer, found: Mapping[str, Array]) -> Reply:
    pieces, size = protocol.write(protocol.answer(asked, found, model.name, model.version, model.signature.labels))
    if size is None:
        return Reply(pieces)
    return Reply(pieces, content_type="application/octet-stream", headers=[(protocol.HEADER_LENGTH, str(size))])


def told_of(request: Request) -> dict[str, Any]:
    """What a line of the log says about it."""
    return {"id": request.id, "method": request.method, "target": request.target[:200].decode("latin-1")}


def path_of(target: bytes) -> str:
    """Raises BadRequest for what is no URL."""
    try:
        return unquote_to_bytes(httptools.parse_url(target).path or b"/").decode()
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
        raise BadRequest(f"{target[:200]!r} is no path") from error


def short_body(request: Request) -> Body:
    """Of a request that sends no tensors. Raises BadRequest, and TooLarge."""
    if len(request.body) > SHORT_BYTES:
        raise TooLarge(f"the body is over {SHORT_BYTES} bytes, which no request is here")
    return decompress(request.body, content_encoding(request), SHORT_BYTES, request.reservation.add)
