"""The pictures of the benchmark of loading: some of each drawing, made once, and none of what is no picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._drawings import SIDE, VARIANTS, Drawings, make_pictures


def test_pictures_are_made_once_and_read_as_the_task_declares(tmp_path: Path) -> None:
    for number, kind in enumerate(["birds", "tools", "tools"]):
        file = tmp_path / "drawings" / kind / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (40 + number, 30), (200, 0, 0, 128)).save(file)
    (tmp_path / "drawings" / "tools" / "broken.png").write_bytes(b"no picture")
    names = make_pictures(tmp_path, 100)
    assert len(names) == 3 * VARIANTS
    made = {name: (tmp_path / "pictures" / name).stat().st_mtime_ns for name in names}
    assert make_pictures(tmp_path, 4) == names[:4]
    assert {name: (tmp_path / "pictures" / name).stat().st_mtime_ns for name in names} == made
    task = Drawings(tmp_path, names)
    batch = task.split("train").take(np.arange(len(names)))
    pixels = task.preprocess["image"][0](batch.inputs["image"])
    assert pixels.shape == (len(names), SIDE, SIDE, 3)
    assert np.asarray(batch.targets["label"]).tolist() == [0 if name.startswith("birds") else 1 for name in names]
    assert task.augment({"image": pixels}, np.random.default_rng(0))["image"].shape == pixels.shape
