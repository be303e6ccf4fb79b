"""The inference service: what HTTP and gRPC ask for in common. Each of them only converts
messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from attar.pipeline.core.errors import InvalidBundleError
from attar.pipeline.core.version import VERSION
from attar.serving.core import logs
from attar.serving.core.errors import BadRequestError, DeadlineError, RequestError
from attar.serving.models.model import Model
from attar.serving.models.observer import Observer
from attar.serving.models.repository import Repository
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.request import InferenceRequest

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "statistics",
)
T = TypeVar("T")
log = logging.getLogger(__name__)


class InferenceService:
    """Answers by models of a repository, and a record of every refusal."""

    def __init__(self, repository: Repository, observers: Iterable[Observer] = ()) -> None:
        self.repository, self.settings = repository, repository.settings
        self.draining = False
        """Whether the server finishes what it has begun and then ends."""
        self.reading = ReaderThread(self.settings.deadline)
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
        return [model.describe_statistics() for model in models]

    def list_models(self, *, only_ready: bool) -> list[dict[str, str]]:
        entries = self.repository.list_index()
        return [entry for entry in entries if not only_ready or entry["state"] == "READY"]

    async def load_model(self, name: str, parameters: object) -> None:
        """Load the bundles of a name. Raises BadRequestError also for a bundle that is not
        valid."""
        if parameters:
            raise BadRequestError(
                "a bundle says everything about itself; nothing of it is replaced by parameters"
            )
        try:
            await self.repository.load(name)
        except InvalidBundleError as error:
            raise BadRequestError(str(error)) from error

    async def read_request(
        self, model: Model, reading: Awaitable[InferenceRequest]
    ) -> InferenceRequest:
        """Return what the model is asked. Raises RequestError, after its observers saw the
        error."""
        try:
            return await reading
        except RequestError as error:
            model.notify_error(error, 0)
            raise

    @property
    def longest_request_bytes(self) -> int:
        """The size of the longest request that any loaded model takes."""
        sizes = (model.reader.largest for model in self.repository.list_models())
        return max(sizes, default=SHORT_BYTES)

    def record_refusal(self, error: RequestError, **about: Any) -> None:
        """Count a refusal, and log it while its cause has not filled the log of this minute."""
        for observer in self._observers:
            observer.on_refusal(error)
        left_out = self._log_limit.count_line(error.cause)
        if left_out is None:
            return
        if left_out:
            about["left_out"] = left_out
        told = {"status": error.status, "cause": error.cause, "error": str(error)}
        log.warning("refused", extra=logs.log_fields(**told, **about))


class ReaderThread:
    """Reads long requests beside the event loop.

    It is one thread: a second would only wait for the interpreter, and make the loop wait longer.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(1, "read")

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of work that is done in the thread, or raise its error.

        Raises DeadlineError if the deadline passes, but only once the thread is done with the work.
        """
        job = self._threads.submit(work, *arguments)
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            raise DeadlineError(
                f"there was no time to read the request within {self._deadline:g} s"
            ) from error
        finally:
            while not job.done():  # what it holds is reserved until then
                await asyncio.sleep(0.01)
            # An error leads to this frame, and from here to the body, which would stay until
            # garbage is collected.
            del job, work, arguments

    def close(self) -> None:
        """Stop the thread. Nothing may be read any more."""
        self._threads.shutdown()
