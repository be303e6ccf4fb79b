"""How labelling and distilling grow with the number of samples: time, memory, bytes and files.

python -m benchmarks.scale                   # 10,000, 100,000 and 1,000,000 samples, and the figure
python -m benchmarks.scale 10000 --no-figure

The samples are computed when they are read and the networks are one layer, so what is measured is
attar's own part. Seconds are of the processor, which other programs beside it lengthen less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from attar.models.preprocess import Tokenize
from attar.models.sample_order import CHUNK, find_places
from attar.models.task import Arrays, Batch, Output, Split, SplitName, Task, Tensor, hits
from attar.pipeline.keys import machine
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.loss_settings import Kd
from attar.stages.distill.stage import Distill
from attar.stages.label.labelling import LabelProgress
from attar.stages.label.shards import Shard
from attar.stages.label.stage import Label
from benchmarks.measuring import count_cpu_seconds

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "scale.svg"
SIZES = (10_000, 100_000, 1_000_000)
CLASSES, TOP = 100, 16
VARIABLE = "ATTAR_SCALE_SAMPLES"
"""Of the environment: how many training samples the task has."""
NAMES = {"task": "benchmarks.scale:ManyPoints", "network": "benchmarks.scale:layer"}


@dataclass(frozen=True)
class Growth:
    """What one number of samples takes, one view of them."""

    samples: int
    order_seconds: float
    """To shuffle the samples and find each one's place, once a process."""
    label_seconds: float
    """To check the task, which reads all samples, and to prepare and answer them."""
    distill_seconds: float
    """One epoch: to prepare the samples again, read the answers and take the steps."""
    memory: int
    """The largest resident memory, in bytes."""
    stored: int
    """Bytes of the training split's answers."""
    files: int


class LazyPoints(Split):
    """Points that are computed when they are read."""

    def __init__(self, samples: int, start: int) -> None:
        self.samples, self.start = samples, start

    def __len__(self) -> int:
        return self.samples

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        places = (indices + self.start)[:, None] * np.sqrt([2.0, 3.0])
        points = (places % 2 - 1).astype(np.float32)
        return Batch({"point": points}, {"label": (indices % CLASSES).astype(np.int64)})


class ManyPoints(Task):
    inputs = {"point": Tensor("float32", ("batch", 2))}
    outputs = {"logits": Output(("batch", CLASSES), target="label")}

    def data(self) -> list[str]:
        return ["computed points"]

    def split(self, name: SplitName) -> Split:
        samples = int(os.environ[VARIABLE]) if name == "train" else 1000
        return LazyPoints(samples, {"train": 0, "validation": 1 << 40}.get(name, 1 << 41))

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])


def layer() -> nn.Linear:
    return nn.Linear(2, CLASSES)


def measure_here(samples: int, folder: Path) -> Growth:
    """Label one view and distil one epoch in this process, whose memory is measured."""
    torch.manual_seed(0)
    outs = [folder / name / "out" for name in ("teacher", "answers", "student")]
    for out in outs:
        out.mkdir(parents=True)
    save_file(layer().state_dict(), outs[0] / "weights.safetensors")
    teacher = Weights("0" * 64, "1" * 64, outs[0], {**NAMES, "options": {}})
    label = Label(task=NAMES["task"], views=1, top=TOP)
    student = Distill(**NAMES, epochs=1, batch=1024, workers=0, lambda_kd=1.0, losses=(Kd(),))
    facts: dict[str, Any] = {}
    order = count_cpu_seconds(lambda: find_places(samples))
    labelled = count_cpu_seconds(lambda: facts.update(label.run(outs[1], teacher=teacher)))
    answers = Answers("2" * 64, "3" * 64, outs[1], facts)
    learned = count_cpu_seconds(lambda: student.run(outs[2], teacher=teacher, answers=answers))
    shards = list(outs[1].glob("train.*.safetensors"))
    return Growth(
        samples,
        order,
        labelled,
        learned,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        sum(shard.stat().st_size for shard in shards),
        len(shards),
    )


def measure_growth(samples: int) -> Growth:
    """Measure in a process of its own, as memory that was used once stays with its process."""
    environment = os.environ | {VARIABLE: str(samples), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.scale", str(samples), "--child", folder]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Growth(**json.loads(done.stdout.splitlines()[-1]))


def time_tokenizing() -> tuple[int, float, float]:
    """Return how many texts were tokenized, their mean number of tokens, and the microseconds that
    each took. The texts are the lines of this repository's pages, the tokenizer is trained on them.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pages = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines() if line]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<pad>"]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=8000, special_tokens=special))
    with tempfile.TemporaryDirectory() as folder:
        trained.save(str(Path(folder) / "tokenizer.json"))
        step = Tokenize(file=Path(folder) / "tokenizer.json", length=64)
        texts = np.array(lines[: len(lines) // CHUNK * CHUNK], object).reshape(-1, CHUNK)
        tokens = np.concatenate([(step(chunk) != 0).sum(1) for chunk in texts])
        seconds = count_cpu_seconds(lambda: [step(chunk) for chunk in texts])
    return texts.size, float(tokens.mean()), 1e6 * seconds / texts.size


def time_notes(count: int = 5000) -> float:
    """Return the microseconds that each note of a finished shard takes whenever a shard begins."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            (Path(folder) / Shard("train", 0, number).name).write_text("", "utf-8")
        progress = LabelProgress([Shard("train", 0, 0)], {"train": 1}, Path(folder))
        progress.rows = dict.fromkeys((file.name for file in Path(folder).iterdir()), 1)
        seconds = count_cpu_seconds(lambda: progress.start_shard(Shard("train", 0, 0)))
    return 1e6 * seconds / count


def format_row(growth: Growth) -> str:
    """Return a row of the table."""
    each = 1e6 / growth.samples
    return (
        f"| {growth.samples:,} | {each * growth.order_seconds:.2f} | "
        f"{each * growth.label_seconds:.1f} | {each * growth.distill_seconds:.1f} | "
        f"{growth.memory / 1e6:.0f} | {growth.stored / growth.samples:.2f} | {growth.files} |"
    )


def draw_figure(file: Path, rows: Sequence[Growth]) -> None:
    """Draw time and memory over the number of samples; the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "attar", "svg.fonttype": "none", "font.size": 9})
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    sizes = [row.samples for row in rows]
    for what, name in (("label", "labelling"), ("distill", "an epoch"), ("order", "the order")):
        seconds = [getattr(row, f"{what}_seconds") for row in rows]
        times.loglog(sizes, seconds, "o-", label=name)
    times.set(xlabel="samples", ylabel="seconds of the processor")
    times.legend()
    memory.semilogx(sizes, [row.memory / 1e6 for row in rows], "o-", label="memory, MB")
    memory.semilogx(sizes, [row.stored / 1e6 for row in rows], "o-", label="answers on disk, MB")
    memory.set(xlabel="samples", ylim=(0, None))
    memory.legend()
    for plot in (times, memory):
        plot.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--no-figure", action="store_true", help="leave docs/figures as it is")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asdict(measure_here(options.sizes[0], options.child))))
        return
    print(
        f"{datetime.now(UTC):%d %B %Y}, {machine.describe_machine()['cpu']}, "
        f"{platform.machine()}, torch {torch.__version__}, one thread; {CLASSES} classes, "
        f"top {TOP}\n\n"
        "| samples | order, µs a sample | labelling, µs | an epoch, µs | memory, MB | bytes a "
        "sample | files |\n|---|---|---|---|---|---|---|"
    )
    rows = []
    for samples in options.sizes:
        rows.append(measure_growth(samples))
        print(format_row(rows[-1]), flush=True)
    texts, tokens, each = time_tokenizing()
    print(
        f"\ntokenizing {texts:,} texts of {tokens:.1f} tokens: {each:.1f} µs each; a note of a "
        f"finished shard: {time_notes():.2f} µs whenever a shard begins"
    )
    if not options.no_figure:
        draw_figure(FIGURE, rows)


if __name__ == "__main__":
    main()
