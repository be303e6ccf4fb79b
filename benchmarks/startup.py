"""How long attar takes to do nothing: importing it, its help, a recipe whose every slot is made,
and a server until it is ready.

python -m benchmarks.startup          # the recipe `digits`, made first
python -m benchmarks.startup RECIPE   # another one with a target `cpu`
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TIMES = 11
BUDGETS = {
    "import attar": (0.3, None),
    "attar --help": (0.3, None),
    "attar run, all made": (0.5, None),
    "attar serve": (1.0, 160),
    "attar serve --no-grpc": (1.0, 160),
}
"""Seconds of wall time, of a server until it is ready; megabytes that were resident at most."""


class CommandCost(NamedTuple):
    wall: float
    cpu: float
    """Seconds of the processor, user and system, which other programs beside it lengthen less."""
    megabytes: float


def list_commands(recipe: str, store: Path) -> dict[str, list[str]]:
    attar = [sys.executable, "-m", "attar"]
    serve = [
        *attar,
        "serve",
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        str(store / "latest" / Path(recipe).stem / "cpu"),
    ]
    return {
        "import attar": [sys.executable, "-c", "import attar"],
        "attar --help": [*attar, "--help"],
        "attar run, all made": [*attar, "run", recipe, "--store", str(store)],
        "attar serve": serve,
        "attar serve --no-grpc": [*serve, "--no-grpc"],
    }


def measure_command(command: list[str], environment: dict[str, str]) -> CommandCost:
    """Measure one process until it ends, or until it says that it is ready; it must succeed."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        ready = process.stdout.readline().startswith(b"ready on ")
        wall = time.perf_counter() - start
        if ready:
            process.kill()
        said = process.stdout.read() + process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = wall if ready else time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    assert ready or process.returncode == 0, said.decode()
    return CommandCost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def measure_commands(recipe: str, folder: Path) -> dict[str, CommandCost]:
    """Return medians of interleaved processes, after one each that compiles their modules, as an
    installation does."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    asked = list_commands(recipe, folder / "store")
    subprocess.run(asked["attar run, all made"], check=True, capture_output=True, env=environment)
    rounds = [
        {name: measure_command(command, environment) for name, command in asked.items()}
        for _ in range(TIMES + 1)
    ]
    return {
        name: CommandCost(
            *map(statistics.median, zip(*[each[name] for each in rounds[1:]], strict=True))
        )
        for name in asked
    }


def find_excess(name: str, found: CommandCost) -> list[str]:
    """Return what is over its budget, by how much; the processor's time, which says less of what
    its user waits for, has none."""
    seconds, megabytes = BUDGETS[name]
    late = [f"{found.wall:.3f} s of {seconds} s"] if found.wall > seconds else []
    large = (
        [f"{found.megabytes:.0f} MB of {megabytes} MB"]
        if megabytes and found.megabytes > megabytes
        else []
    )
    return late + large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="digits")
    recipe = parser.parse_args().recipe
    print(
        f"{platform.machine()}, Python {platform.python_version()}, {recipe}, medians of {TIMES} "
        "interleaved processes"
    )
    over = {}
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for name, found in measure_commands(recipe, Path(folder)).items():
            over[name] = ", ".join(find_excess(name, found))
            told = f"over budget: {over[name]}" if over[name] else f"within {BUDGETS[name][0]} s"
            print(
                f"{name:<22} {found.wall:6.3f} s, processor {found.cpu:6.3f} s, "
                f"{found.megabytes:4.0f} MB, {told}"
            )
    print(f"load average {before:.2f} before and {os.getloadavg()[0]:.2f} after")
    late = [f"{name} ({what})" for name, what in over.items() if what]
    assert not late, f"over budget: {', '.join(late)}"


if __name__ == "__main__":
    main()
