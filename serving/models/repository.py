"""The models by name and version. A new version is loaded beside the old one, and replaces it at
once."""

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
from attar.serving.models.model import RAW, LoadedBundle, ServedModel
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
        """The reason why a name, or its newest content, is not served."""
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

    def list_models(self) -> Iterator[ServedModel]:
        for served in self.list_loaded():
            yield from served.models

    def find_model(self, name: str, version: str = "") -> ServedModel:
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
        base = name if name in self._reasons else name.removesuffix(RAW)
        if base in self._reasons and base not in self._served:
            raise BusyError(f"{name} is not loaded: {self._reasons[base]}")
        raise NotFoundError(
            f"there is no model {name[:80]!r}; "
            f"{suggest_name(name[:80], {model.name for model in self.list_models()})}"
        )

    def find_versions(self, name: str, version: str = "") -> list[ServedModel]:
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
        """Return every model of the repository, loaded or not, as the protocol's extension has it.

        Models for raw inputs are left out: they come and go with the other model of their bundle.
        """
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

    def _list_versions(self, name: str) -> list[ServedModel]:
        base = name if name in self._served else name.removesuffix(RAW)
        return [
            model
            for served in self._served.get(base, ())
            for model in served.models
            if model.name == name
        ]

    # -- what changes it --------------------------------------------------------------------------

    async def start(self) -> None:
        """Load everything. Raises InvalidBundleError for the first invalid bundle; then nothing is
        served."""
        try:
            for name in self.sources.list_names():
                await self._load_bundles(name)
        except AttarError:
            await self.close()
            raise

    async def load(self, name: str) -> None:
        """Load the bundles of a name, or load them again; the old ones answer their requests first.

        Raises NotFoundError for an unknown name, and InvalidBundleError for an invalid bundle; then
        the old ones stay.
        """
        await self._run_change(self._load_noted(name))

    async def unload(self, name: str) -> None:
        """Stop serving a name; requests in progress are answered.

        Raises NotFoundError for a name that is neither loaded nor in the repository.
        """
        await self._run_change(self._unload_bundles(name))

    async def reopen(self, served: LoadedBundle) -> None:
        """Open the engines of a bundle again. Raises InvalidBundleError if it has changed."""
        await self._run_change(self._reopen_bundle(served))

    async def _run_change(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish the work even if the caller is gone: half of it would leave engines open."""
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
        """Answer the requests in progress, and close everything."""
        # Errors go to the callers of these changes.
        await asyncio.gather(*self._changing, return_exceptions=True)
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
                check_versions(name, made)
        except BaseException:
            for served in made:
                await served.retire()
            raise
        return made

    def _replace_bundles(self, name: str, fresh: list[LoadedBundle]) -> None:
        """Replace the bundles in one step: later requests get the new ones."""
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


def check_versions(name: str, bundles: Sequence[LoadedBundle]) -> None:
    """Raises InvalidBundleError if the last bundle of a name is one of the others."""
    *others, last = bundles
    for other in others:
        if other.version == last.version:
            raise InvalidBundleError(
                f"{other.path} and {last.path} are both version {last.version} of {name}: serve "
                "one of them, or give the other a name of its own as NAME=BUNDLE"
            )
