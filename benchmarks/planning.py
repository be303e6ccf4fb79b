"""How long `attar plan` takes where a task's data are many files and nothing changed, and how long
they take to be hashed first.

python -m benchmarks.planning                 # 1,000, 10,000 and 50,000 files of 8 kB
python -m benchmarks.planning 1000 --size 64  # so many files of so many kB
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from attar.pipeline.keys import data

FORMS = {
    "one folder": 'sorted(Path("pictures").glob("*.png"))',
    "100 folders": 'sorted(Path("pictures").glob("*/*.png"))',
    "the folder itself": '[Path("pictures")]',
}
"""What ``data()`` returns."""
TASK = """
from pathlib import Path
import numpy as np
import attar

class Many(attar.Task):
    inputs = {{"x": attar.Tensor("float32", ("batch", 2))}}
    outputs = {{"logits": attar.Output(("batch", 2), target="y")}}
    classes = ("a", "b")

    def data(self):
        return {listed}

    def split(self, name):
        points = np.random.default_rng(len(name)).normal(size=(256, 2)).astype("float32")
        return attar.InMemory({{"x": points}}, {{"y": (points[:, 0] > 0).astype("int64")}})

    def score(self, outputs, targets):
        return (outputs["logits"].argmax(1) == targets["y"])[:, None].astype(float)
"""
NETS = "from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n"
RECIPE = """task = "task.py:Many"
[teacher]
network = "nets.py:net"
epochs = 1
[student]
network = "nets.py:net"
epochs = 1
"""
TIMES = 5


def write_project(home: Path, form: str, count: int, size: int) -> list[Path]:
    """Write a project with so many files, and return them."""
    (home / "nets.py").write_text(NETS, encoding="utf-8")
    (home / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (home / "task.py").write_text(TASK.format(listed=FORMS[form]), encoding="utf-8")
    rest = os.urandom(size - 8)
    made = []
    for number in range(count):
        folder = home / "pictures" / (f"{number % 100:02}" if form == "100 folders" else "")
        folder.mkdir(parents=True, exist_ok=True)
        made.append(folder / f"{number:07}.png")
        made[-1].write_bytes(number.to_bytes(8, "little") + rest)
    return made


class CommandTimes(NamedTuple):
    wall: float
    cpu: float
    """Seconds of the processor, user and system, which other programs beside it lengthen less."""


def time_attar(home: Path, *arguments: str) -> CommandTimes:
    """Return the seconds of a command, which must succeed."""
    command = [sys.executable, "-m", "attar", *arguments]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=home, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return CommandTimes(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure_planning(form: str, count: int, size: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        paths = write_project(home, form, count, size)
        began = time.perf_counter()
        data.inspect_data(paths)
        hashed = time.perf_counter() - began
        time_attar(home, "distill", "recipe.toml")
        planned = [time_attar(home, "plan", "recipe.toml") for _ in range(TIMES)]
        note = sum(path.stat().st_size for path in (home / ".attar" / "data").iterdir())
    rate = count * size / hashed / 1e6
    wall, cpu = min(each.wall for each in planned), min(each.cpu for each in planned)
    return (
        f"| {form} | {count:,} | {hashed:.2f} | {rate:.0f} | {wall:.2f} | {cpu:.2f} | "
        f"{note / 1e6:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", nargs="*", type=int, default=[1_000, 10_000, 50_000])
    parser.add_argument("--size", type=int, default=8, help="kB of a file")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{options.size} kB a file\n"
    )
    print(
        "| data() returns | files | hashed first, s | MB/s | attar plan, s | its CPU, s | note, MB "
        "|"
    )
    print("|---|---|---|---|---|---|---|")
    for form in FORMS:
        for count in options.counts:
            print(measure_planning(form, count, options.size * 1000), flush=True)


if __name__ == "__main__":
    main()
