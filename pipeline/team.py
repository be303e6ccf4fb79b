"""The processes that torchrun started walk one run together.

Rank 0 walks the slots, holds the locks and writes. The others wait, and join it in the stages that
are ``distributed``.

The processes talk through the key-value store that torchrun opens (``torch.distributed.Store``),
and not through collectives such as ``broadcast_object_list`` and ``barrier``. Rank 0 may build and
measure for hours while the others wait, which a collective ends by the timeout of its process
group. A process that fails must say why while the others wait for it, and a collective has no
place for that. An object list is pickled; this is JSON. And this room needs no torch.
Everything inside a stage, such as averaging gradients, is left to accelerate's collectives.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attar.pipeline.core.errors import AttarError
from attar.pipeline.core.import_path import put_first_on_path
from attar.pipeline.core.names import place_of

if TYPE_CHECKING:
    from attar.pipeline.core.stage import Artifact, Facts, Stage

STOP = "stop"
JOINED = "ATTAR_JOINED"
"""Set for child processes of a team's process: they inherit its rank, but are not in the team."""


class Wire(Protocol):
    """The key-value store that the processes of a team share, such as
    ``torch.distributed.Store``."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes:
        """Return the value. Wait until the key is set."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys are set."""


class TeamError(BaseException):
    """A distributed stage failed in one process, so no process can finish it. It is no Exception,
    so that nothing catches it and continues."""

    exit_code = 1


@dataclass
class Team:
    """This process's place among ``world`` processes. All of them must call ``share`` and
    ``barrier`` in the same order."""

    rank: int = 0
    world: int = 1
    wire: Wire | None = None
    calls: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, text: str) -> str:
        """Return rank 0's text, in every process."""
        if self.wire is None:
            return text
        self.calls += 1
        if self.leads:
            self.wire.set(f"share {self.calls}", text)
            return text
        return self.wire.get(f"share {self.calls}").decode()

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.wire is None:
            return
        self.calls += 1
        self.wire.set(f"barrier {self.calls} {self.rank}", "")
        for rank in range(self.world):
            self.wire.get(f"barrier {self.calls} {rank}")

    def run(
        self, stage: Stage[Any], out: Path, inputs: Mapping[str, Artifact], home: Path
    ) -> Facts:
        """Call ``stage.run``, in every process if the stage is distributed. ``home`` is the
        recipe's folder.

        Raises TeamError if it fails in any process: the others may wait for numbers that never
        come.
        """
        if self.wire is None or not stage.distributed:
            with use_team(Team()):  # what it trains on the way, it trains alone
                return stage.run(out, **inputs)
        self.share(encode_stage_call(stage, out, inputs, home))
        try:
            facts = stage.run(out, **inputs)
            self.barrier()
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise TeamError(self.cause(error)) from error
        return facts

    def cause(self, error: BaseException) -> str:
        """Return the first failure: another process's, if one reported it, or this one."""
        for rank in range(1, self.world):
            if self.wire and self.wire.check([f"broken {rank}"]):
                return self.wire.get(f"broken {rank}").decode()
        return format_failure(error, self.rank)

    def follow(self) -> None:
        """Join rank 0 in each stage that it announces, until it stops. Raises TeamError if a stage
        fails here."""
        while (text := self.share("")) != STOP:
            try:
                run_stage_call(text)
            except (Exception, SystemExit) as error:
                message = format_failure(error, self.rank)
                if self.wire:
                    self.wire.set(f"broken {self.rank}", message)
                raise TeamError(message) from error
            self.barrier()


def format_failure(error: BaseException, rank: int) -> str:
    words = str(error) if isinstance(error, AttarError) else f"{type(error).__name__}: {error}"
    return f"process {rank}: {words}"


def encode_stage_call(
    stage: Stage[Any], out: Path, inputs: Mapping[str, Artifact], home: Path
) -> str:
    """Return all that another process needs to run this stage, as JSON."""
    artifacts = {
        name: {
            "kind": place_of(type(artifact)),
            "key": artifact.key,
            "digest": artifact.digest,
            "root": str(artifact.root),
            "facts": artifact.facts,
        }
        for name, artifact in inputs.items()
    }
    settings = stage.model_dump(mode="json", include=set(type(stage).model_fields))
    whole = {"stage": place_of(type(stage)), "settings": settings, "out": str(out)}
    return json.dumps(whole | {"inputs": artifacts, "home": str(home)})


def run_stage_call(text: str) -> None:
    """Run the stage of an encoded call."""
    call = json.loads(text)
    put_first_on_path(Path(call["home"]))
    settings = json.dumps(call["settings"])
    stage: Stage[Any] = import_object(call["stage"]).model_validate_json(settings)
    inputs = {}
    for name, item in call["inputs"].items():
        kind, root = import_object(item["kind"]), Path(item["root"])
        inputs[name] = kind(item["key"], item["digest"], root, item["facts"])
    stage.run(Path(call["out"]), **inputs)


def import_object(name: str) -> Any:
    module, _, kind = name.partition(":")
    return getattr(importlib.import_module(module), kind)


_current: ContextVar[Team] = ContextVar("team", default=Team())  # noqa: B039  # without a wire nothing in it ever changes


def get_team() -> Team:
    """Return the team of this process, which may be a team of one."""
    return _current.get()


def is_started_in_team() -> bool:
    """Whether torchrun (or another launcher with its variables) started this process with
    others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and JOINED not in os.environ


@contextmanager
def join_team(wire: Wire, rank: int, world: int) -> Iterator[Team]:
    """Enter a team. When rank 0 leaves it, the others stop."""
    team = Team(rank, world, wire)
    os.environ[JOINED] = "1"
    try:
        with use_team(team):
            yield team
    finally:
        if team.leads:
            team.share(STOP)
        os.environ.pop(JOINED, None)


@contextmanager
def use_team(team: Team) -> Iterator[None]:
    """Make this team the current one inside the block."""
    token = _current.set(team)
    try:
        yield
    finally:
        _current.reset(token)
