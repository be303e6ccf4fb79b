"""A student that begins with its teacher's layers and channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network
from attar.models.networks.residual import residual
from attar.models.networks.translation import translator
from attar.models.task import Tensor as Input
from attar.models.tasks.digits import Digits
from attar.models.tasks.numbers import Numbers
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Weights
from attar.stages.distill.inheritance import find_narrower, find_shorter, inherit_weights, spread_layers
from attar.stages.distill.stage import Distill
from attar.stages.distill.warm_start import WarmStart
from tests.support.tasks.sequences import SIZE, change_task
from tests.support.tasks.smoke import DIGITS, RESIDUAL, weights


def make_translator(encoder: int, decoder: int) -> nn.Module:
    return translator(size=40, width=8, heads=2, hidden=16, encoder=encoder, decoder=decoder, longest=16, dropout=0.0)


def test_evenly_spread_layers_begin_with_the_first() -> None:
    assert spread_layers(6, 3) == [0, 2, 4]
    assert spread_layers(6, 4) == [0, 1, 3, 4]
    assert spread_layers(2, 1) == [0]


def test_lists_of_one_class_that_are_shorter_in_the_student_are_found() -> None:
    found = dict(find_shorter(make_translator(4, 2), make_translator(2, 1)))
    assert found == {"encoder": 2, "decoder": 1}
    assert dict(find_shorter(residual(blocks=2), residual(blocks=1))) == {"stages": 3}
    assert not dict(find_shorter(residual(), residual()))


def test_a_shorter_student_has_the_teacher_s_layers() -> None:
    """Four layers to two: the first and the third; to those that are named, where they are."""
    teacher, student = make_translator(4, 2), make_translator(2, 2)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    tensors = inherit_weights(teacher, student, Numbers(), {})
    student.load_state_dict(tensors)  # every name and shape
    assert torch.equal(tensors["encoder.1.attention.query.weight"], before["encoder.2.attention.query.weight"])
    named = inherit_weights(make_translator(4, 2), student, Numbers(), {"encoder": (0, 3)})
    assert set(named) == set(tensors)


def test_without_a_block_s_change_a_network_of_half_the_blocks_is_the_teacher() -> None:
    """The second block of every stage adds nothing: the student, which has the first ones, gives the same answers."""
    torch.manual_seed(0)
    teacher, student = residual(width=4, blocks=2), residual(width=4)
    for place in (1, 3, 5):
        nn.init.zeros_(teacher.stages[place].second[1].weight)  # type: ignore[union-attr,index]  # blocks of Residual
    inputs = Digits().example(np.random.default_rng(0), batch=4)
    expected = call_network(teacher.eval(), Digits(), inputs)["logits"]
    student.load_state_dict(inherit_weights(teacher, student, Digits(), {}))
    assert torch.allclose(call_network(student.eval(), Digits(), inputs)["logits"], expected, atol=1e-5)


def test_a_narrower_student_has_the_channels_with_the_largest_norms() -> None:
    """Half of the teacher's channels are zero everywhere; the student has the others, and gives the same answers."""
    torch.manual_seed(0)
    student, teacher = residual(width=4), residual(width=8)
    small, wide = student.state_dict(), teacher.state_dict()
    for name, tensor in wide.items():
        if tensor.ndim:
            tensor.zero_()
            tensor[tuple(slice(size) for size in small[name].shape)] = small[name]
    for name in wide:
        if name.endswith("running_var"):
            wide[name].fill_(1.0)
    teacher.load_state_dict(wide)
    inputs = Digits().example(np.random.default_rng(0), batch=4)
    expected = call_network(teacher.eval(), Digits(), inputs)["logits"]
    narrow = residual(width=4)
    narrow.load_state_dict(inherit_weights(teacher, narrow, Digits(), {}))
    assert torch.allclose(call_network(narrow.eval(), Digits(), inputs)["logits"], expected, atol=1e-5)


class Captioner(nn.Module):
    """It says of each token alone, and of a picture's channels, what comes next."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.see, self.embed = nn.Conv2d(1, channels, 3), nn.Embedding(SIZE, 4)
        self.join, self.say = nn.Linear(channels, 4), nn.Linear(4, SIZE)

    def forward(self, image: Tensor, prefix: Tensor) -> Tensor:
        seen = self.join(self.see(image).mean((2, 3)))
        said: Tensor = self.say(self.embed(prefix) + seen[:, None])
        return said


def test_a_network_that_generates_from_images_is_narrowed() -> None:
    image = Input("float32", ("batch", 1, 8, 8))
    task = change_task(inputs={"image": image}, ranges={"batch": (1, 16)})
    narrow = Captioner(3)
    narrow.load_state_dict(inherit_weights(Captioner(6), narrow, task, {}))


def test_widths_of_attention_are_not_cut() -> None:
    wide = translator(size=40, width=16, heads=2, hidden=16, encoder=1, decoder=1, longest=16, dropout=0.0)
    assert find_narrower(wide, make_translator(1, 1)) == {}


@pytest.mark.parametrize(
    ("layers", "named"), [({"encodr": (0, 1)}, "encodr"), ({"encoder": (0, 9)}, "9"), ({"encoder": (0,)}, "2 layers")]
)
def test_layers_that_the_teacher_does_not_have_are_named(layers: dict[str, tuple[int, ...]], named: str) -> None:
    with pytest.raises(StageError, match=named):
        inherit_weights(make_translator(4, 2), make_translator(2, 2), Numbers(), layers)


def test_the_facts_say_what_was_inherited(tmp_path: Path) -> None:
    teacher = weights(tmp_path, RESIDUAL, DIGITS, width=8, blocks=2)
    settings = Distill(task=DIGITS, network=RESIDUAL, options={"width": 4}, inherit=True)
    start = WarmStart(settings, teacher, {})
    start()
    assert start.facts["parameters"] == 1.0
    assert start.facts["key"] == teacher.key
    assert isinstance(teacher, Weights)


def test_one_origin_alone() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        Distill(task=DIGITS, network=RESIDUAL, inherit=True, start="0" * 12)
    with pytest.raises(ValueError, match="inherit = true"):
        Distill(task=DIGITS, network=RESIDUAL, layers={"stages": (0,)})
