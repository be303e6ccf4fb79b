"""The settings of a training, shared by all stages that train a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.pipeline.core.stage import CodeName, Device, SettingMark

Option = bool | int | float | str


class TrainingSettings(BaseModel):
    """Which network is trained, for how long, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: CodeName
    """The recipe's task. A teacher's section may name another one, which may only differ in how
    inputs are read (see docs/teachers.md)."""
    network: CodeName
    """A factory, ``factory(**options) -> torch.nn.Module``, as MODULE:NAME."""
    options: dict[str, Option] = {}
    """The arguments of the factory."""
    epochs: int = Field(10, ge=1)
    """Passes over the training split."""
    batch: int = Field(128, ge=2)
    """Samples per step, of all processes together; at least two for batch normalization. If a task
    generates tokens, steps hold about equally many tokens, and this is their mean of samples."""
    accumulate: int = Field(1, ge=1)
    """Number of parts into which each process splits its samples of a step, to need less memory."""
    checkpointing: Annotated[bool, SettingMark("undecided")] = False
    """Whether repeated blocks keep their inputs alone and are computed again in the backward pass:
    less memory, about a third more time, and the same gradients."""
    synchronize_norms: Annotated[bool | None, SettingMark("undecided")] = None
    """Whether batch normalization has the statistics of all GPUs (torch's SyncBatchNorm) or of each
    one's samples. Not set: of all where one would see 16 samples or fewer. Like the number of
    processes, it does not count in the key."""
    compile: bool = False
    """Whether the training calls the network through torch.compile. It changes rounding."""
    learning_rate: float = Field(3e-3, gt=0)
    """The largest learning rate of the schedule."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum, which needs a larger learning rate, such as 0.05."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """Momentum of SGD, by default 0.9."""
    nesterov: bool = False
    """Whether SGD's momentum is Nesterov's."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay, for weights with two axes or more; biases and norms do not decay. SGD adds it
    to the gradient, so its usual values are smaller, such as 0.0005."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target that is divided evenly among all classes (Szegedy et al. 2016,
    arXiv:1512.00567, section 7)."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """How the learning rate moves over the steps."""
    warmup: float | None = Field(None, ge=0, lt=1)
    """The share of all steps in which the learning rate rises; by default 0.3 for one-cycle and
    0.05 for cosine."""
    gradient_clip: float = Field(0.0, ge=0)
    """The largest norm of a step's gradient over all parameters; 0 sets no limit."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is then saved; 0 saves
    the weights themselves."""
    patience: int = Field(0, ge=0)
    """Number of epochs without a better validation score after which training stops, with the best
    weights; 0 trains all epochs and keeps the last weights."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16 and fp16 (CUDA only) use autocast, the weights stay fp32; ``auto`` selects bf16 where
    the device has it and it is faster."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the order of the samples and every other random number."""
    device: Device = "auto"
    workers: Annotated[int | None, Field(ge=0), SettingMark("undecided")] = None
    """Processes, for each process that trains, that prepare batches beside the training; with 0 it
    prepares them itself. By default up to 8, one fewer than the cores, if preparing takes long
    enough to be worth it."""
    tensorboard: Annotated[Path | None, SettingMark("undecided")] = None
    """Folder for TensorBoard's event files, relative to the working directory."""

    @model_validator(mode="after")
    def _check_compile(self) -> Self:
        if self.compile and self.checkpointing:
            raise ValueError(
                "torch.compile chooses by itself what it computes again; set either compile or "
                "checkpointing"
            )
        return self

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        if self.optimizer != "sgd" and (self.nesterov or self.momentum is not None):
            raise ValueError("momentum and nesterov are of SGD; set optimizer = 'sgd' or omit them")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set momentum = 0.9")
        return self
