"""A fault that is missed proves something only if it is one: each changes what the graph answers to some input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from attar.engines.runtimes.torch import build_network
from tests.system.sabotage import graph_faults
from tests.system.sabotage.graphs import Numbers, answers, seen_images
from tests.system.sabotage.lab import Lab

UNCHANGED = {"slow", "renamed"}
"""What these change is not the numbers."""
FAULTS = sorted(
    name
    for name, found in vars(graph_faults).items()
    if getattr(found, "__module__", "") == graph_faults.__name__
    and found.__annotations__ == {"model": "onnx.ModelProto", "return": "None"}
)


@pytest.fixture(scope="module")
def model(lab: Lab) -> onnx.ModelProto:
    return onnx.load(Path(str(lab.made("cpu.model").path)) / "model.onnx")


def probes() -> list[Numbers]:
    """The most images that are promised, one alone, and one with a bright first pixel."""
    images = seen_images()
    marked = images[:1].copy()
    marked[0, 0, 0, 0] = images.max()
    brightest = images[images.sum(axis=(1, 2, 3)).argmax()][None]
    return [images[:64], images[:1], marked, brightest]


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in UNCHANGED | {"batch_baked_in"}])
def test_a_fault_of_a_graph_changes_an_answer(model: onnx.ModelProto, fault: str) -> None:
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    getattr(graph_faults, fault)(spoilt)
    pairs = [(answers(model, images), answers(spoilt, images)) for images in probes()]
    assert any(one.shape != two.shape or not np.allclose(one, two, rtol=0, atol=1e-3) for one, two in pairs)


def test_a_blank_image_is_not_a_number_to_a_network_that_stretches_it() -> None:
    import torch

    blank = torch.full((1, 1, 8, 8), -0.811)
    assert not build_network("nets.py:stretched", {}).eval()(blank).isfinite().any()
