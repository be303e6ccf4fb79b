"""Training: the same settings give the same bytes, an interruption changes nothing, and what diverges is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from attar.engines.runtimes.torch import open_network
from attar.models.networks.mobile import mobile
from attar.models.networks.residual import residual
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Weights
from attar.stages.learning.compute import is_bf16_faster
from attar.stages.learning.loop import FIRST_FRESH_VIEW, FreshViews, RecordedViews
from attar.stages.learning.optimizer import create_average, create_optimizer, find_undecayed
from attar.stages.learning.schedule import SCHEDULES, compute_rate
from attar.stages.teach.stage import Teach
from tests.support.stages.training import READER, SENTENCES, InterruptError, interrupt_at, make_out
from tests.support.tasks.smoke import DIGITS, RESIDUAL, artifact


def teach(**settings: Any) -> Teach:
    return Teach(**{"task": DIGITS, "network": RESIDUAL, "options": {"width": 4}, "epochs": 3, "learning_rate": 0.01, **settings})


def test_a_teacher_learns(tmp_path: Path) -> None:
    facts = teach(options={"width": 8}, epochs=6).run(make_out(tmp_path))
    assert facts["score"] > 0.9
    assert facts["score"] == facts["history"][-1]["score"]
    assert [entry["epoch"] for entry in facts["history"]] == [1, 2, 3, 4, 5, 6]
    assert facts["parameters"] == sum(p.numel() for p in residual(8).parameters())
    assert json.loads(json.dumps(facts)) == facts


def test_the_weights_open_to_the_recorded_score(tmp_path: Path) -> None:
    out = make_out(tmp_path)
    weights = artifact(Weights, out, teach().run(out))
    batch = Digits().split("validation").take(np.arange(300))
    with weights.open(threads=1) as predict:
        inputs = {"image": (np.asarray(batch.inputs["image"], np.float32) / 16 - 0.305) / np.float32(0.376)}
        outputs = predict(inputs)
    assert Digits().aggregate(Digits().score(outputs, batch.targets)) == pytest.approx(weights.facts["score"], abs=0.004)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_settings_give_the_same_bytes(tmp_path: Path, precision: str) -> None:
    runs = [make_out(tmp_path, name) for name in ("one", "two")]
    facts = [teach(precision=precision).run(out) for out in runs]
    assert facts[0] == facts[1]
    assert (runs[0] / "weights.safetensors").read_bytes() == (runs[1] / "weights.safetensors").read_bytes()


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, two = (teach(epochs=1, seed=seed).run(make_out(tmp_path, str(seed)))["history"] for seed in (0, 1))
    assert one != two


SETTINGS = [
    {"precision": "fp32"},
    {"precision": "bf16", "patience": 2, "schedule": "cosine"},
    {"precision": "fp32", "ema": 0.9, "gradient_clip": 1.0},
]


@pytest.fixture(scope="module", params=SETTINGS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Facts]:
    """Settings, and a training by them that nobody interrupted: its folder and its facts."""
    out = make_out(tmp_path_factory.mktemp("whole"))
    return request.param, out, teach(**request.param).run(out)


@pytest.mark.parametrize("step", [5, 14, 27])  # 9 steps an epoch: in the first, in the second, after the last
def test_an_interrupted_training_ends_in_the_same_bytes(
    tmp_path: Path, step: int, whole: tuple[dict[str, Any], Path, Facts]
) -> None:
    settings, finished, facts = whole
    broken = make_out(tmp_path, "broken")
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(step)):
        teach(**settings).run(broken)
    seen: list[int] = []
    with listen_to_progress(lambda what, done, total, note: seen.append(done)):
        again = teach(**settings).run(broken)
    assert seen[0] == 1 + 9 * ((step - 1) // 9)  # goes on with the epoch that was interrupted
    assert again == facts
    assert (broken / "weights.safetensors").read_bytes() == (finished / "weights.safetensors").read_bytes()


def test_an_average_by_hand() -> None:
    # the first step copies: 1; then 0.9 * 1 + 0.1 * 2 = 1.1; then 0.9 * 1.1 + 0.1 * 3 = 1.29
    module = torch.nn.Linear(1, 1, bias=False)
    average = create_average(module, 0.9)
    assert average is not None
    weight: Any = average.module.weight
    for value, expected in ((1.0, 1.0), (2.0, 1.1), (3.0, 1.29)):
        torch.nn.init.constant_(module.weight, value)
        average.update_parameters(module)
        assert weight.item() == pytest.approx(expected)
    assert create_average(module, 0.0) is None


def test_the_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    """So slow an average that it stays where the first step left it: at chance, whatever the weights have learnt."""
    kept, out = teach(epochs=3, ema=0.999999).run(make_out(tmp_path, "average")), make_out(tmp_path, "weights")
    assert kept["score"] < 0.5 < teach(epochs=3).run(out)["score"]


def test_a_clipped_gradient_hardly_moves_anything(tmp_path: Path) -> None:
    """So far below the optimizer's own epsilon of 1e-8 that its steps vanish."""
    out = make_out(tmp_path)
    teach(epochs=1, gradient_clip=1e-14, weight_decay=0.0).run(out)
    torch.manual_seed(0)
    at_first = residual(4).state_dict()
    moved = {name: (tensor - at_first[name]).abs().max() for name, tensor in load_file(out / "weights.safetensors").items()}
    assert max(float(moved[name]) for name in moved if name.endswith(("weight", "bias"))) < 1e-4


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.random.get_rng_state()
    teach(epochs=1).run(make_out(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    facts = teach(epochs=30, patience=1, learning_rate=0.05).run(make_out(tmp_path))
    scores = [entry["score"] for entry in facts["history"]]
    assert len(scores) < 30
    assert facts["best_epoch"] == 1 + scores.index(max(scores)) == len(scores) - 1
    assert facts["score"] == max(scores)


def test_progress_says_how_it_goes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    with listen_to_progress(lambda *each: told.append(each)):
        teach(epochs=2).run(make_out(tmp_path))
    assert [each[:3] for each in told] == [("teacher", done, 18) for done in range(1, 19)]
    assert re.fullmatch(r"epoch 1/2 loss \d\.\d{3} waiting \d+ %", told[0][3])
    assert told[-1][3].startswith("epoch 2/2 loss ")
    assert " accuracy 0." in told[-1][3]


class SilentNetwork(nn.Module):
    """Its answers are 0 whatever its weights are: nothing but decay moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(64), nn.Linear(64, 10)
        nn.init.constant_(self.layer.weight, 2.0)
        nn.init.constant_(self.layer.bias, 3.0)
        nn.init.constant_(self.norm.bias, 4.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(self.norm(image.flatten(1)))  # (B, 1, 8, 8) -> (B, 10)
        return 0 * made


def test_weights_decay_and_norms_and_biases_do_not(tmp_path: Path) -> None:
    # one step, at 1/25 of the rate: 2 * (1 - 0.5 / 25 * 5) = 1.8; the layer's bias and the norm stay as they began
    out = make_out(tmp_path)
    once = {"epochs": 1, "batch": 1197, "learning_rate": 0.5, "weight_decay": 5.0}
    teach(network="tests.stages.learning.test_learn:SilentNetwork", options={}, **once).run(out)
    kept = {name: set(tensor.flatten().tolist()) for name, tensor in load_file(out / "weights.safetensors").items()}
    (weight,) = kept.pop("layer.weight")
    assert weight == pytest.approx(1.8)
    assert kept == {"layer.bias": {3.0}, "norm.weight": {1.0}, "norm.bias": {4.0}}


def step_twice(**settings: Any) -> list[float]:
    """A weight of 1 after each of two steps of SGD at a rate of 0.1, its gradients 1 and 2."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer, seen = create_optimizer(teach(optimizer="sgd", weight_decay=0.0, **settings), layer), []
    for gradient in (1.0, 2.0):
        optimizer.param_groups[0]["lr"] = 0.1
        layer.weight.grad = torch.full_like(layer.weight, gradient)
        optimizer.step()
        seen.append(layer.weight.item())
    return seen


def test_sgd_by_hand() -> None:
    """Velocities are 1 and 0.5 + 2; Nesterov adds half of them to the gradients 1 and 2."""
    assert step_twice(momentum=0.0) == pytest.approx([0.9, 0.7])
    assert step_twice(momentum=0.5) == pytest.approx([0.9, 0.65])
    assert step_twice(momentum=0.5, nesterov=True) == pytest.approx([1 - 0.15, 0.85 - 0.325])
    assert step_twice() == step_twice(momentum=0.9)


def test_an_interrupted_training_with_sgd_ends_in_the_same_bytes(tmp_path: Path) -> None:
    stage = teach(optimizer="sgd", nesterov=True, momentum=0.9, learning_rate=0.1, weight_decay=5e-4)
    whole, broken = make_out(tmp_path, "whole"), make_out(tmp_path, "broken")
    facts = stage.run(whole)
    assert facts["score"] > 0.5  # of ten classes
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(20)):
        stage.run(broken)
    assert stage.run(broken) == facts
    assert (broken / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "settings", [{"momentum": 0.9}, {"nesterov": True}, {"optimizer": "sgd", "nesterov": True, "momentum": 0.0}]
)
def test_momentum_without_a_use_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="momentum"):
        teach(**settings)


def test_norms_and_scales_of_several_axes_do_not_decay() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.table = nn.Parameter(torch.ones(1, 4, 1, 1)), nn.Parameter(torch.ones(4, 8))
            self.norm, self.head, self.bias = nn.LayerNorm((4, 8)), nn.Linear(8, 1), nn.Parameter(torch.ones(4, 8))

    module = Scaled()
    undecayed = find_undecayed(module)
    assert {name for name, each in module.named_parameters() if each not in undecayed} == {"table", "head.weight"}


class Exploding(nn.Module):
    """Its answers grow until they are no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(image.flatten(1))  # (B, 1, 8, 8) -> (B, 10)
        return made / (made - made) if self.training else made


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="nan at step 1 of epoch 1"):
        teach(network="tests.stages.learning.test_learn:Exploding", options={}).run(make_out(tmp_path))


def test_a_learning_rate_that_is_far_too_high(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(nan|inf) at step \d+"):
        teach(task=SENTENCES, network=READER, options={}, learning_rate=1e30, epochs=20).run(make_out(tmp_path))


@pytest.mark.parametrize("field", ["epochs", "batch", "learning_rate"])
def test_settings_out_of_range(field: str) -> None:
    with pytest.raises(ValidationError):
        teach(**{field: 0})


def test_adopted_weights_are_measured_and_kept(tmp_path: Path) -> None:
    trained = make_out(tmp_path, "trained")
    facts = teach().run(trained)
    adopted = make_out(tmp_path, "adopted")
    found = teach(weights=trained / "weights.safetensors").run(adopted)
    assert found["score"] == facts["score"]
    assert found["history"] == []
    assert (adopted / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in residual(8, blocks=2).state_dict().items()}, file)
    with pytest.raises(StageError, match=r"first\.0\.weight .*\(16, 8, 3, 3\)") as error:
        teach(weights=file, options={"width": 8}).run(make_out(tmp_path))
    assert "Set network and options" in str(error.value)
    with pytest.raises(StageError, match=r"stem\.0\.0\.weight .*\(4, 1, 3, 3\)"):
        teach(weights=file, options={"width": 4, "blocks": 2}).run(make_out(tmp_path))
    save_file({"stem.0.0.weight": torch.zeros(4, 1, 3, 3)}, file)
    with pytest.raises(StageError, match=r"missing stem\.0\.1\.weight"):
        teach(weights=file).run(make_out(tmp_path))


def test_weights_that_are_no_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "pickled.pt"
    torch.save(residual(4).state_dict(), file)
    with pytest.raises(StageError, match="safetensors"):
        teach(weights=file).run(make_out(tmp_path))


def test_an_adopted_network_is_asked_on_the_device_that_is_named(tmp_path: Path) -> None:
    """On a machine without a GPU that is an error, and no answer of the CPU."""
    file = tmp_path / "weights.safetensors"
    save_file(residual(4).state_dict(), file)
    with pytest.raises(StageError, match="no CUDA device"):
        teach(weights=file, device="cuda").run(make_out(tmp_path))


def test_opening_sets_and_restores_the_threads() -> None:
    before = torch.get_num_threads()
    with open_network(residual(4), DIGITS, threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(InterruptError), open_network(residual(4), DIGITS, threads=before + 1):
        raise InterruptError
    assert torch.get_num_threads() == before


def test_a_token_task_is_taught_too(tmp_path: Path) -> None:
    out = make_out(tmp_path)
    facts = teach(task=SENTENCES, network=READER, options={}, epochs=5).run(out)
    assert facts["score"] > 0.5
    assert facts["precision"] == "fp32"
    assert load_file(out / "weights.safetensors")["embedding.weight"].shape == (32, 32)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 500))
def test_schedules_rise_to_one_and_fall_to_almost_nothing(name: str, steps: int) -> None:
    rates = [SCHEDULES[name](step / steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps > 100:
        assert max(rates) > 0.99
        assert rates[-1] < 0.01


def test_one_cycle_by_hand() -> None:
    one_cycle = SCHEDULES["one-cycle"]
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.15) == pytest.approx((1 / 25 + 1) / 2)
    assert one_cycle(0.3) == 1
    assert one_cycle(0.65) == pytest.approx(0.5, abs=1e-5)


def test_the_warm_up_is_as_long_as_it_is_set() -> None:
    assert compute_rate("cosine", None, 0.025) == pytest.approx(0.5)
    assert compute_rate("cosine", 0.2, 0.1) == pytest.approx(0.5)
    assert compute_rate("cosine", 0.2, 0.6) == pytest.approx(0.5)
    assert compute_rate("cosine", 0.0, 0.0) == 1
    assert compute_rate("one-cycle", 0.1, 0.1) == 1


def test_views_in_turn_and_views_never_recorded() -> None:
    assert [RecordedViews(5, 3).choose_view(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [FreshViews(5).choose_view(epoch) for epoch in range(2)] == [FIRST_FRESH_VIEW, FIRST_FRESH_VIEW + 1]


def test_bf16_is_for_dense_convolutions() -> None:
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert is_bf16_faster(residual(8)) is native
    assert not is_bf16_faster(mobile(8))
    assert not is_bf16_faster(nn.Linear(4, 4))
