"""Teach: the teacher, trained here or adopted from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, computed_field, model_validator

from attar.models.task import load_task
from attar.pipeline.core import names
from attar.pipeline.core.stage import CodeName, DataFile, DataFiles, DataFolder, Facts, Stage
from attar.stages.artifacts import Model
from attar.stages.learning.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

SOURCES = ("weights", "huggingface", "onnx")
HEAD = "attar.models.networks.huggingface:classifier"
OPAQUE = "attar.stages.teach.opaque:adopt"


class Teach(TrainingSettings, Stage[Model]):
    """Trains ``network`` on the labels, or adopts what was trained elsewhere and only measures it. See docs/teachers.md."""

    distributed: ClassVar[bool] = True

    network: CodeName = ""
    """As everywhere; of a Hugging Face folder the classifier where nothing is said; not for an ONNX file."""
    weights: DataFile | None = None
    """A safetensors file of the network's ``state_dict``."""
    huggingface: DataFolder | None = None
    """A folder as ``save_pretrained`` writes it, weights in safetensors; nothing is fetched, and no code of it is run."""
    onnx: DataFiles | None = None
    """An ONNX graph whose inputs and outputs have the task's names, dtypes and axes; of what is inside nothing is known."""
    fine_tune: bool = False
    """Train ``weights`` or the folder's weights further, instead of taking them as they are."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target that all classes get alike (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""

    @model_validator(mode="before")
    @classmethod
    def _folder_s_network(cls, given: Any) -> Any:
        return {"network": HEAD, **given} if isinstance(given, dict) and given.get("huggingface") is not None else given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in SOURCES if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are two teachers; name one")
        if not named and not self.network:
            raise ValueError("network is missing; write network = ..., huggingface = FOLDER or onnx = FILE in [teacher]")
        if self.onnx is not None and (self.network or self.options or self.fine_tune):
            raise ValueError("an ONNX file is taken as it is: leave network, options and fine_tune out")
        if self.weights is not None and not self.network:
            raise ValueError("weights need the network that they belong to; write network = ..., and its options")
        if self.fine_tune and not named:
            raise ValueError("fine_tune trains something further; name it in weights = FILE or huggingface = FOLDER")
        return self

    @property
    def adopts(self) -> bool:
        return not self.fine_tune and any(getattr(self, name) is not None for name in SOURCES)

    def deciding(self) -> Set[str]:
        return {"task", "network", "options", "fine_tune", "adopter", *SOURCES} if self.adopts else super().deciding()

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # pydantic's decorator reads a property; mypy wants none above one
    @property
    def adopter(self) -> CodeName:
        """The function that adopts an ONNX file; its code counts in the key of such a teacher."""
        return "" if self.onnx is None else OPAQUE

    def run(self, out: Path) -> Facts:
        if self.onnx is not None:
            adopted: Facts = names.load(OPAQUE)(self.task, self.onnx, out)  # by name, so that its code counts here alone
            return adopted
        from attar.stages.learning.loop import Fresh, adopt, fit
        from attar.stages.learning.objective import Labels

        settings = self.complete()
        start = settings.start()
        if start is not None and self.adopts:
            return adopt(settings, start(), out)
        return fit(settings, out, "teacher", Labels(self.label_smoothing), Fresh(self.seed), module=start)

    def complete(self) -> Self:
        """With a folder's configuration among the options: what rebuilds the network must not need the folder."""
        if self.huggingface is None:
            return self
        from attar.stages.teach.pretrained import configuration

        return self.model_copy(update={"options": {"config": configuration(self.huggingface), **self.options}})

    def start(self) -> Callable[[], nn.Module] | None:
        """Makes the network with the weights to begin from; None where it begins from random ones."""
        from attar.engines.runtimes.torch import build_network, load_network
        from attar.stages.teach.pretrained import filled

        file, folder = self.weights, self.huggingface
        if file is not None:
            return lambda: load_network(file, self.network, self.options)
        if folder is not None:
            return lambda: filled(build_network(self.network, self.options), folder, load_task(self.task), trained=self.fine_tune)
        return None
