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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from attar.pipeline.core.publication import Publication
from attar.pipeline.core.published_records import record_path
from attar.pipeline.core.remote_files import run_parallel
from attar.pipeline.core.shared_store import SharedStore
from benchmarks.planning import Taken, attar
from tests.support.processes.seaweed import Server, set_variables
from tests.support.projects import tiny

URL = "s3://bucket/team"
TIMES = 5


@contextmanager
def start_server(folder: Path) -> Iterator[None]:
    server = Server(folder)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_variables(patch, server)
        try:
            server.start()
            yield
        finally:
            server.stop()


def call(home: Path, cache: str, *arguments: str) -> Taken:
    return attar(home, *arguments, "--store", URL, "--cache", str(home / cache))


def copy_records(home: Path, count: int) -> int:
    """Publish the records of a real run under other keys until there are ``count``. Returns the
    bytes of one, on average."""
    store = SharedStore(home / "copies", URL)
    found = [made for made in store.published.read_all().values() if made is not None]
    texts = [rename(found[number % len(found)], number) for number in range(count - len(found))]
    run_parallel(lambda made: store.remote.write(record_path(made.key), made.encode()), texts)
    return sum(len(made.encode()) for made in texts) // len(texts)


def rename(made: Publication, number: int) -> Publication:
    key = hashlib.sha256(f"{number}".encode()).hexdigest()
    return made.model_copy(update={"record": {**made.record, "key": key}})


def format_row(what: str, taken: Sequence[Taken]) -> str:
    wall, cpu = min(each.wall for each in taken), min(each.cpu for each in taken)
    return f"| {what} | {len(taken)} | {wall:.2f} | {cpu:.2f} |"


def measure_listings(home: Path, count: int) -> Iterator[str]:
    copy_records(home, count)
    yield format_row("`attar ls`, the first machine", [call(home, "first", "ls")])
    others = [call(home, f"other-{number}", "ls") for number in range(TIMES)]
    yield format_row("`attar ls`, another machine", others)
    again = [call(home, "other-0", "ls") for _ in range(TIMES)]
    yield format_row("`attar ls`, again", again)


def measure_runs(home: Path) -> Iterator[str]:
    yield format_row("`attar run`, everything made", [call(home, "one", "run", "recipe.toml")])
    joined = [call(home, f"two-{number}", "run", "recipe.toml") for number in range(TIMES)]
    yield format_row("`attar run`, another machine, which makes nothing", joined)
    again = [call(home, "two-0", "run", "recipe.toml") for _ in range(TIMES)]
    yield format_row("`attar run`, again, where nothing changed", again)
    alone = [attar(home, "run", "recipe.toml", "--store", str(home / "two-0")) for _ in range(TIMES)]
    yield format_row("the same with the cache alone, `--store DIR`", alone)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="artifacts that are listed")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder) / "server"):
        home = Path(folder) / "project"
        home.mkdir()
        tiny.write(home)
        print(f"| {options.count} artifacts | runs | wall, s | CPU, s |\n|---|---|---|---|")
        for measure in (measure_runs(home), measure_listings(home, options.count)):
            for row in measure:
                print(row, flush=True)


if __name__ == "__main__":
    main()
