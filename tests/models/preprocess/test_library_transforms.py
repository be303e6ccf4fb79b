"""The lines of docs/preprocessing.md that call transforms of other libraries, run as they stand there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.models.task import Arrays

PAGE = Path(__file__).parents[3] / "docs" / "preprocessing.md"
LIBRARIES = ("torchvision", "albumentations")


def load_augment(library: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Arrays, np.random.Generator], Arrays]:
    """Return ``augment`` of the page's block that imports this library. Skips where it is not installed."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; pip install {library}")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if re.search(rf"^(import|from) {library}\b", block, flags=re.MULTILINE)]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102  # the very lines that the page shows
    augment: Callable[[Any, Arrays, np.random.Generator], Arrays] = names["augment"]
    return augment


@pytest.fixture(scope="module")
def _operators() -> Iterator[None]:
    """Declare the operators without which ``import torchvision`` fails where its compiled part is for another torch, such
    as one with CUDA. No transform calls them."""
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch has no types
    if importlib.util.find_spec("torchvision") is not None and not loads_torchvision():
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    library._destroy()


def loads_torchvision() -> bool:
    code = "import torchvision"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision", "ignore::DeprecationWarning:albumentations")
@pytest.mark.usefixtures("_operators")
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_lines_of_the_page_make_views_that_their_seed_decides(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = load_augment(library, monkeypatch)
    order = np.random.default_rng(0)
    images = np.empty(3, object)
    for row, (height, width) in enumerate([(300, 260), (224, 224), (90, 400)]):
        images[row] = order.integers(0, 256, (height, width, 3), np.uint8)
        images[row].setflags(write=False)  # as `DecodeImage` gives pictures of different sizes
    state = torch.random.get_rng_state()
    first, again, other = (np.asarray(augment(None, {"image": images}, np.random.default_rng(s))["image"]) for s in (1, 1, 2))
    assert first.shape == (3, 224, 224, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
