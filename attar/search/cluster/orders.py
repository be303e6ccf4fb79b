"""Orders and deliveries: what a command sends to a node of the cluster, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from attar.models.splits.cache import find_cache_folder
from attar.pipeline.core.errors import AttarError, RecipeError, StageError, StoreError
from attar.pipeline.core.version import VERSION
from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.run import Record
from attar.pipeline.shared.notes import MESSAGES
from attar.pipeline.shared.store import SharedStore
from attar.search.recipe_search import RecipeSearch


@dataclass(frozen=True)
class Order:
    """A search, as a node opens it in the folder that was shipped to it."""

    token: str
    """Of this command alone."""
    recipe: str
    """Its file in that folder, or the name of a shipped recipe."""
    name: str
    """Under which the store remembers the recipe, whatever its folder is called on a node."""
    url: str
    space: SearchSpace
    target: str
    overrides: tuple[str, ...]
    device: str
    version: str = VERSION

    def open(self) -> RecipeSearch:
        """Open the search with the cache of this node.

        Raises RecipeError for another version of attar, whose keys may differ; StoreError.
        """
        if self.version != VERSION:
            raise RecipeError(
                f"the command is of attar {self.version}, and this node has {VERSION}; install "
                "one version on all of them"
            )
        store = SharedStore(find_cache_folder() / "store", self.url)
        overrides, device = self.overrides, self.device
        return RecipeSearch(
            self.recipe, store, self.space, self.target, overrides, device, self.name
        )

    def get_log_path(self, job: str, rank: int = 0) -> str:
        """Return the file in the store that has the end of a job's log while it runs. Of a team
        each process has one."""
        return f"{MESSAGES}/{self.token}-{job}{f'-{rank}' if rank else ''}.log"

    def get_team_name(self, job: str) -> str:
        """Return the name under which Ray keeps the places of the processes that do a job."""
        return f"{self.token}-{job}"

    @property
    def probe_path(self) -> str:
        """The file in the store by which a node shows that it sees the same store."""
        return f"{MESSAGES}/{self.token}-probe"


T = TypeVar("T")
DELIVERED = (RecipeError, StoreError)
"""The kinds of errors that end a search; any other is a StageError, which may end a variant."""


@dataclass(frozen=True)
class Delivery(Generic[T]):
    """What a job returns: the records to show, and its value or the error that ended it."""

    records: Sequence[Record]
    value: T | None = None
    error: str | None = None
    kind: type[AttarError] = StageError
    """Of the error."""


def strip_record(record: Record) -> Record:
    """Return a record without what means nothing on another machine."""
    return replace(record, cause=None, path=None)


def deliver_error(records: Sequence[Record], error: AttarError) -> Delivery[T]:
    kind = next((kind for kind in DELIVERED if isinstance(error, kind)), StageError)
    return Delivery(records, error=str(error), kind=kind)


def check_delivery(delivery: Delivery[T]) -> T | None:
    """Return the value of a job. Raises RecipeError, StoreError or StageError if it failed."""
    if delivery.error is not None:
        raise delivery.kind(delivery.error)
    return delivery.value


@dataclass(frozen=True)
class Node:
    """A node of the cluster, as Ray describes it."""

    id: str
    host: str
    resources: dict[str, float]

    @property
    def cpus(self) -> int:
        return int(self.resources.get("CPU", 0))

    @property
    def gpus(self) -> int:
        return int(self.resources.get("GPU", 0))


SlotCode = Mapping[str, Mapping[str, Any]]
"""By slot the digest of its ``code``, and the versions of its ``libraries``."""


@dataclass(frozen=True)
class NodeCode:
    """What keys count of a node besides settings and data: its code and its libraries."""

    training: SlotCode
    """Of the slots up to the student."""
    measuring: SlotCode
    """Of the slots behind it."""


@dataclass(frozen=True)
class FoundRecipe:
    """The winner's recipe, which is written where a node opens it."""

    file: str
    name: str
    text: str

    def write(self) -> Path:
        path = Path(self.file)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(self.text, encoding="utf-8")
        return draft.replace(path)
