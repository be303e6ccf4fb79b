"""The settings of a training, shared by all stages that train a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from attar.pipeline.core.stage import CodeName, Device, Named

Option = bool | int | float | str


class TrainingSettings(BaseModel):
    """Which network is trained, for how long, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: CodeName
    """The recipe's; a teacher's section may name another, which differs in what is read alone (see docs/teachers.md)."""
    network: CodeName
    """A factory, ``factory(**options) -> torch.nn.Module``."""
    options: dict[str, Option] = {}
    """What the factory is called with."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    batch: int = Field(128, ge=2)
    """Samples a step, of all processes together. Two at least: batch normalisation needs them."""
    accumulate: int = Field(1, ge=1)
    """Parts that a process cuts its share of a step's samples into, one after the other, to need less memory."""
    learning_rate: float = Field(3e-3, gt=0)
    """The largest of the schedule."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's, of weights with two axes or more; biases and the vectors of norms do not decay."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """How the learning rate moves over the steps."""
    gradient_clip: float = Field(0.0, ge=0)
    """The largest norm of a step's gradient, over all parameters; 0: no limit."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of an exponential moving average of the weights, which is then what is kept; 0: the weights as they are."""
    patience: int = Field(0, ge=0)
    """Stop after so many epochs without a better validation score, and keep the best weights; 0: keep the last."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16 and fp16 (CUDA only) are autocast, the weights stay fp32; ``auto`` takes bf16 where the device has it and it pays."""
    seed: int = Field(0, ge=0)
    """Of the first weights, the order of the samples and all else that the training draws."""
    device: Device = "auto"
    tensorboard: Annotated[Path | None, Named("undecided")] = None
    """A folder for TensorBoard's event files, relative to where attar is started; it does not count in the key."""
