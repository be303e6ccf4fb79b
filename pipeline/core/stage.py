"""Stage and Artifact: what can be done, and what has been done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeVar,
    get_args,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict

Facts = Mapping[str, Any]
"""JSON values that a stage records of its artifact. They are content, so no times and no dates."""


@dataclass(frozen=True)
class Artifact:
    """A finished, read-only folder in the store, and the facts recorded about it.

    The code of its class counts in the keys of all stages that read it.
    """

    code: ClassVar[tuple[str, ...]] = ()
    """Facts that name code which opening it runs: that code counts in the keys of its readers."""
    fetched_by_file: ClassVar[bool] = False
    """Whether a shared store fetches its files one by one, see ``file_fetching``."""

    key: str
    """Digest of everything that decided it (hex, 256 bits)."""
    digest: str
    """Digest of its payload and facts (hex, 256 bits)."""
    root: Path
    facts: Facts

    @property
    def refused(self) -> str | None:
        """Why a candidate cannot be made. Its artifact is empty. None for all other artifacts."""
        reason: str | None = self.facts.get("refused")
        return reason

    @classmethod
    def create(cls, key: str, digest: str, root: Path, facts: Facts) -> Self:
        """Return the artifact in this folder. A base class may choose the class by the facts."""
        return cls(key, digest, root, facts)


A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class SettingMark:
    """Marks a setting by what it names: ``code``, a ``file``, ``files``, a ``folder`` or an
    ``artifact``.

    The content of what is named counts in the key. A setting that is ``undecided`` does not count.
    """

    what: str


@dataclass(frozen=True)
class InputSpec:
    """What one keyword of ``run`` takes."""

    kind: type[Artifact]
    role: Literal["required", "optional", "repeated"] = "required"
    """``optional``: ``NAME: KIND | None``, an artifact that a ``StoredKey`` of this name names, or
    that of a slot that not every target has.
    ``repeated``: ``**NAME: KIND``, one artifact of each candidate."""


CodeName = Annotated[str, SettingMark("code")]
"""``package.module:object`` or ``file.py:object``. The object's code counts in the key."""
DataFile = Annotated[Path, SettingMark("file")]
"""A file, relative to the recipe. Its bytes count in the key, not its path."""
DataFiles = Annotated[Path, SettingMark("files")]
"""Like ``DataFile``, with the files beside it whose names begin with its name: ``model.onnx`` and
``model.onnx.data``."""
DataFolder = Annotated[Path, SettingMark("folder")]
"""Like ``DataFile``, for a folder and all files in it except hidden ones."""
StoredKey = Annotated[str, SettingMark("artifact")]
"""The key of an artifact in the store, or its beginning. ``run`` takes the artifact as an optional
input of the setting's name. The artifact's content counts in the key."""
Device = Annotated[Literal["auto", "cpu", "cuda"], SettingMark("undecided")]
"""The device that computes. It is recorded in the facts and does not count in the key."""
FloatPrecision = Literal["fp32", "bf16", "fp16"]
"""What a network that PyTorch runs multiplies in; its weights are float32."""


class Stage(BaseModel, Generic[A]):
    """Frozen, validated settings with one method, ``run``.

    ``run(out, *, <input>: <Artifact>, ...)`` reads its inputs, fills the empty folder ``out`` and
    returns facts. The keyword names are the edges of the graph; ``**NAME: <Artifact>`` takes one
    artifact of each candidate. The type in ``Stage[...]`` is what it makes. A stage never edits an
    input and does not know its slot. After an interruption it finds in ``open_scratch(out)`` what
    it left there, and in ``open_file_cache(out)`` what any earlier run left.

    The key of the result counts the stage's code and settings, the content of its inputs, the code
    of their classes, and library versions. A setting or computed field that is a ``CodeName`` adds
    the code it names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bound_to_machine: ClassVar[bool] = False
    """Whether the result is valid only on the machine (CPU, GPU, driver) that made it."""
    distributed: ClassVar[bool] = False
    """Whether all processes of a team run it. Only rank 0 writes, and its facts count."""
    incremental: ClassVar[tuple[str, ...]] = ()
    """Settings, and ``data``, that add to a result and leave the rest of it unchanged.

    Runs that differ only in them share one ``file_cache``."""

    run: ClassVar[Callable[..., Facts]]

    @classmethod
    def makes(cls) -> type[Artifact]:
        """Return the artifact class in ``Stage[...]``."""
        for base in cls.__mro__:
            arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            if arguments:
                kind: type[Artifact] = arguments[0]
                return kind
        raise TypeError(f"{cls.__name__} must derive from Stage[<Artifact>] to say what it makes")

    @classmethod
    def inputs(cls) -> dict[str, InputSpec]:
        """Return what the keywords of ``run`` take, by name."""
        hints = get_type_hints(cls.run)
        parameters = inspect.signature(cls.run).parameters.values()
        return {
            parameter.name: read_input(hints[parameter.name], parameter)
            for parameter in parameters
            if parameter.name not in ("self", "out")
        }

    def deciding(self) -> Set[str]:
        """Return the fields that decide the result. A mode that ignores some leaves them out."""
        kind = type(self)
        fields = {*kind.model_fields, *kind.model_computed_fields}
        return fields - {*list_fields(kind, "undecided"), *list_fields(kind, "artifact")}

    def reading(self) -> Set[str]:
        """Return the inputs that decide the result. A mode that ignores some leaves them out."""
        return set(self.inputs())

    def check_settings(self) -> None:
        """Raise an UnfitSettingsError for settings that the task or the network rules out, whatever
        the inputs are.

        A run asks every stage before it makes anything, so that such a mistake is not found behind
        hours of training. It may import the user's code.
        """


class UnusedSettingError(ValueError):
    """Raised by a validator of a stage for ``names``, which have no use beside other settings.

    A target's settings are the defaults of its candidates. A candidate that has no use for one
    does not take it.
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message)
        self.names = names


def list_fields(kind: type[Stage[Any]], mark: str) -> list[str]:
    """Return the fields of a stage, and its computed fields, that have this ``SettingMark``."""
    marks: dict[str, list[Any]] = {}
    for name, field in kind.model_fields.items():
        marks[name] = [*field.metadata, *list_marks(field.annotation)]
    for name, computed in kind.model_computed_fields.items():
        marks[name] = list_marks(computed.return_type)
    return [name for name in marks if SettingMark(mark) in marks[name]]


def read_input(hint: Any, parameter: inspect.Parameter) -> InputSpec:
    """Return what one keyword of ``run`` takes, by its annotation."""
    if parameter.kind is parameter.VAR_KEYWORD:
        return InputSpec(hint, "repeated")
    if type(None) in get_args(hint):
        return InputSpec(get_args(hint)[0], "optional")
    return InputSpec(hint)


def list_marks(annotation: Any) -> list[Any]:
    """Return the marks of an ``Annotated`` type, also inside a union such as ``DataFile |
    None``."""
    inner = [mark for argument in get_args(annotation) for mark in list_marks(argument)]
    return [*getattr(annotation, "__metadata__", ()), *inner]


def open_scratch(out: Path) -> Path:
    """Return a folder beside ``out`` that survives an interruption. Success deletes it."""
    folder = out.parent / "scratch"
    folder.mkdir(exist_ok=True)
    return folder
