"""Processes of torchrun that could not compute together are told so before one waits for another."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from attar.pipeline.core.errors import StageError
from attar.pipeline.team import Team
from attar.stages.learning.processes import check_alike, check_gpus
from tests.support.processes.team_board import Board


def board(*texts: str) -> Board:
    """What the processes from rank 1 on said in the team's first calls."""
    made = Board()
    for call, text in enumerate(texts, 1):
        made.set(f"gather {call} 1", text)
    return made


def test_processes_that_are_alike() -> None:
    check_alike(Team(0, 2, board(json.dumps({"node": "b", "torch": "2.13.0"}))), torch="2.13.0")
    check_alike(Team(), torch="2.13.0")


@pytest.mark.parametrize("fact", ["torch", "CUDA", "driver"])
def test_a_process_with_something_else_is_named(fact: str) -> None:
    own = {"torch": "2.13.0", "CUDA": "13.0", "driver": "590.1"}
    other = json.dumps({**own, "node": "far", fact: "none"})
    with pytest.raises(StageError, match=rf"process 1 on far has {fact} none, process 0 on \S+ has {own[fact]}"):
        check_alike(Team(0, 2, board(other)), **own)


@pytest.mark.parametrize(
    ("uuid", "name", "said"),
    [("u1", "NVIDIA L4", None), ("u0", "NVIDIA L4", "0 and 1 share one GPU of here"), ("u1", "NVIDIA T4", "GPU NVIDIA T4")],
)
def test_each_process_has_a_gpu_of_one_kind(uuid: str, name: str, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "here")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name="NVIDIA L4", uuid="u0"))
    member = Team(0, 2, board(json.dumps({"node": "here", "GPU": name}), f"here {uuid}"))
    if said is None:
        check_gpus(member)
    else:
        with pytest.raises(StageError, match=said):
            check_gpus(member)
