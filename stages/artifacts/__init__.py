"""The artifacts that pass between stages. All models are opened, and so measured, in one way."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from attar.bundle.steps import locate_steps
from attar.engines.graphs.placement import SYMMETRIC
from attar.models.generation import MODEL, find_decoding
from attar.models.mixing import Mixing
from attar.models.preprocess import describe_steps
from attar.models.preprocess.known import STEPS, Steps
from attar.models.rows import Rows, join_rows, map_shards
from attar.models.sample_order import Integers, digest_order, find_places
from attar.models.task import Array, Predictor, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Artifact, Device, Facts, FloatPrecision

if TYPE_CHECKING:
    from torch import nn

    from attar.engines.runtimes.runtime import BuildSpec


Opened = AbstractContextManager[Predictor]
MODEL_SUFFIXES = (".safetensors", ".onnx", ".data")


class Model(Artifact, ABC):
    """A network that answers: ``with model.open() as predict: predict(inputs)``.

    Inputs and outputs are arrays by name.
    """

    marker: ClassVar[str] = ""
    """The fact that every model of this class has, and no model of another class."""

    @classmethod
    def create(cls, key: str, digest: str, root: Path, facts: Facts) -> Self:
        """Return the model. `Model` itself, the class of a teacher, chooses the class by the facts.

        No class is named here, so what reads weights does not depend on the code of graphs.
        """
        kinds = Model.__subclasses__() if cls is Model else [cls]
        kind: Any = next(kind for kind in kinds if kind is cls or kind.marker in facts)
        model: Self = kind(key, digest, root, facts)
        return model

    @abstractmethod
    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        """Open the model. ``threads``: intra-op threads, by default one for each usable core."""

    @abstractmethod
    def find_device(self, device: Device) -> str:
        """Return where ``open`` runs it: ``cpu`` or ``cuda``. Raises StageError if it cannot."""

    def load_task(self) -> Task:
        """Return the task that prepares this model's inputs. A teacher may have its own."""
        return self.adapt_task(load_task(self.facts["task"]))

    def adapt_task(self, task: Task) -> Task:
        """Return a task with the inputs that this model reads: of a network its own."""
        return task

    @property
    def is_disabled(self) -> bool:
        """Whether the recipe turned this model off, so that it has no files."""
        return bool(self.facts.get("off", False))

    @property
    def size(self) -> int:
        """Number of bytes of the files that answering needs."""
        files = [path for path in self.root.rglob("*") if path.suffix in MODEL_SUFFIXES]
        return sum(file.stat().st_size for file in files)


class Weights(Model):
    """``weights.safetensors``. The facts name the ``network`` and ``options`` of its module.

    Facts: ``task``, ``network``, ``options``, ``parameters`` (count), ``score`` (on validation),
    ``history`` (a list of ``{"epoch", "loss", "score"}``), ``best_epoch``, ``device``; of an
    average of networks ``member``, the network that each is; of a student also ``correlation``,
    ``kdl``, ``oacc`` (its teacher's score on validation), what its distiller noted, where it
    started warm ``started_from`` (see ``stages.distill.warm_start``), and of losses of features
    ``features``, the kinds that read stored ones and those that ran the teacher (``live``). A
    control that is switched off has ``{"off": true}``.
    """

    marker: ClassVar[str] = "network"
    code: ClassVar[tuple[str, ...]] = ("network", "task", "member")

    def load(self) -> nn.Module:
        """Return the network with its weights, in evaluation mode, on the CPU."""
        from attar.engines.runtimes.torch import load_network

        file = self.root / "weights.safetensors"
        return load_network(file, self.facts["network"], self.facts["options"])

    def open(
        self,
        threads: int | None = None,
        device: Device = "cpu",
        precision: FloatPrecision = "fp32",
        layers: Sequence[str] = (),
    ) -> Opened:
        """Open the network. It answers the features of ``layers``, too (``models.features``)."""
        from attar.engines.runtimes import torch, torch_features

        module, task, how = self.load(), self.facts["task"], (threads, device, precision)
        if layers:
            return torch_features.open_with_layers(module, task, layers, *how)
        return torch.open_network(module, task, *how)

    def find_device(self, device: Device) -> str:
        from attar.engines.runtimes import torch

        return torch.select_device(device).type


class OnnxModel(Model):
    """``NAME.onnx`` for every name in the fact ``graphs``; ``precision`` says what is baked in.

    An int8 graph for GPUs, of symmetric ``placement``, is computed as it is written: the integer
    kernels of a CPU may saturate.

    An opaque teacher's facts have a ``score`` too, and an empty ``history``. The reference of a
    teacher that only translates has ``{"off": true}``.
    """

    marker: ClassVar[str] = "graphs"

    @property
    def answering_graphs(self) -> list[str]:
        """The graphs that answering needs: of a network that generates the one that loops."""
        return [MODEL] if find_decoding(self.load_task()) else list(self.facts["graphs"])

    @property
    def size(self) -> int:
        names = tuple(f"{graph}.onnx" for graph in self.answering_graphs)
        files = [path for path in self.root.iterdir() if path.name.startswith(names)]
        return sum(file.stat().st_size for file in files)

    def file(self, graph: str = "model") -> Path:
        return self.root / f"{graph}.onnx"

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        from attar.engines.runtimes import onnxruntime, providers

        files = {name: self.file(name) for name in self.facts["graphs"]}
        has_integers = self.facts.get("placement") != SYMMETRIC.name
        provider = providers.DEVICE_PROVIDERS[self.find_device(device)]
        return onnxruntime.open_session(files, threads, provider, integers=has_integers)

    def find_device(self, device: Device) -> str:
        from attar.engines.runtimes import providers

        return providers.select_device(device)


class Answers(Artifact):
    """The teacher's outputs in shards, ``SPLIT.VIEW.NUMBER.safetensors``.

    VIEW is ``clean`` if the samples are not augmented. Facts: ``task`` (the teacher's), ``views``
    (count), ``seed`` (of the views), ``samples`` (a split's count), ``outputs`` (names), ``orders``
    (a learned split's ``digest_order``), ``device``, ``precision``; where samples of views are
    mixed ``mix`` (``kinds``, ``alpha``); where features are stored ``features`` (their width, by
    layer) and ``feature_bytes``, of all views together; of a teacher that only translates
    ``opaque``.
    """

    code: ClassVar[tuple[str, ...]] = ("task",)

    @property
    def mixing(self) -> Mixing | None:
        """How the samples of its views are mixed; None if they are not."""
        return Mixing.from_facts(self.facts.get("mix"))

    @property
    def features(self) -> Mapping[str, int]:
        """The width of the stored features, by the teacher's layer."""
        widths: Mapping[str, int] = self.facts.get("features", {})
        return widths

    @property
    def why_opaque(self) -> str | None:
        """Why they have tokens and no probabilities; None if they have."""
        reason: str | None = self.facts.get("opaque")
        return reason

    def open_rows(self, split: str, view: int | None = None) -> dict[str, Rows]:
        """Map the outputs of one split in the order of its samples; logarithms of probabilities.

        Raises StageError if there are none, if they are stored in another order, and if they are
        more files than this process may have open.
        """
        which = "clean" if view is None else str(view)
        shards = map_shards(self.root, f"{split}.{which}")
        if not shards:
            raise StageError(f"{self.root} holds no answers to {split}, view {which}; label again")
        samples = sum(len(next(iter(shard.values()))) for shard in shards)
        places = None if view is None else self.find_places(split, samples)
        return {name: Rows([shard[name] for shard in shards], places) for name in shards[0]}

    def find_places(self, split: str, samples: int) -> Integers:
        """Return where the answer to each sample of a learned split is stored.

        Raises StageError for answers of a version that stored them in another order, such as
        pinned ones: they would be paired with the wrong samples.
        """
        if self.facts.get("orders", {}).get(split) != digest_order(samples):
            raise StageError(
                f"the answers of {self.key[:12] or self.root} are stored in another order of the "
                "samples than this attar reads them in; remove `keep` from [answers], if it is "
                "there, and label again"
            )
        return find_places(samples)

    def read_split(self, split: str) -> dict[str, Array]:
        """Return all outputs of a clean split: float32 ``[samples, ...]``."""
        return {name: rows[:] for name, rows in self.open_rows(split).items()}

    def open_learned_rows(self, view: int) -> dict[str, Rows]:
        """Map the outputs that a student learns from in this view: train, and then transfer."""
        splits = [name for name in ("train", "transfer") if name in self.facts["samples"]]
        opened = [self.open_rows(split, view) for split in splits]
        return {name: join_rows([rows[name] for rows in opened]) for name in opened[0]}


class Ranges(Artifact):
    """The values of every tensor of a graph on the calibration's samples.

    ``ranges.json`` has the smallest and the largest value, ``{"name": [low, high]}``, and
    ``histograms.safetensors`` all values (see ``engines.calibration.histogram``). Facts:
    ``samples`` and ``tensors``, the counts of both.
    """

    def compute_ranges(
        self, method: str = "minmax", percent: float = 99.99
    ) -> dict[str, tuple[float, float]]:
        """Return the range to represent in every tensor, by a range method.

        ``minmax``, ``percentile`` (at least ``percent`` of the values), ``entropy`` or ``mse``.
        Raises StageError for another one.
        """
        from attar.engines.calibration import ranges

        if method == "minmax":
            text = (self.root / "ranges.json").read_text(encoding="utf-8")
            return {name: (low, high) for name, (low, high) in json.loads(text).items()}
        return ranges.compute_ranges(self.root / "histograms.safetensors", method, percent)


class Engine(OnnxModel):
    """A model built for one runtime on one machine, one file a graph.

    Facts: ``task``, ``runtime``, ``opened_by`` (its code), ``runtime_version``, ``provider`` (of a
    runtime that has several), ``threads``, ``precision``, ``graphs``, ``files`` (their names, by
    graph), ``parameters``, ``machine`` (what the engine depends on), ``nodes`` (a count by
    operator, if the file names them), ``difference`` (to the model), ``asked`` (``profile``,
    ``options``) and ``why``: None, or why it was not run here. If it was not built, ``files`` is
    empty and the facts that building determines are missing.
    """

    code: ClassVar[tuple[str, ...]] = ("opened_by",)

    @property
    def why_not_run(self) -> str | None:
        """What this machine lacks to run it; None if it was run."""
        reason: str | None = self.facts["why"]
        return reason

    @property
    def spec(self) -> BuildSpec:
        """The settings that it was built with."""
        from attar.engines.runtimes.runtime import BuildSpec

        names = ("precision", "threads", "provider")
        precision, threads, provider = (self.facts[name] for name in names)
        sizes, options = self.facts["asked"]["profile"], self.facts["asked"]["options"]
        profile = {axis: tuple(numbers) for axis, numbers in sizes.items()}
        return BuildSpec(precision, threads, provider, profile, options)

    @property
    def size(self) -> int:
        built = self.facts["files"].keys() & self.answering_graphs
        return sum(self.file(graph).stat().st_size for graph in built)

    def file(self, graph: str = "model") -> Path:
        """Return the file of a graph. Raises StageError if it was not built."""
        if not self.facts["files"]:
            raise StageError(f"there is no engine: it was not built here: {self.why_not_run}")
        return self.root / str(self.facts["files"][graph])

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        """Open the engine on the device that it is for. Raises StageError if it cannot run here."""
        from attar.engines.runtimes.runtime import load_runtime

        runtime, spec = load_runtime(self.facts["runtime"]), self.spec
        files = {graph: self.file(graph) for graph in self.facts["graphs"]}
        if reason := runtime.explain_unrunnable(spec):
            raise StageError(f"the engine cannot run here: {reason}")
        return runtime.open(files, replace(spec, threads=threads or spec.threads))

    def find_device(self, device: Device) -> str:
        """Return the device that it was built for."""
        from attar.engines.runtimes.runtime import load_runtime

        return load_runtime(self.facts["runtime"]).find_device(self.facts["provider"])


class Production(OnnxModel):
    """The graphs of the bundle that is in production.

    Facts: ``name``, ``task``, ``graphs``, ``precision``, ``preprocess``, ``parameters``; only
    ``{"off": true}`` if no bundle is compared with.
    """

    @property
    def preprocess(self) -> Steps:
        """The bundle's steps. The task's steps may have changed."""
        return locate_steps(STEPS.validate_python(self.facts["preprocess"]), self.root)

    def load_task(self) -> Task:
        """Return the task with the bundle's steps."""
        task = type(super().load_task())
        loaded: Task = type(task.__name__, (task,), {"preprocess": self.preprocess})()
        return loaded

    def is_same_model(self, model: OnnxModel, task: Task) -> bool:
        """Whether it has the same graphs as ``model``, and prepares inputs as the task does."""
        if describe_steps(self.preprocess) != describe_steps(task.preprocess):
            return False
        own, other = (sorted(m.root.glob("*.onnx*")) for m in (self, model))
        if [file.name for file in own] != [file.name for file in other]:
            return False
        return all(cmp(*pair, shallow=False) for pair in zip(own, other, strict=True))
