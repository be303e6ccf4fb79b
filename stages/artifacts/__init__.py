"""The nouns that pass between stages. Every model among them is opened in the same way, so all are measured alike."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from attar.bundle.steps import locate_steps
from attar.engines.graphs.placement import SYMMETRIC
from attar.models.preprocess import describe_steps
from attar.models.preprocess.known import STEPS, Steps
from attar.models.rows import Rows, join_rows, map_shard
from attar.models.sample_order import Integers, digest_order, find_places
from attar.models.task import Array, Predictor, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Artifact, Device, Facts

if TYPE_CHECKING:
    from torch import nn

    from attar.engines.runtimes.runtime import BuildSpec


class Model(Artifact, ABC):
    """Something that answers: ``with model.open() as predict: predict(inputs)``, named arrays to named arrays."""

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
    def open(self, threads: int | None = None) -> AbstractContextManager[Predictor]:
        """``threads``: intra-op threads; None means every core that this process may use."""

    def reads(self) -> Task:
        """The task that prepares inputs as this model needs them; a teacher's may be another than its student's."""
        return load_task(self.facts["task"])

    @property
    def size(self) -> int:
        """Bytes of the files that answering needs."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.suffix in {".safetensors", ".onnx", ".data"})


class Weights(Model):
    """``weights.safetensors``, and in the facts the ``network`` and ``options`` that rebuild its module.

    Facts: ``task``, ``network``, ``options``, ``parameters`` (count), ``score`` (on validation), ``history`` (a list of
    ``{"epoch", "loss", "score"}``), ``best_epoch``, ``device``; of a student also ``correlation``, ``kdl``, ``oacc`` (its
    teacher's score on validation), what its distiller noted and, where it started warm, ``started_from`` (see
    ``stages.distill.warm_start``). A control that is switched off has ``{"off": true}``.
    """

    marker: ClassVar[str] = "network"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    code: ClassVar[tuple[str, ...]] = ("network", "task")

    @property
    def off(self) -> bool:
        return bool(self.facts.get("off", False))

    def load(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on the CPU."""
        from attar.engines.runtimes.torch import load_network

        return load_network(self.root / "weights.safetensors", self.facts["network"], self.facts["options"])

    def open(self, threads: int | None = None, device: Device = "cpu") -> AbstractContextManager[Predictor]:
        from attar.engines.runtimes import torch

        return torch.open_network(self.load(), self.facts["task"], threads, device)


class OnnxModel(Model):
    """``NAME.onnx`` for every name in the fact ``graphs``; ``precision`` says what is baked in.

    An int8 graph for GPUs, of symmetric ``placement``, is computed as it is written: the integer kernels of a CPU may saturate.

    An opaque teacher's facts have a ``score`` too, and an empty ``history``.
    """

    marker: ClassVar[str] = "graphs"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def file(self, graph: str = "model") -> Path:
        return self.root / f"{graph}.onnx"

    def open(self, threads: int | None = None) -> AbstractContextManager[Predictor]:
        from attar.engines.runtimes import onnxruntime

        files = {name: self.file(name) for name in self.facts["graphs"]}
        return onnxruntime.open_session(files, threads, integers=self.facts.get("placement") != SYMMETRIC.name)


class Answers(Artifact):
    """The teacher's outputs in shards, ``SPLIT.VIEW.NUMBER.safetensors``; VIEW is ``clean`` for what is not augmented.

    Facts: ``task`` (the teacher's), ``views`` (count), ``seed`` (of the views), ``samples`` (a split's count), ``outputs``
    (names), ``orders`` (a learned split's ``digest_order``), ``device``.
    """

    code: ClassVar[tuple[str, ...]] = ("task",)

    def rows(self, split: str, view: int | None = None) -> dict[str, Rows]:
        """The outputs of one split in the order of its samples, mapped; of probabilities their logarithms.

        Raises StageError when they were not asked for, and when they are stored in another order of the samples.
        """
        which = "clean" if view is None else str(view)
        shards = [map_shard(path) for path in sorted(self.root.glob(f"{split}.{which}.*.safetensors"))]
        if not shards:
            raise StageError(f"{self.root} holds no answers to {split}, view {which}; label again")
        places = None if view is None else self.find_places(split, sum(len(next(iter(shard.values()))) for shard in shards))
        return {name: Rows([shard[name] for shard in shards], places) for name in self.facts["outputs"]}

    def find_places(self, split: str, samples: int) -> Integers:
        """Return where the answer to each sample of a learned split is stored.

        Raises StageError for answers of an attar that stored them in another order, such as pinned ones: they would be
        paired with the wrong samples.
        """
        if self.facts.get("orders", {}).get(split) != digest_order(samples):
            raise StageError(
                f"the answers of {self.key[:12] or self.root} are stored in another order of the samples than this attar "
                "reads them in; remove `keep` from [answers], if it is there, and label again"
            )
        return find_places(samples)

    def of(self, split: str) -> dict[str, Array]:
        """Those of a clean split, whole: float32 ``[samples, ...]``."""
        return {name: rows[:] for name, rows in self.rows(split).items()}

    def learned(self, view: int) -> dict[str, Rows]:
        """Those to all that a student learns from in this view: train and then, where there is one, transfer."""
        splits = [self.rows(split, view) for split in ("train", "transfer") if split in self.facts["samples"]]
        return {name: join_rows([split[name] for split in splits]) for name in self.facts["outputs"]}


class Ranges(Artifact):
    """``ranges.json``: for every tensor of a graph its smallest and largest value, ``{"name": [low, high]}``; and
    ``histograms.safetensors``, how often it takes which values (see ``engines.calibration.histogram``).

    Facts: ``samples`` and ``tensors``, how many were seen.
    """

    def of(self, method: str = "minmax", percent: float = 99.99) -> dict[str, tuple[float, float]]:
        """What to make room for in every tensor, by a range method: ``minmax``, ``percentile`` (at least ``percent`` of what was
        seen), ``entropy`` or ``mse``. Raises StageError for an unknown one."""
        from attar.engines.calibration import ranges

        if method == "minmax":
            return {
                name: (low, high)
                for name, (low, high) in json.loads((self.root / "ranges.json").read_text(encoding="utf-8")).items()
            }
        return ranges.compute_ranges(self.root / "histograms.safetensors", method, percent)


class Engine(OnnxModel):
    """A model built for one runtime on one machine, one file a graph.

    Facts: ``task``, ``runtime``, ``opened_by`` (its code), ``runtime_version``, ``provider`` (of a runtime that has several),
    ``threads``, ``precision``, ``graphs``, ``files`` (their names, by graph), ``parameters``, ``machine`` (what the engine
    depends on), ``nodes`` (a count by operator, where the file tells), ``difference`` (to the model), ``asked`` (``profile``,
    ``options``) and ``why``: None, or why it was not run here. ``files`` is empty, and what building finds out is unknown, where
    it was not even built.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ("opened_by",)

    @property
    def why(self) -> str | None:
        """What is missing here to run it; None where it was run."""
        found: str | None = self.facts["why"]
        return found

    @property
    def asked(self) -> BuildSpec:
        """What it was built to be."""
        from attar.engines.runtimes.runtime import BuildSpec

        facts = self.facts
        profile = {axis: tuple(sizes) for axis, sizes in facts["asked"]["profile"].items()}
        return BuildSpec(facts["precision"], facts["threads"], facts["provider"], profile, facts["asked"]["options"])

    @property
    def size(self) -> int:
        return sum(self.file(graph).stat().st_size for graph in self.facts["files"])

    def file(self, graph: str = "model") -> Path:
        """Raises StageError where it was not built."""
        if not self.facts["files"]:
            raise StageError(f"there is no engine: it was not built here: {self.why}")
        return self.root / str(self.facts["files"][graph])

    def open(self, threads: int | None = None) -> AbstractContextManager[Predictor]:
        """Raises StageError where it cannot run."""
        from attar.engines.runtimes.runtime import load_runtime

        runtime, asked = load_runtime(self.facts["runtime"]), self.asked
        files = {graph: self.file(graph) for graph in self.facts["graphs"]}
        if why := runtime.explain_unrunnable(asked):
            raise StageError(f"the engine cannot run here: {why}")
        return runtime.open(files, replace(asked, threads=threads or asked.threads))


class Production(OnnxModel):
    """The graphs of a bundle that is in production. Facts: ``name``, ``task``, ``graphs``, ``precision``, ``preprocess``,
    ``parameters``.

    One that is not compared with has ``{"off": true}``.
    """

    @property
    def off(self) -> bool:
        return bool(self.facts.get("off", False))

    @property
    def preprocess(self) -> Steps:
        """Its own steps, which may be others than the task's are now."""
        return locate_steps(STEPS.validate_python(self.facts["preprocess"]), self.root)

    def reads(self) -> Task:
        task = type(super().reads())
        made: Task = type(task.__name__, (task,), {"preprocess": self.preprocess})()
        return made

    def same(self, model: OnnxModel, task: Task) -> bool:
        """Whether it holds this very graph and prepares inputs for it as the task does."""
        files = sorted(path.name for path in self.root.glob("*.onnx*"))
        alike = files == sorted(path.name for path in model.root.glob("*.onnx*"))
        prepared = describe_steps(self.preprocess) == describe_steps(task.preprocess)
        return alike and prepared and all(cmp(self.root / name, model.root / name, shallow=False) for name in files)


class Trials(Artifact):
    """``seconds.safetensors`` (``CANDIDATE.BATCH``, in rounds) and what each candidate answers, in the facts (see ``trial``)."""


class Choice(Artifact):
    """Which candidate goes on, and why the others do not, in the facts (see ``choose``)."""


class Evidence(Artifact):
    """``hops.safetensors`` (per-sample outputs and statistics of every hop) and the ledger in the facts (see ``measure``)."""


class Verdict(Artifact):
    """The gates and what became of them, in the facts (see ``judge``)."""


class Bundle(Artifact):
    """What is shipped: see ``attar.bundle.opening``."""
