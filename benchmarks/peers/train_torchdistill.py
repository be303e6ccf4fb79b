"""torchdistill's distillation of the same student from the same teacher on the same batches.

``python train_torchdistill.py ORDER OUT`` in an environment with torchdistill, which finds attar on
its path for the networks and the data alone. ORDER is the JSON of ``benchmarks.distillation_peer``.
The teacher answers every batch of every epoch; KD is torchdistill's own ``KDLoss``, optimizer and
schedule are torch's, by its names.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, Sampler, SequentialSampler

from attar.models.networks.residual import residual
from attar.models.preprocess import apply
from attar.models.task import SplitName, Task, load_task

DETECTION = (
    *("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"),
    *("deform_conv2d", "_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward"),
    *("_ps_roi_pool_backward", "_deform_conv2d_backward"),
)
"""torchvision's operators for finding objects, which no training here calls."""
KEPT: list[torch.library.Library] = []
"""Declarations, which end with the object that made them."""


class AugmentedSamples(Dataset[Any]):
    """The task's samples, fetched a batch at a time, augmented where they are to be learned."""

    def __init__(self, task: Task, split: SplitName, seed: int | None) -> None:
        self.task, self.rows = task, task.split(split)
        self.generator = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int, dict[str, Any]]]:
        batch = self.rows.take(np.array(indices))
        inputs = batch.inputs
        if self.generator is not None:
            inputs = self.task.augment(inputs, self.generator)
        images = torch.from_numpy(apply(self.task.preprocess, inputs)["image"])
        return [
            (image, int(label), {})
            for image, label in zip(images, batch.targets["label"], strict=True)
        ]


def create_box(teacher: nn.Module, student: nn.Module, data: Any, settings: dict[str, Any]) -> Any:
    """Return what torchdistill trains by.

    It imports torchvision, whose wheel on the package index is made for CUDA and does not load
    beside a CPU build of torch unless what it fails to bring is declared.
    """
    if torch.version.cuda is None and "+cpu" not in version("torchvision"):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # untyped in torch
        for name in DETECTION:
            library.define(f"{name}(Tensor boxes) -> Tensor")  # type: ignore[no-untyped-call]  # untyped in torch
        KEPT.append(library)
    from torchdistill.core.distillation import get_distillation_box

    return get_distillation_box(
        teacher, student, data, settings, torch.device("cpu"), None, False, 1
    )


def configure_training(order: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return torchdistill's configuration of the training."""
    kd = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": order["temperature"],
        "alpha": 1 - order["lambda_kd"],
    }
    rate = {"max_lr": order["learning_rate"], "total_steps": steps, "cycle_momentum": False}
    return {
        "num_epochs": order["epochs"],
        "train_data_loader": configure_loader("train", RandomSampler, order["batch"]),
        "val_data_loader": configure_loader("validation", SequentialSampler, order["batch"]),
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": order["learning_rate"], "weight_decay": order["weight_decay"]},
        },
        "scheduler": {"key": "OneCycleLR", "kwargs": rate, "scheduling_step": 1},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}
            },
        },
    }


def configure_loader(name: str, sampler: type[Sampler[int]], batch: int) -> dict[str, Any]:
    drop_last = sampler is RandomSampler
    return {
        "dataset_id": name,
        "requires_supp": False,  # the samples bring what it would add
        "sampler": {"class_or_func": sampler, "kwargs": {}},
        "kwargs": {"batch_size": batch, "num_workers": 0, "drop_last": drop_last},
    }


def train_epochs(box: Any, student: nn.Module) -> Iterator[tuple[float, float]]:
    """Train; yield the seconds of each epoch and its accuracy on validation, which they include."""
    for epoch in range(box.num_epochs):
        started = time.process_time()
        box.pre_epoch_process(epoch=epoch)
        for images, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            box.post_forward_process(loss=box.forward_process(images, labels, extra))
        box.post_epoch_process()
        accuracy = measure_accuracy(student, box.val_data_loader)
        yield time.process_time() - started, accuracy


@torch.inference_mode()
def measure_accuracy(student: nn.Module, loader: Any) -> float:
    student.eval()
    right = [(student(batch[0]).argmax(1) == batch[1]).float() for batch in loader]
    return float(torch.cat(right).mean())


@torch.inference_mode()
def answer_test(student: nn.Module, task: Task) -> np.ndarray[Any, Any]:
    """Return the logits of the test split, (samples, classes)."""
    samples = AugmentedSamples(task, "test", None)
    rows = range(0, len(samples), 500)
    parts = [samples.__getitems__(list(range(at, min(at + 500, len(samples))))) for at in rows]
    student.eval()
    logits = [student(torch.stack([image for image, *_ in part])) for part in parts]
    return torch.cat(logits).numpy()


def main() -> None:
    order, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    torch.manual_seed(order["seed"])
    torch.set_num_threads(1)
    task = load_task(order["task"])
    teacher, student = residual(**order["teacher"]), residual(**order["student"])
    teacher.load_state_dict(load_file(order["weights"]))
    teacher.eval()
    data = {
        "train": AugmentedSamples(task, "train", order["seed"]),
        "validation": AugmentedSamples(task, "validation", None),
    }
    steps = order["epochs"] * (len(data["train"]) // order["batch"])
    box = create_box(teacher, student, data, configure_training(order, steps))
    epochs = list(train_epochs(box, student))
    np.save(out / "logits.npy", answer_test(student, task))
    (out / "epochs.json").write_text(json.dumps(epochs))


if __name__ == "__main__":
    main()
