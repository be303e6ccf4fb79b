"""torch.compile: the same weights but for rounding, under the same names; where it cannot compile, an error and no other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._inductor import config, cpp_builder

from attar.pipeline.core.errors import StageError
from attar.stages.learning.compilation import compiling
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's compiler uses it itself


def make_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def make_other() -> nn.Module:
    """Return a network that was never compiled here, as torch keeps on the disk what it compiled."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 13), nn.Sigmoid(), nn.Linear(13, 10))


def teach(**settings: Any) -> Teach:
    network = f"{__name__}:make_network"
    return Teach(**{"task": DIGITS, "epochs": 1, "precision": "fp32", "ema": 0.9, "network": network, **settings})


@pytest.mark.slow  # a compiler of C++ is at work
@pytest.mark.timeout(600)
def test_the_weights_are_those_of_the_network_itself(tmp_path: Path) -> None:
    outs = [make_out(tmp_path, name) for name in ("plain", "compiled")]
    facts = [teach(compile=compiles).run(out) for compiles, out in zip((False, True), outs, strict=True)]
    plain, compiled = (load_file(out / "weights.safetensors") for out in outs)
    assert compiled.keys() == plain.keys()
    for name, tensor in plain.items():
        assert (compiled[name] - tensor).abs().max() <= 1e-2 * max(1, float(tensor.abs().max())), name
    losses = [each["history"][0]["loss"] for each in facts]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow  # all of torch's compiler but the last step
def test_a_machine_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(StageError, match=r"cannot compile the teacher: .*compile = false"):
        teach(compile=True, network=f"{__name__}:make_other").run(make_out(tmp_path))


def test_a_network_that_would_be_compiled_too_often() -> None:
    with pytest.raises(StageError, match="cannot compile the student: enough"), compiling("student"):
        raise FailOnRecompileLimitHit("enough")


def test_compiling_counts_and_does_not_go_with_checkpointing() -> None:
    assert "compile" in teach().deciding()
    with pytest.raises(ValidationError, match="either compile or checkpointing"):
        teach(compile=True, checkpointing=True)
