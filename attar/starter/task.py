"""The problem: what goes in, what comes out, on which data, and how good an answer is.

As it stands: which fault, if any, do 64 readings of a sensor show? 400 recordings with labels,
8,000 without, all drawn from a seeded generator. REPLACE marks what your own goes into.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import attar
from attar.models.task import Array, Arrays, SplitName

READINGS = 64
SIZES: dict[SplitName, int] = {"train": 400, "validation": 500, "test": 2000, "transfer": 8000}


class Faults(attar.Task):
    # REPLACE the names, dtypes and axes. A number is a fixed size, a name a dynamic one; several
    # inputs and outputs are fine.
    inputs = {"signal": attar.Tensor("float32", ("batch", READINGS))}
    outputs = {
        "logits": attar.Output(("batch", 3), target="fault")
    }  # kind="values" for numbers instead of classes
    ranges = {
        "batch": (1, 64)
    }  # every named axis: the smallest and the largest size that must work
    classes = ("none", "knock", "whine")
    preprocess = {
        "signal": [attar.Scale(by=1 / 1000)]
    }  # data, not code: it travels in the bundle; {} for none
    # False, if you have no samples without labels: then split("transfer") is never asked for
    transfer = True

    def data(self) -> list[Path | str]:
        """REPLACE with the files that `split` reads: when one changes, all that was made of it is
        made again."""
        return ["recordings of a seeded generator, version 1"]

    def split(self, name: SplitName) -> attar.Split:
        """REPLACE with your samples: the same ones in the same order at every call, and none of the
        test split elsewhere."""
        generator = np.random.default_rng(list(SIZES).index(name))
        fault = generator.integers(0, len(self.classes), SIZES[name])
        signal = record(fault, generator)
        return attar.InMemory({"signal": signal}, {} if name == "transfer" else {"fault": fault})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """REPLACE with what leaves the right answer as it is, decided by `generator` alone; or
        delete it."""
        return {"signal": np.roll(inputs["signal"], generator.integers(READINGS), axis=1)}

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """REPLACE where accuracy is not what counts: one row of statistics a sample; the mean is
        the score."""
        return attar.hits(outputs["logits"], targets["fault"])


def record(fault: Array, generator: np.random.Generator) -> npt.NDArray[np.int16]:
    """DELETE it. (N,) -> (N, READINGS) in millivolts: noise, and for a fault a burst at a random
    time, slow or fast."""
    time = np.arange(READINGS) - generator.uniform(8, READINGS - 8, (len(fault), 1))
    phase = generator.uniform(0, 2 * np.pi, (len(fault), 1))
    pitch = np.array([0.0, 0.8, 2.0])[fault][:, None]  # radians a reading
    burst: npt.NDArray[np.float64] = (
        np.exp(-((time / 4) ** 2)) * np.sin(pitch * time + phase) * (pitch > 0)
    )
    return (1500 * burst + 400 * generator.standard_normal(burst.shape)).astype(np.int16)
