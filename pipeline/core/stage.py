"""Stage and Artifact: what can be done, and what has been done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict

Facts = Mapping[str, Any]
"""JSON values that a stage found while it ran. They are part of the content, so no times and no dates."""


@dataclass(frozen=True)
class Artifact:
    """A finished, read-only directory in the store, and the facts recorded about it."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Packages that are imported to open one: their versions decide what its readers get."""
    code: ClassVar[tuple[str, ...]] = ()
    """Facts that name code which runs when one is opened: it counts in the keys of all that read it."""

    key: str
    """Digest of everything that decided it (hex, 256 bits)."""
    digest: str
    """Digest of its payload and facts (hex, 256 bits)."""
    root: Path
    facts: Facts

    @property
    def refused(self) -> str | None:
        """Why it cannot be had; such an artifact is empty, and stands where one of several may be refused."""
        said: str | None = self.facts.get("refused")
        return said

    @classmethod
    def found(cls, key: str, digest: str, root: Path, facts: Facts) -> Self:
        """The artifact that the store holds there. A class that is one of several kinds tells from the facts which."""
        return cls(key, digest, root, facts)


A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Named:
    """Marks a setting that names something which decides the result (``code``, a ``file``, ``files``, a ``folder``, an
    ``artifact``), or is ``undecided``."""

    what: str


CodeName = Annotated[str, Named("code")]
"""``package.module:object`` or ``file.py:object``. The object's code counts in the key."""
DataFile = Annotated[Path, Named("file")]
"""A file, relative to the recipe. Its bytes count in the key, not its path."""
DataFiles = Annotated[Path, Named("files")]
"""As ``DataFile``, with the files beside it whose names begin with its own: ``model.onnx`` and its ``model.onnx.data``."""
DataFolder = Annotated[Path, Named("folder")]
"""As ``DataFile``, for a folder and all files in it, hidden ones aside."""
StoredKey = Annotated[str, Named("artifact")]
"""The key of an artifact in the store, or its beginning. ``run`` gets the artifact as an optional input of the setting's name;
what counts in the key is its content, not how it is named."""
Device = Annotated[Literal["auto", "cpu", "cuda"], Named("undecided")]
"""Where to compute. It is recorded in the facts and does not count in the key."""


class Stage(BaseModel, Generic[A]):
    """Frozen, validated settings with one method, ``run``.

    ``run(out, *, <input>: <Artifact>, ...)`` reads its inputs, fills the empty folder ``out`` and returns facts.
    The keyword names are the graph's edges; ``**NAME: <Artifact>`` takes any number of one kind, under names that the graph
    gives them. The type in ``Stage[...]`` is what it makes. A stage never edits an input and does not know the slot it
    fills. What it wants to find again after an interruption goes to ``scratch(out)``, what later runs shall find to
    ``kept(out)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bound_to_machine: ClassVar[bool] = False
    """Whether the result is only good on the machine (CPU, GPU, driver) that made it."""

    together: ClassVar[bool] = False
    """Whether every process of a team runs it, where several were started. Rank 0 alone writes, and its facts count."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Packages whose versions decide the result although the stage's code does not import them itself."""
    grows: ClassVar[tuple[str, ...]] = ()
    """Settings, and ``data``, that add to a result and leave the rest of it as it was: see ``pipeline.core.file_cache``."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Code (``module:object``) that decides the result although the stage does not name it, such as how an input is opened."""

    run: ClassVar[Callable[..., Facts]]

    @classmethod
    def makes(cls) -> type[Artifact]:
        """The artifact class in ``Stage[...]``."""
        for base in cls.__mro__:
            arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments:
                made: type[Artifact] = arguments[0]
                return made
        raise TypeError(f"{cls.__name__} must derive from Stage[<Artifact>] to say what it makes")

    @classmethod
    def needs(cls) -> dict[str, type[Artifact]]:
        """The inputs of ``run`` that earlier slots make, by name: all but the optional ones, and those of any number."""
        named = cls._inputs().keys() - cls.gathers().keys()
        return {name: hint for name, hint in cls._inputs().items() if name in named and type(None) not in get_args(hint)}

    @classmethod
    def takes(cls) -> dict[str, type[Artifact]]:
        """The optional inputs of ``run`` (``Weights | None``), by name: a ``StoredKey`` of that name says which artifact."""
        return {name: get_args(hint)[0] for name, hint in cls._inputs().items() if type(None) in get_args(hint)}

    @classmethod
    def gathers(cls) -> dict[str, type[Artifact]]:
        """What ``**NAME`` of ``run`` takes, by that name: any number of inputs of one kind, which the graph names."""
        parameters = inspect.signature(cls.run).parameters.values()
        return {p.name: cls._inputs()[p.name] for p in parameters if p.kind is p.VAR_KEYWORD}

    @classmethod
    def _inputs(cls) -> dict[str, Any]:
        return {name: hint for name, hint in get_type_hints(cls.run).items() if name not in ("out", "return")}

    def deciding(self) -> Set[str]:
        """The fields that decide the result, as they are set. A mode that switches others off leaves those out."""
        return set(type(self).model_fields) - {*self.named("undecided"), *self.named("artifact")}

    def reading(self) -> Set[str]:
        """Of the inputs that ``run`` names those that decide the result. A mode that looks at fewer leaves the others out."""
        return {*self.needs(), *self.takes()}

    def following(self) -> Sequence[str]:
        """Code as in ``follows``. A mode that runs more than the others adds it."""
        return self.follows

    def lacks(self) -> str | None:
        """What the stage would look for here and not find, where that decides the result and no fact about the machine tells."""
        return None

    @classmethod
    def meaningless(cls, settings: Mapping[str, Any]) -> Set[str]:
        """Of these settings those that mean nothing beside the others: as defaults of several forms they are left out."""
        return set()

    @classmethod
    def named(cls, what: str) -> list[str]:
        """The fields that are marked ``code``, ``file``, ``files``, ``folder``, ``artifact`` or ``undecided``."""
        return [name for name, field in cls.model_fields.items() if Named(what) in [*field.metadata, *marks(field.annotation)]]


def marks(annotation: Any) -> list[Any]:
    """What ``Annotated`` says inside a union such as ``DataFile | None``."""
    inner = [mark for argument in get_args(annotation) for mark in marks(argument)]
    return [*getattr(annotation, "__metadata__", ()), *inner]


def scratch(out: Path) -> Path:
    """A folder beside ``out`` that survives an interruption and is dropped when the stage succeeds."""
    folder = out.parent / "scratch"
    folder.mkdir(exist_ok=True)
    return folder
