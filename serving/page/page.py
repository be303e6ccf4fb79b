"""The page on which people try a model, beside its shadow.

It is a client of the server like any other, except that its requests have paths of their own. Its
files are in ``static``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from pathlib import PurePath
from time import perf_counter_ns
from typing import Any

from attar.bundle.manifest import BatchEngine, Manifest
from attar.models.task import Arrays
from attar.pipeline.core.errors import AttarError
from attar.pipeline.core.version import VERSION
from attar.proof.gate import combine_verdicts
from attar.serving.core.errors import EngineFailedError, NotFoundError, RequestError
from attar.serving.http.api import HttpApi
from attar.serving.http.inference import InferenceHandler
from attar.serving.http.message import Reply, Request, json_reply
from attar.serving.models.descriptions import describe_metadata
from attar.serving.models.model import LoadedBundle, ServedModel, run_within
from attar.serving.observation.shadow import FP32, ShadowObserver
from attar.serving.page.forms import Steps, describe_form
from attar.serving.page.questions import QuestionThread
from attar.serving.protocol.request import InferenceRequest

TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)


class Page:
    def __init__(
        self, api: HttpApi, inference: InferenceHandler, shadow: ShadowObserver | None
    ) -> None:
        self.api, self._inference, self.shadow = api, inference, shadow
        self._questions = QuestionThread()
        api.add_route("GET", "/", self.get_index)
        api.add_route("GET", r"/page/(?P<file>(?:page|icon)\.(?:js|css|svg))", self.get_file)
        api.add_route("GET", "/page/models", self.get_models)
        for asked, infer in (("student", self.infer_student), ("shadow", self.infer_shadow)):
            api.add_route("POST", f"/page/{asked}/(?P<name>[^/]+)", infer, takes_tensors=True)

    async def get_index(self, request: Request) -> Reply:
        return await self.get_file(request, "index.html")

    async def get_file(self, request: Request, file: str) -> Reply:
        content = read_static_file(file)
        if content is None:
            raise NotFoundError(f"there is no {file}")
        return Reply(
            [content],
            content_type=f"{TYPES[PurePath(file).suffix]}; charset=utf-8",
            headers=HEADERS,
        )

    async def get_models(self, request: Request) -> Reply:
        """Return the default version of each bundle, with raw inputs where it has steps."""
        latest = {model.served.name: model.served for model in self.api.repository.list_models()}
        chosen = self.api.settings.shadow
        name = (
            None if chosen is None else "fp32 student" if chosen == FP32 else PurePath(chosen).name
        )
        return json_reply(
            {
                "version": VERSION,
                "shadow": name,
                "models": [describe_bundle(served) for served in latest.values()],
            }
        )

    async def infer_student(self, request: Request, name: str) -> Reply:
        """Answer as ``infer`` does, with the times (https://www.w3.org/TR/server-timing/)."""
        model = self.api.repository.find_model(name)
        reading = self._inference.read_inference(request, model.reader)
        reply = partial(self._write_timed, request.arrived)
        return await model.answer(reading, reply, request.arrived)

    async def infer_shadow(self, request: Request, name: str) -> Reply:
        """Answer from the shadow. Raises RequestError."""
        model = self.api.repository.find_model(name)
        if self.shadow is None:
            raise NotFoundError(
                "there is no shadow; start the server with --shadow fp32 or a teacher's ONNX file"
            )
        with model.served.use():
            asked = await self._inference.read_inference(request, model.reader)
            found, prepare, compute = await run_within(
                self._from_shadow(self.shadow, model, asked),
                request.arrived,
                model.limit_seconds(asked),
            )
            reply = await self._inference.write_reply(request.arrived, model, asked, found)
        return add_timing(reply, prepare=prepare, compute=compute)

    def close(self) -> None:
        """End the thread of the questions. No question may come any more."""
        self._questions.close()

    async def _write_timed(
        self, arrived: int, model: ServedModel, asked: InferenceRequest, outputs: Arrays
    ) -> Reply:
        times = asked.times
        assert times  # noqa: S101  # it has answered
        reply = await self._inference.write_reply(arrived, model, asked, outputs)
        return add_timing(reply, prepare=times.prepare, queue=times.queue, compute=times.compute)

    async def _from_shadow(
        self, shadow: ShadowObserver, model: ServedModel, asked: InferenceRequest
    ) -> tuple[Arrays, int, int]:
        """Return the outputs, and nanoseconds of preprocessing and of the shadow."""
        began = perf_counter_ns()
        await model.prepare(asked)
        prepared = perf_counter_ns()
        try:
            answer = shadow.find_shadow(model.served).answer
            found, compute = await self._questions.run(answer, asked.inputs)
        except RequestError:
            raise
        except AttarError as error:
            raise EngineFailedError(f"the shadow failed: {error}") from error
        return await model.convert_outputs(dict(found)), prepared - began, compute


@cache
def read_static_file(file: str) -> bytes | None:
    """Return a file of the page, or None. The route lets few names come here."""
    found = files(__package__) / "static" / file
    return found.read_bytes() if found.is_file() else None


def add_timing(reply: Reply, **nanoseconds: int) -> Reply:
    phases = ", ".join(f"{phase};dur={spent / 1e6:.6f}" for phase, spent in nanoseconds.items())
    reply.headers = [*reply.headers, ("Server-Timing", phases)]
    return reply


def describe_bundle(served: LoadedBundle) -> dict[str, Any]:
    """Return all that the page shows of a bundle but its live numbers."""
    manifest, model = served.engines.manifest, served.models[-1]
    steps: Mapping[str, Steps] = manifest.preprocess if len(served.models) > 1 else {}
    verdicts = [part.verdict for part in manifest.parts]
    return {
        **describe_metadata(model),
        "title": served.name,
        "version": served.version,
        "engine": {"runtime": manifest.engine.runtime, "threads": manifest.engine.threads},
        "forms": [
            describe_form(each, steps.get(each.name, ()), model.signature.ranges)
            for each in model.signature.inputs.values()
        ],
        "kinds": {name: output.kind for name, output in manifest.outputs.items()},
        "labels": manifest.labels,
        "verdict": combine_verdicts(each.verdict for each in verdicts),
        "summary": "; ".join(dict.fromkeys(each.summary for each in verdicts)),
        "gates": [row for part in manifest.parts for row in list_gates(part)],
    }


def list_gates(part: Manifest | BatchEngine) -> list[dict[str, Any]]:
    """Return the gates that an engine's verdict rests on, with the fewest rows of its calls."""
    return [{**gate, "rows": part.rows} for gate in part.verdict.gates if gate["decides"]]
