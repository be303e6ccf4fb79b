"""What a store at a URL costs: `attar ls` of a thousand artifacts, and a run in which nothing
changed, against SeaweedFS on this machine.

python -m benchmarks.shared_store              # 1,000 artifacts
python -m benchmarks.shared_store --count 200
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest
from click.testing import CliRunner

from attar.cli.main import main as run_command
from attar.pipeline.shared.publication import Publication
from attar.pipeline.shared.records import record_path
from attar.pipeline.shared.remote_files import run_parallel
from attar.pipeline.shared.store import SharedStore
from benchmarks.planning import CommandTimes, time_attar
from tests.support.processes.seaweed import SeaweedServer, set_variables
from tests.support.projects import tiny

URL = "s3://bucket/team"
TIMES = 5


@contextmanager
def start_server(folder: Path) -> Iterator[None]:
    server = SeaweedServer(folder)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_variables(patch, server)
        try:
            server.start()
            yield
        finally:
            server.stop()


def time_command(home: Path, cache: str, *arguments: str) -> CommandTimes:
    return time_attar(home, *arguments, "--store", URL, "--cache", str(home / cache))


def copy_records(home: Path, count: int) -> int:
    """Publish the records of a real run under other keys until there are ``count``. Return the
    bytes of one, on average."""
    store = SharedStore(home / "copies", URL)
    found = [made for made in store.published.read_all().values() if made is not None]
    texts = [
        rename_publication(found[number % len(found)], number)
        for number in range(count - len(found))
    ]
    run_parallel(lambda made: store.remote.write(record_path(made.key), made.encode()), texts)
    return sum(len(made.encode()) for made in texts) // len(texts)


def rename_publication(made: Publication, number: int) -> Publication:
    key = hashlib.sha256(f"{number}".encode()).hexdigest()
    return made.model_copy(update={"record": {**made.record, "key": key}})


@contextmanager
def count_requests() -> Iterator[Counter[str]]:
    """Count what this process asks a server meanwhile."""
    counted: Counter[str] = Counter()

    def count_calls(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def ask_counted(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return ask(*arguments, **options)

        return ask_counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("get", "head", "put", "list", "delete"):
            patch.setattr(obstore, name, count_calls(name, getattr(obstore, name)))
        yield counted


def format_requests(home: Path, what: str, cache: str, *arguments: str) -> str:
    """Run a command in this process; return its requests as a row."""
    with tiny.project_folder(home), count_requests() as counted:
        given = ("--store", URL, "--cache", str(home / cache))
        done = CliRunner().invoke(run_command, [*arguments, *given])
    assert done.exit_code == 0, done.output
    asked = " | ".join(str(counted[name]) for name in ("get", "head", "put", "list", "delete"))
    return f"| {what} | {asked} |"


def count_commands(home: Path) -> Iterator[str]:
    recipe = "recipe.toml"
    yield format_requests(home, "`attar run`, 13 slots made", "made", "run", recipe)
    yield format_requests(home, "`attar run`, again", "made", "run", recipe)
    yield format_requests(home, "`attar plan`, another machine", "joined", "plan", recipe)
    yield format_requests(home, "`attar run`, another machine", "joined", "run", recipe)
    yield format_requests(home, "`attar run`, again", "joined", "run", recipe)
    yield format_requests(home, "`attar ls` of 13 artifacts", "joined", "ls")
    yield format_requests(home, "`attar gc`", "joined", "gc")


def format_row(what: str, taken: Sequence[CommandTimes]) -> str:
    wall, cpu = min(each.wall for each in taken), min(each.cpu for each in taken)
    return f"| {what} | {len(taken)} | {wall:.2f} | {cpu:.2f} |"


def measure_listings(home: Path, count: int) -> Iterator[str]:
    size = copy_records(home, count)
    first = f"`attar ls`, the first machine (records of {size / 1000:.1f} kB)"
    yield format_row(first, [time_command(home, "first", "ls")])
    others = [time_command(home, f"other-{number}", "ls") for number in range(TIMES)]
    yield format_row("`attar ls`, another machine", others)
    again = [time_command(home, "other-0", "ls") for _ in range(TIMES)]
    yield format_row("`attar ls`, again", again)


def measure_runs(home: Path) -> Iterator[str]:
    joined = [time_command(home, f"two-{number}", "run", "recipe.toml") for number in range(TIMES)]
    yield format_row("`attar run`, another machine, which makes nothing", joined)
    again = [time_command(home, "two-0", "run", "recipe.toml") for _ in range(TIMES)]
    yield format_row("`attar run`, again", again)
    places = ("--store", str(home / "made"))
    alone = [time_attar(home, "run", "recipe.toml", *places) for _ in range(TIMES)]
    yield format_row("`attar run`, without a server: `--store DIR`", alone)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="artifacts that are listed")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder) / "server"):
        home = Path(folder) / "project"
        tiny.write(home)
        print("| command | GET | HEAD | PUT | LIST | DELETE |\n|---|---|---|---|---|---|")
        for row in count_commands(home):
            print(row, flush=True)
        print(f"\n| {options.count} artifacts | runs | wall, s | CPU, s |\n|---|---|---|---|")
        for measured in (measure_runs(home), measure_listings(home, options.count)):
            for row in measured:
                print(row, flush=True)


if __name__ == "__main__":
    main()
