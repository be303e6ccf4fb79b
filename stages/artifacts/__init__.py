"""The artifacts that pass between stages, a file each."""

from attar.stages.artifacts.answers import Answers
from attar.stages.artifacts.engine import Engine
from attar.stages.artifacts.model import Model, Opened
from attar.stages.artifacts.onnx_model import OnnxModel
from attar.stages.artifacts.production import Production
from attar.stages.artifacts.ranges import Ranges
from attar.stages.artifacts.text_program import TextProgram
from attar.stages.artifacts.weights import Weights

__all__ = [
    "Answers",
    "Engine",
    "Model",
    "OnnxModel",
    "Opened",
    "Production",
    "Ranges",
    "TextProgram",
    "Weights",
]
