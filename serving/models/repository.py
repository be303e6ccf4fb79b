"""Repository: the models by name and version; each is loaded beside the old one and takes its
place in one step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import AttarError, InvalidBundleError, suggest_name
from attar.serving.core.errors import BusyError, NotFoundError
from attar.serving.core.settings import Settings
from attar.serving.core.supervisor import Supervisor
from attar.serving.models.descriptions import describe_metadata
from attar.serving.models.model import RAW, LoadedBundle, Model
from attar.serving.models.observer import Observer
from attar.serving.models.sources import BundleSources

log = logging.getLogger(__name__)


class Repository:
    """The loaded bundles by name, on one event loop.

    A model may still be used after it was replaced.
    """

    def __init__(
        self,
        sources: BundleSources,
        settings: Settings,
        supervisor: Supervisor,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.sources, self.settings, self._supervisor = sources, settings, supervisor
        self._observers = tuple(observers)
        self._served: dict[str, list[LoadedBundle]] = {}
        self._reasons: dict[str, str] = {}
        """Why a name is not served, or not in its newest content."""
        self.live = True
        """Whether every engine answers, or may yet; where one stays broken, only another process
        may help."""
        self._one_at_a_time = asyncio.Lock()
        self._changing: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()

    # -- what is served ---------------------------------------------------------------------------

    def list_names(self) -> list[str]:
        """Return the names of what is loaded."""
        return list(self._served)

    def list_loaded(self) -> list[LoadedBundle]:
        return [served for versions in self._served.values() for served in versions]

    def list_models(self) -> Iterator[Model]:
        for served in self.list_loaded():
            yield from served.models

    def find_model(self, name: str, version: str = "") -> Model:
        """Return a model, in its default version if none is given.

        Raises NotFoundError, and BusyError for a model that is known and not loaded.
        """
        found = [model for model in self._list_versions(name) if version in ("", model.version)]
        if found:
            return found[-1]
        if others := [model.version for model in self._list_versions(name)]:
            raise NotFoundError(
                f"{name} has no version {version[:80]!r}; it has {', '.join(others)}"
            )
        if name in self._reasons:
            raise BusyError(f"{name} is not loaded: {self._reasons[name]}")
        raise NotFoundError(
            f"there is no model {name[:80]!r}; "
            f"{suggest_name(name[:80], {model.name for model in self.list_models()})}"
        )

    def find_versions(self, name: str, version: str = "") -> list[Model]:
        """Return all of a name where no version is asked for. Raises NotFoundError and
        BusyError."""
        found = self.find_model(name, version)
        return [found] if version else self._list_versions(name)

    def describe_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Return the metadata of a model. Raises NotFoundError and BusyError."""
        versions = self.find_versions(name, version)
        return describe_metadata(versions[-1], [model.version for model in versions])

    @property
    def ready(self) -> bool:
        """Whether everything that is loaded answers. What is not loaded makes nothing else
        unready."""
        return all(served.ready for served in self.list_loaded())

    def list_index(self) -> list[dict[str, str]]:
        """Every model of the repository, loaded or not, as its extension of the protocol has it:
        what can be loaded and unloaded by its name, so none with raw inputs, which comes and
        goes with the other of its bundle."""
        loaded = [
            {
                "name": model.name,
                "version": model.version,
                "state": "READY" if model.served.ready else "UNAVAILABLE",
                "reason": self._reasons.get(model.served.name, ""),
            }
            for model in self.list_models()
            if model is model.served.models[0]
        ]
        there = {entry["name"] for entry in loaded}
        rest = [
            {
                "name": name,
                "version": "",
                "state": "UNAVAILABLE",
                "reason": self._reasons.get(name, "not loaded"),
            }
            for name in self.sources.list_names()
            if name not in there
        ]
        return loaded + rest

    def _list_versions(self, name: str) -> list[Model]:
        base = name if name in self._served else name.removesuffix(RAW)
        return [
            model
            for served in self._served.get(base, ())
            for model in served.models
            if model.name == name
        ]

    # -- what changes it --------------------------------------------------------------------------

    async def start(self) -> None:
        """Load everything.

        Raises InvalidBundleError for the first bundle that is not fit; then nothing is served.
        """
        try:
            for name in self.sources.list_names():
                await self._load_bundles(name)
        except AttarError:
            await self.close()
            raise

    async def load(self, name: str) -> None:
        """Load the bundles of a name, anew where they are loaded; the old ones answer what they
        have begun. Raises NotFoundError for an unknown name, and InvalidBundleError for a bundle
        that is not fit: what was served before still is."""
        await self._run_change(self._load_noted(name))

    async def unload(self, name: str) -> None:
        """Stop serving a name; what has begun is answered.

        Raises NotFoundError for one that is neither loaded nor there.
        """
        await self._run_change(self._unload_bundles(name))

    async def reopen(self, served: LoadedBundle) -> None:
        """Open the engines of a bundle anew, in the same content. Raises InvalidBundleError where
        its folder holds this no more."""
        await self._run_change(self._reopen_bundle(served))

    async def _run_change(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, even where who asked for it is gone: a half of it would leave opened
        engines behind."""
        task = asyncio.create_task(work)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        await asyncio.shield(task)

    async def _load_noted(self, name: str) -> None:
        async with self._one_at_a_time:
            try:
                await self._load_bundles(name)
            except InvalidBundleError as error:
                log.warning("%s was not loaded: %s", name, error)
                self._reasons[name] = str(error)
                raise

    async def _unload_bundles(self, name: str) -> None:
        async with self._one_at_a_time:
            there = name in await asyncio.to_thread(self.sources.list_names)
            if not there and name not in self._served:
                self.sources.find_paths(name)
            self._replace_bundles(name, [])
            self._reasons.pop(name, None)
            if there:
                self._reasons[name] = "unloaded"
            log.info("%s is no longer served", name)

    async def _reopen_bundle(self, served: LoadedBundle) -> None:
        async with self._one_at_a_time:
            if served not in self._served.get(served.name, ()):
                return  # it was replaced meanwhile
            fresh = await LoadedBundle.open(
                served.name, served.path, self.settings, self._observers
            )
            if fresh.version != served.version:
                await fresh.retire()
                raise InvalidBundleError(
                    f"{served.path} holds version {fresh.version} by now, {served.version} is "
                    "served; load it"
                )
            versions = self._served[served.name]
            self._replace_bundles(
                served.name, [fresh if each is served else each for each in versions]
            )

    async def close(self) -> None:
        """Answer what has begun, and close everything."""
        await asyncio.gather(
            *self._changing, return_exceptions=True
        )  # whoever asked for them is told
        for name in list(self._served):
            self._replace_bundles(name, [])
        await asyncio.gather(*self._retiring)

    async def _load_bundles(self, name: str) -> None:
        paths = await asyncio.to_thread(self.sources.find_paths, name)
        self._check_names(name)
        fresh = await self._open_bundles(name, paths)
        self._replace_bundles(name, fresh)
        self._reasons.pop(name, None)
        log.info("%s is served in version %s", name, ", ".join(served.version for served in fresh))

    async def _open_bundles(self, name: str, paths: Sequence[Path]) -> list[LoadedBundle]:
        made: list[LoadedBundle] = []
        try:
            for path in paths:
                served = await LoadedBundle.open(name, path, self.settings, self._observers)
                made.append(served)
        except BaseException:
            for served in made:
                await served.retire()
            raise
        return made

    def _replace_bundles(self, name: str, fresh: list[LoadedBundle]) -> None:
        """Replace the bundles in one step: whoever asks before gets the old ones, whoever asks
        after the new."""
        old = self._served.pop(name, [])
        if fresh:
            self._served[name] = fresh
        for served in [each for each in old if each not in fresh]:
            task = self._supervisor.run_once("retire", served.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _check_names(self, name: str) -> None:
        """Raises InvalidBundleError where ``NAME-raw`` would be two models."""
        for one, other in ((name, name.removesuffix(RAW)), (name + RAW, name)):
            if one != other and {one, other} <= {name, *self._served}:
                raise InvalidBundleError(
                    f"{one} is also what {other} is called with raw inputs; serve it as NAME=BUNDLE"
                )
