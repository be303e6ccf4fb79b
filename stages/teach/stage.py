"""Teach: train the teacher, or adopt one that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, computed_field, model_validator

from attar.models.task import load_task
from attar.pipeline.core import names
from attar.pipeline.core.stage import CodeName, DataFile, DataFiles, DataFolder, Facts, Stage
from attar.stages.artifacts import Model
from attar.stages.learning.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

SOURCES = ("weights", "members", "huggingface", "onnx", "function")
ADOPTING = ("task", "network", "options", "fine_tune", "adopter", "member_weights")
"""The settings that decide an adopted teacher, besides its source."""
CLASSIFIER = "attar.models.networks.huggingface:classifier"
AVERAGE = "attar.models.networks.averaged:average"
ADOPT_GRAPH = "attar.stages.teach.onnx_teacher:adopt_graph"
ADOPT_FUNCTION = "attar.stages.teach.text_teacher:adopt_function"


class Teach(TrainingSettings, Stage[Model]):
    """Trains ``network`` on the labels, or adopts a trained one; see docs/teachers.md."""

    distributed: ClassVar[bool] = True

    network: CodeName = ""
    """A factory, as MODULE:NAME. A Hugging Face folder has a default, an ONNX file goes without."""
    weights: DataFile | None = None
    """A safetensors file of the network's ``state_dict``."""
    members: DataFolder | None = None
    """A folder of such files, of one network trained several times: the teacher is their average,
    of probabilities where outputs have classes."""
    member_weights: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Weights of the members in the order of their names; left out: all weigh the same."""
    huggingface: DataFolder | None = None
    """A folder as ``save_pretrained`` writes it, with safetensors. Its code is not run."""
    onnx: DataFiles | None = None
    """An ONNX graph whose inputs and outputs have the task's names, dtypes and axes."""
    function: CodeName | None = None
    """A function that takes a list of texts and returns their translations, as MODULE:NAME; for an
    output of tokens."""
    fine_tune: bool = False
    """Whether to train ``weights`` or the folder's weights further."""

    @model_validator(mode="before")
    @classmethod
    def _default_network(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("huggingface") is not None:
            return {"network": CLASSIFIER, **given}
        return given

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        named = [name for name in SOURCES if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are two teachers; name one")
        if not named and not self.network:
            raise ValueError(
                "network is missing; write network = ..., huggingface = FOLDER, onnx = FILE or "
                "function = FILE:NAME in [teacher]"
            )
        if self.is_opaque and (self.network or self.options or self.fine_tune):
            what = "a function" if self.onnx is None else "an ONNX file"
            raise ValueError(f"{what} is used unchanged: leave network, options and fine_tune out")
        if self.members is None and self.member_weights:
            raise ValueError("member_weights need members; write members = FOLDER in [teacher]")
        if self.members is not None and self.fine_tune:
            raise ValueError("members are averaged as they are: leave fine_tune out")
        if (self.weights or self.members) is not None and not self.network:
            raise ValueError(
                "weights need the network that they belong to; write network = ..., and its options"
            )
        if self.fine_tune and not named:
            raise ValueError(
                "fine_tune needs weights to train further; write weights = FILE or "
                "huggingface = FOLDER"
            )
        return self

    @property
    def is_adopted(self) -> bool:
        return not self.fine_tune and any(getattr(self, name) is not None for name in SOURCES)

    @property
    def is_opaque(self) -> bool:
        """Whether it is used as it is, without a network of attar's."""
        return self.onnx is not None or self.function is not None

    def deciding(self) -> Set[str]:
        if self.is_adopted:
            return {*ADOPTING, *SOURCES}
        return super().deciding()

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def adopter(self) -> CodeName:
        """The function that adopts an ONNX file or a function, or averages members; its code counts
        in the key of such a teacher."""
        if self.members is not None:
            return AVERAGE
        if self.function is not None:
            return ADOPT_FUNCTION
        return "" if self.onnx is None else ADOPT_GRAPH

    def run(self, out: Path) -> Facts:
        # By name, so that their code decides only the keys of such teachers.
        if self.onnx is not None:
            facts: Facts = names.load_object(ADOPT_GRAPH)(self.task, self.onnx, out, self.device)
            return facts
        if self.function is not None:
            adopted: Facts = names.load_object(ADOPT_FUNCTION)(self.task, self.function)
            return adopted
        from attar.stages.learning.loop import FreshViews, adopt_network, train_network
        from attar.stages.learning.objective import LabelObjective

        if self.members is not None:
            return self.adopt_average(self.members, out)
        settings = self.add_configuration()
        start = settings.find_start()
        if start is not None and self.is_adopted:
            return adopt_network(settings, start(), out)
        objective, views = LabelObjective(self.label_smoothing), FreshViews(self.seed)
        return train_network(settings, out, "teacher", objective, views, module=start)

    def adopt_average(self, folder: Path, out: Path) -> Facts:
        """Adopt the average of the members. The fact ``member`` names their network's code."""
        from attar.stages.learning.loop import adopt_network
        from attar.stages.teach import members

        files, task = members.list_members(folder), load_task(self.task)
        given = (self.network, self.options)
        average = members.describe_average(task, *given, len(files), self.member_weights)
        module = members.load_average(AVERAGE, average, files, *given)
        settings = self.model_copy(update={"network": AVERAGE, "options": average})
        return {**adopt_network(settings, module, out), "member": self.network}

    def add_configuration(self) -> Self:
        """Return the settings with a folder's configuration among the options.

        So the network can be rebuilt without the folder.
        """
        if self.huggingface is None:
            return self
        from attar.stages.teach.pretrained import read_configuration

        options = {"config": read_configuration(self.huggingface), **self.options}
        return self.model_copy(update={"options": options})

    def find_start(self) -> Callable[[], nn.Module] | None:
        """Return a factory of the network with its first weights; None if they are random."""
        from attar.engines.runtimes.torch import build_network, load_network
        from attar.stages.teach.pretrained import fill_network

        file, folder = self.weights, self.huggingface
        if file is not None:
            return lambda: load_network(file, self.network, self.options)
        if folder is not None:
            return lambda: fill_network(
                build_network(self.network, self.options),
                folder,
                load_task(self.task),
                trained=self.fine_tune,
            )
        return None
