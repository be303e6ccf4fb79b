"""The axes of memory and state are what the network makes them, and the graph declares no others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch_sequences import check_sequence_network
from attar.models.generation import START, STEP
from attar.models.task import Tensor as Input
from attar.stages.export.sequences import describe_graphs
from attar.stages.export.stage import Export
from tests.support.stages.training import make_out
from tests.support.tasks import smoke
from tests.support.tasks.sequences import DECODING, REVERSAL, SIZE, TASK, change_task

WIDTH = 8
Tensors = tuple[Tensor, ...]


class Fading(nn.Module):
    """Each step halves what is remembered, which has a place for each token, and adds its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(SIZE, WIDTH), nn.Linear(WIDTH, SIZE)

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        memory = (self.embedding(source) * (source != 0)[:, :, None]).sum(1)
        return (memory,), (memory.new_zeros(len(memory), 0, WIDTH),)

    def step(self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        held = torch.cat([state[0] * 0.5, self.embedding(token)[:, None]], 1)
        return self.output(torch.sigmoid(held * 2).sum(1) + memory[0]), (held,)

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        memory, state = self.start(source)
        rows = []
        for token in prefix.T:
            logits, state = self.step(token, torch.zeros(1), memory, state)
            rows.append(logits)
        return torch.stack(rows, 1)


def test_a_state_that_grows_has_another_size_after_a_step(tmp_path: Path) -> None:
    """Under one name the runtime takes the state's buffer for the larger one."""
    check_sequence_network(Fading(), TASK, DECODING)
    forms = describe_graphs(Fading(), TASK)
    assert forms[STEP].inputs["state_0"] == ("batch", "past", WIDTH)
    assert forms[STEP].outputs["next_state_0"] == ("batch", "present", WIDTH)
    weights = smoke.weights(tmp_path / "weights", f"{__name__}:Fading", REVERSAL)
    facts = Export(exporter="torchscript").run(make_out(tmp_path), weights=weights)
    assert facts["difference"] < 1e-4


class Strided(Fading):
    """Two convolutions leave a quarter of the frames, rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 4, 3, 2, 1), nn.Conv1d(4, WIDTH, 3, 2, 1)

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        left = self.second(self.first(source.transpose(1, 2))).transpose(1, 2)
        return (left.sum(1), left, left * 2, source), (left.new_zeros(len(left), 0, WIDTH),)


def test_an_axis_that_follows_a_size_in_part_has_a_name_of_its_own() -> None:
    """Between 34 frames and 35 it does not change."""
    frames = Input("float32", ("batch", "frames", 4))
    task = change_task(inputs={"frames": frames}, ranges={"batch": (1, 16), "frames": (8, 60)})
    own = describe_graphs(Strided(), task)[START].outputs
    short = own["memory_1"][1]
    assert isinstance(short, str)
    assert short not in {"frames", "batch"}
    assert own["memory_1"] == own["memory_2"] == ("batch", short, WIDTH)
    assert own["memory_3"] == ("batch", "frames", 4)
