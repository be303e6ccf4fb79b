"""Export: trained weights become an ONNX graph with the same answers at every promised size."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from attar.engines.graphs.assembly import assemble_graph
from attar.engines.graphs.inspection import count_parameters
from attar.engines.graphs.preparation import clear_metadata
from attar.engines.graphs.softmax import append_softmax, list_probabilities
from attar.engines.parity import (
    choose_traced_sizes,
    measure_largest_difference,
    measure_predictor_difference,
)
from attar.models.generation import MODEL, START, STEP, Decoding, find_decoding
from attar.models.task import Task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Facts, Stage
from attar.stages.artifacts import Model, OnnxModel, TextProgram, Weights

if TYPE_CHECKING:
    import onnx
    import torch

Axes = tuple[int | str, ...]
PASSED_ON = ("graphs", "precision", "opset", "inputs", "outputs", "parameters")


class Export(Stage[OnnxModel]):
    """Exports a network. Outputs that the task declares as probabilities end in a softmax."""

    exporter: Literal["dynamo", "torchscript"] = "dynamo"
    """``dynamo`` captures the network with ``torch.export``; ``torchscript`` traces it, and is the
    way out where that fails."""
    opset: int = Field(20, ge=18, le=22)
    """The version of ONNX's operators."""
    tolerance: float = Field(1e-4, gt=0)
    """Largest ``|PyTorch - ONNX Runtime|``, times the largest answer where that is above 1."""

    def run(self, out: Path, *, weights: Model) -> Facts:
        """A teacher that is a graph already is taken as it is; one that only translates has none.

        Raises StageError when the network cannot be exported, an axis is not dynamic, or an answer
        drifts.
        """
        if isinstance(weights, TextProgram):
            return {"off": True}
        if not isinstance(weights, Weights):
            return copy_graphs(weights, out)
        import onnx

        task, file = weights.load_task(), out / "model.onnx"
        if decoding := find_decoding(task):
            return self.export_sequence(weights, task, decoding, out)
        report_progress("export", 0, 2, self.exporter)
        self.write_graph(task, weights.load(), file)
        model = onnx.load(file)
        name_axes(model, task, self.hint)
        append_softmax(model, list_probabilities(task))
        onnx.save(clear_metadata(model), file)
        self.check_graph(file)
        report_progress("export", 1, 2, "proving the answers")
        difference = self.prove_parity(task, weights, file)
        report_progress("export", 2, 2)
        return self.describe_graphs(weights, task, ["model"]) | {
            "difference": difference,
            "parameters": count_parameters(model),
        }

    def export_sequence(self, weights: Weights, task: Task, decoding: Decoding, out: Path) -> Facts:
        """Write `start`, `step` and, assembled of both, `model`."""
        import onnx

        from attar.stages.export import sequences, simplification

        files = {name: out / f"{name}.onnx" for name in (START, STEP, MODEL)}
        forms = sequences.describe_graphs(network := weights.load(), task)
        for done, (name, form) in enumerate(forms.items()):
            report_progress("export", done, 4, f"{self.exporter} {name}")
            with self.explain_failure(), silence_exporters():
                sequences.export_form(form, files[name], self.opset, self.exporter)
            model = simplification.simplify_graph(files[name], name, network, task, decoding)
            sequences.restore_inputs(model, form)
            sequences.name_axes(model, form)
            onnx.save(clear_metadata(model), files[name])
            self.check_graph(files[name])
        report_progress("export", 2, 4, "assembling the loop")
        assemble_graph(files[START], files[STEP], files[MODEL], task, decoding)
        report_progress("export", 3, 4, "proving the answers")
        difference = self.prove_sequence_parity(task, weights, files)
        report_progress("export", 4, 4)
        return self.describe_graphs(weights, task, list(files)) | {
            "difference": difference,
            "parameters": sum(count_parameters(onnx.load(files[name])) for name in forms),
        }

    def prove_sequence_parity(
        self, task: Task, weights: Weights, files: Mapping[str, Path]
    ) -> float:
        from attar.engines.runtimes import onnxruntime

        with weights.open(threads=1) as expected, onnxruntime.open_session(files, threads=1) as got:
            hint = f"the exporter may have taken a size for a constant; {self.hint}"
            return measure_predictor_difference(task, expected, got, self.tolerance, hint)

    def describe_graphs(self, weights: Model, task: Task, graphs: Sequence[str]) -> dict[str, Any]:
        """Return the facts that need no measuring."""
        return {
            "task": weights.facts["task"],
            "graphs": list(graphs),
            "precision": "fp32",
            "opset": self.opset,
            "exporter": self.exporter,
            "inputs": {name: list(tensor.axes) for name, tensor in task.inputs.items()},
            "outputs": {name: list(output.axes) for name, output in task.outputs.items()},
        }

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """Raises StageError for whatever an exporter raises."""
        import torch

        try:
            with torch.no_grad():
                yield
        except Exception as error:
            reason = format_root_cause(error)
            raise StageError(
                f"the {self.exporter} exporter cannot export the network ({reason}); {self.hint}"
            ) from error

    @property
    def hint(self) -> str:
        other = "torchscript" if self.exporter == "dynamo" else "dynamo"
        opset = self.opset - 1 if self.opset > 18 else self.opset + 1
        return f"try exporter = {other!r} or opset = {opset}"

    def write_graph(self, task: Task, network: torch.nn.Module, file: Path) -> None:
        import torch

        example = task.example(np.random.default_rng(0), **choose_traced_sizes(task))
        inputs = tuple(torch.from_numpy(example[name]) for name in task.inputs)
        with self.explain_failure(), silence_exporters():
            EXPORTERS[self.exporter](network, inputs, task, file, self.opset)

    def check_graph(self, file: Path) -> None:
        import onnx

        try:
            onnx.checker.check_model(file, full_check=True)
        except Exception as error:
            raise StageError(
                f"the exported graph is not valid ONNX ({error}); {self.hint}"
            ) from error
        got = next(
            entry.version
            for entry in onnx.load(file).opset_import
            if entry.domain in ("", "ai.onnx")
        )
        if got != self.opset:
            raise StageError(
                f"the {self.exporter} exporter wrote opset {got}, not {self.opset}; ask for opset "
                f"= {got}"
            )

    def prove_parity(self, task: Task, weights: Weights, file: Path) -> float:
        """Compare the answers, on one thread on both sides, so that sums have one order."""
        from attar.engines.runtimes import onnxruntime

        with (
            weights.open(threads=1) as expected,
            onnxruntime.open_session({"model": file}, threads=1) as got,
        ):
            hint = (
                "if it fails at some sizes only, the exporter took a size for a constant; "
                f"{self.hint}"
            )
            return measure_largest_difference(task, expected, got, self.tolerance, hint)


def copy_graphs(model: Model, out: Path) -> Facts:
    """Copy the graphs, and return those facts that an export has too."""
    for path in sorted(model.root.glob("*.onnx*")):
        shutil.copyfile(path, out / path.name)
    return {name: model.facts[name] for name in ("task", *PASSED_ON)} | {
        "exporter": "none",
        "difference": 0.0,
    }


Exporter = Callable[["torch.nn.Module", "tuple[torch.Tensor, ...]", Task, Path, int], None]


def export_by_dynamo(
    network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], task: Task, file: Path, opset: int
) -> None:
    import onnxscript  # noqa: F401  # torch calls it, so its version counts in the key
    import torch

    torch.onnx.export(
        network, inputs, file, dynamo=True, opset_version=opset, external_data=False, verbose=False,
        input_names=list(task.inputs), output_names=list(task.outputs),
        dynamic_shapes=tuple(name_dynamic_axes(tensor.axes) for tensor in task.inputs.values()),
    )  # fmt: skip


def export_by_torchscript(
    network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], task: Task, file: Path, opset: int
) -> None:
    import torch

    torch.onnx.export(
        network, inputs, file, dynamo=False, opset_version=opset, verbose=False,
        input_names=list(task.inputs), output_names=list(task.outputs),
        dynamic_axes={name: name_dynamic_axes(axes) for name, axes in list_axes(task).items()},
    )  # fmt: skip


EXPORTERS: Mapping[str, Exporter] = {
    "dynamo": export_by_dynamo,
    "torchscript": export_by_torchscript,
}


def list_axes(task: Task) -> dict[str, Axes]:
    """Return the axes of every input and output by name."""
    inputs = {name: tensor.axes for name, tensor in task.inputs.items()}
    return inputs | {name: output.axes for name, output in task.outputs.items()}


def name_dynamic_axes(axes: Axes) -> dict[int, str]:
    return {number: axis for number, axis in enumerate(axes) if isinstance(axis, str)}


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Silence the exporters' advice: parity proves the graph afterwards."""
    from torch.jit import TracerWarning  # type: ignore[attr-defined]  # public, but not in torch.jit's __all__

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # dynamo: copyreg copies torch's own deprecated LeafSpec
            warnings.filterwarnings(
                "ignore", "# The axis name", UserWarning
            )  # dynamo: two inputs share an axis, as they should
            warnings.simplefilter("ignore", DeprecationWarning)  # torchscript: calls itself legacy
            warnings.filterwarnings(
                "ignore", "Exporting aten::index", UserWarning
            )  # torchscript: wrong for negative indices, which parity finds out
            warnings.simplefilter(
                "ignore", TracerWarning
            )  # torchscript: "might not generalize", which parity finds out
            yield
    finally:
        logging.disable(before)


def format_root_cause(error: BaseException) -> str:
    """Return the innermost exception: the outer ones are about the exporter itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def name_axes(model: onnx.ModelProto, task: Task, hint: str) -> None:
    """Give the graph's inputs and outputs the task's axes.

    Raises StageError if an exporter froze one, or has another rank.
    """
    promised = list_axes(task)
    for value in [*model.graph.input, *model.graph.output]:
        axes, dims = promised[value.name], value.type.tensor_type.shape.dim
        if len(axes) != len(dims):
            raise StageError(
                f"{value.name!r} has {len(dims)} axes in the graph, but the task says {list(axes)}"
            )
        for axis, dim in zip(axes, dims, strict=True):
            if isinstance(axis, str) and dim.HasField("dim_value"):
                raise StageError(
                    f"axis {axis!r} of {value.name!r} must be dynamic, but the exporter froze it "
                    f"at {dim.dim_value}; does the network read a size as a number? {hint}"
                )
            if isinstance(axis, str):
                dim.dim_param = axis
