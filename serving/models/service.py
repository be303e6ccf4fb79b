"""The inference service: what HTTP and gRPC ask for in common. Each of them only converts
messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from attar.pipeline.core.errors import InvalidBundleError
from attar.pipeline.core.version import VERSION
from attar.serving.core import logs
from attar.serving.core.errors import BadRequestError, RequestError
from attar.serving.models.observer import Observer
from attar.serving.models.repository import Repository
from attar.serving.protocol.reader_thread import ReaderThread

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
log = logging.getLogger(__name__)


class InferenceService:
    """Answers both transports from the models of a repository, and records every refusal."""

    def __init__(self, repository: Repository, observers: Iterable[Observer] = ()) -> None:
        self.repository, self.settings = repository, repository.settings
        self.draining = False
        """Whether the server finishes what it has begun and then ends."""
        self.reader_thread = ReaderThread(self.settings.deadline)
        self._observers = tuple(observers)
        self._log_limit = logs.LineLimit()

    @property
    def is_ready(self) -> bool:
        return self.repository.ready and not self.draining

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model answers. Raises NotFoundError and BusyError."""
        return self.repository.find_model(name, version).served.ready and not self.draining

    def describe_server(self) -> dict[str, Any]:
        return {"name": "attar", "version": VERSION, "extensions": list(EXTENSIONS)}

    def collect_statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of a model, or of every model if none is named."""
        repository = self.repository
        models = repository.find_versions(name, version) if name else repository.list_models()
        return [model.statistics.to_json(model.name, model.version) for model in models]

    def list_models(self, *, only_ready: bool) -> list[dict[str, str]]:
        entries = self.repository.list_index()
        return [entry for entry in entries if not only_ready or entry["state"] == "READY"]

    async def load_model(self, name: str, parameters: object) -> None:
        """Load the bundles of a name. Raises BadRequestError for an invalid bundle, too."""
        if parameters:
            raise BadRequestError(
                "a bundle says everything about itself; nothing of it is replaced by parameters"
            )
        try:
            await self.repository.load(name)
        except InvalidBundleError as error:
            raise BadRequestError(str(error)) from error

    def record_refusal(self, error: RequestError, **about: Any) -> None:
        """Count a refusal, and log it unless its cause has filled the log of this minute."""
        for observer in self._observers:
            observer.on_refusal(error)
        left_out = self._log_limit.count_line(error.cause)
        if left_out is None:
            return
        if left_out:
            about["left_out"] = left_out
        told = {"status": error.status, "cause": error.cause, "error": str(error)}
        log.warning("refused", extra=logs.log_fields(**told, **about))
