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
from attar.pipeline.core.names import load_object, place_of

if TYPE_CHECKING:
    from attar.pipeline.core.stage import Artifact, Facts, Stage

STOP = "stop"
JOINED = "ATTAR_JOINED"
"""Set for the children of a process in a team: they inherit its rank and are not in the team."""


class Wire(Protocol):
    """A key-value store that all processes of a team share, such as ``torch.distributed.Store``."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes:
        """Wait until the key is set, and return its value."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys are set."""


class TeamError(BaseException):
    """A distributed stage failed in one process, so it cannot be finished in any.

    It is no Exception, so no slot is tried afterwards.
    """

    exit_code = 1


@dataclass
class Team:
    """This process's place among ``world`` processes.

    All of them must call ``broadcast``, ``gather`` and ``barrier`` in the same order.
    """

    rank: int = 0
    world: int = 1
    wire: Wire | None = None
    calls: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process walks the slots and writes."""
        return self.rank == 0

    def broadcast(self, text: str) -> str:
        """Return the text of rank 0 in every process."""
        if self.wire is None:
            return text
        self.calls += 1
        if self.leads:
            self.wire.set(f"broadcast {self.calls}", text)
        return self.wire.get(f"broadcast {self.calls}").decode()

    def gather(self, text: str) -> list[str]:
        """Return the texts of all processes, by rank, in every process."""
        if self.wire is None:
            return [text]
        self.calls += 1
        self.wire.set(f"gather {self.calls} {self.rank}", text)
        names = [f"gather {self.calls} {rank}" for rank in range(self.world)]
        return [self.wire.get(name).decode() for name in names]

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
        """Run a stage, in every process if it is distributed. ``home``: the recipe's folder.

        Raises TeamError if a distributed stage fails in any process: the others may wait for
        numbers that never come.
        """
        if self.wire is None or not stage.distributed:
            with use_team(Team()):  # what it trains on the way, it trains alone
                return stage.run(out, **inputs)
        self.broadcast(encode_stage_call(stage, out, inputs, home))
        try:
            facts = stage.run(out, **inputs)
            self.barrier()
        except (Exception, SystemExit) as error:  # user code may raise anything
            raise TeamError(self.find_cause(error)) from error
        return facts

    def find_cause(self, error: BaseException) -> str:
        """Return the failure that another process reported, or else this error."""
        for rank in range(1, self.world):
            if self.wire and self.wire.check([f"failure {rank}"]):
                return self.wire.get(f"failure {rank}").decode()
        return format_failure(error, self.rank)

    def follow_leader(self) -> None:
        """Run each distributed stage with rank 0 until it has finished.

        Raises TeamError if one fails here.
        """
        while (text := self.broadcast("")) != STOP:
            try:
                run_stage_call(text)
            except (Exception, SystemExit) as error:
                message = format_failure(error, self.rank)
                if self.wire:
                    self.wire.set(f"failure {self.rank}", message)
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
        name: (place_of(type(given)), given.key, given.digest, str(given.root), given.facts)
        for name, given in inputs.items()
    }
    settings = stage.model_dump(mode="json", include=set(type(stage).model_fields))
    call = {"stage": place_of(type(stage)), "settings": settings, "inputs": artifacts}
    return json.dumps({**call, "out": str(out), "home": str(home)})


def run_stage_call(text: str) -> None:
    """Run the stage that `encode_stage_call` encoded."""
    call = json.loads(text)
    put_first_on_path(Path(call["home"]))
    kind: type[Stage[Any]] = load_object(call["stage"])
    stage = kind.model_validate_json(json.dumps(call["settings"]))
    inputs = {}
    for name, (kind_name, key, digest, root, facts) in call["inputs"].items():
        inputs[name] = load_object(kind_name)(key, digest, Path(root), facts)
    stage.run(Path(call["out"]), **inputs)


_current: ContextVar[Team] = ContextVar("team", default=Team())  # noqa: B039  # it never changes


def get_team() -> Team:
    """Return the team that this process is in, which may be a team of one."""
    return _current.get()


def is_started_in_team() -> bool:
    """Whether torchrun, or a launcher with the same variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and JOINED not in os.environ


@contextmanager
def join_team(wire: Wire, rank: int, world: int) -> Iterator[Team]:
    """Put this process in a team. When rank 0 leaves it, the others stop."""
    team = Team(rank, world, wire)
    os.environ[JOINED] = "1"
    try:
        with use_team(team):
            yield team
    finally:
        if team.leads:
            team.broadcast(STOP)
        os.environ.pop(JOINED, None)


@contextmanager
def use_team(team: Team) -> Iterator[None]:
    """Make this the team that `get_team` returns."""
    token = _current.set(team)
    try:
        yield
    finally:
        _current.reset(token)
