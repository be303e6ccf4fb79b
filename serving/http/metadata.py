"""The paths of the protocol that answer without inference: health, metadata and the repository."""

from __future__ import annotations

from typing import Any

from attar.serving.core.authenticator import Authenticator
from attar.serving.http import openapi
from attar.serving.http.api import MODEL, HttpApi
from attar.serving.http.inference import read_short_body
from attar.serving.http.message import Reply, Request, json_reply
from attar.serving.models.descriptions import describe_configuration
from attar.serving.protocol.json_checks import check_flag, parse_object


class MetadataHandlers:
    def __init__(self, api: HttpApi, authenticator: Authenticator) -> None:
        self._service, self._repository = api.service, api.repository
        self._authenticator = authenticator
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
            ("POST", "/v2/repository/index", self.list_models),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/load", self.load_model),
            ("POST", "/v2/repository/models/(?P<name>[^/]+)/unload", self.unload_model),
        ):
            api.add_route(method, path, handler)

    async def get_liveness(self, request: Request) -> Reply:
        live = self._repository.live
        return json_reply({"live": live}, 200 if live else 503)

    async def get_readiness(self, request: Request) -> Reply:
        ready = self._service.is_ready
        return json_reply({"ready": ready}, 200 if ready else 503)

    async def get_server_metadata(self, request: Request) -> Reply:
        return json_reply(self._service.describe_server())

    async def get_openapi(self, request: Request) -> Reply:
        models = self._repository.list_models()
        return json_reply(openapi.build_document(models, self._repository.settings))

    async def get_model_metadata(self, request: Request, name: str, version: str = "") -> Reply:
        return json_reply(self._repository.describe_metadata(name, version))

    async def get_model_readiness(self, request: Request, name: str, version: str = "") -> Reply:
        ready = self._service.is_model_ready(name, version)
        return json_reply({"name": name, "ready": ready}, 200 if ready else 503)

    async def get_model_configuration(
        self, request: Request, name: str, version: str = ""
    ) -> Reply:
        return json_reply(describe_configuration(self._repository.find_model(name, version)))

    async def get_statistics(self, request: Request, name: str = "", version: str = "") -> Reply:
        return json_reply({"model_stats": self._service.collect_statistics(name, version)})

    async def list_models(self, request: Request) -> Reply:
        only_ready = check_flag(read_fields(request).get("ready", False), "ready")
        return json_reply(self._service.list_models(only_ready=only_ready))

    async def load_model(self, request: Request, name: str) -> Reply:
        self._authenticator.check_control(request.headers.get(b"authorization", b""))
        await self._service.load_model(name, read_fields(request).get("parameters"))
        return Reply()

    async def unload_model(self, request: Request, name: str) -> Reply:
        self._authenticator.check_control(request.headers.get(b"authorization", b""))
        await self._repository.unload(name)
        return Reply()


def read_fields(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body, which may be empty. Raises BadRequestError."""
    return parse_object(read_short_body(request) or b"{}")
