"""Other machines than a developer's: locales, time zones, masks, names of folders, ends of lines, homes, full stores."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attar.bundle.opening import check_bundle
from attar.pipeline.store.store import Store
from tests.support.projects import tiny
from tests.support.projects.store_parts import RECORD

ODD_NAME = "größe & 学生 (copy)"
ASCII_ALONE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Python then takes ASCII for the encoding of files, and of what it prints."""
NON_ASCII = "# für größere Netze: 学生\n"
SHORT = ("--set", "teacher.epochs=1")


def write_crlf(path: Path) -> None:
    """End every line of a text as Windows does."""
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


def write_non_ascii(folder: Path) -> None:
    """Write the project of the tests with comments beyond ASCII, as UTF-8."""
    tiny.write(folder)
    for name in ("task.py", "nets.py", "recipe.toml"):
        path = folder / name
        path.write_text(NON_ASCII + path.read_text(encoding="utf-8"), encoding="utf-8")


def teach(folder: Path) -> None:
    done = tiny.call(folder, "teach", "recipe.toml", *SHORT)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    return tmp_path / ODD_NAME


@pytest.fixture
def unwritable_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nobody can write, not even root."""
    home = Path("/proc/attar-has-no-home")
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(home))
    return home


@pytest.fixture
def private_files() -> Iterator[None]:
    """What is made is its owner's alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.slow
@pytest.mark.usefixtures("unwritable_home", "private_files")
def test_a_whole_run_where_everything_is_unusual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the folder's name: where Python takes names for ASCII, onnx finds no file beyond it."""
    folder = tmp_path / "my project (copy)"
    write_non_ascii(folder)
    for name in ("task.py", "nets.py", "recipe.toml"):
        write_crlf(folder / name)
    for variable, value in {**ASCII_ALONE, "TZ": "Pacific/Kiritimati"}.items():
        monkeypatch.setenv(variable, value)
    made = tiny.run(folder)
    assert set(tiny.statuses(made).values()) == {"made"}
    assert check_bundle(Path(made["targets"]["cpu"]["bundle"]))["verdict"] == "passed"
    listed = tiny.attar(folder, "ls", "--json")
    assert len(json.loads(listed.stdout)["artifacts"]) == len(tiny.SLOTS)
    for entry in Store(folder / "store").entries():
        assert entry.root.stat().st_mode & 0o077 == 0
        assert str(entry.record["made"]["date"]).endswith("+00:00")


def test_a_terminal_that_knows_ascii_alone_is_printed_on(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_non_ascii(odd_folder)
    for variable, value in ASCII_ALONE.items():
        monkeypatch.setenv(variable, value)
    for command in (["plan", "recipe.toml"], ["teach", "nowhere.toml"], ["show", "recipe.toml"]):
        done = tiny.attar(odd_folder, *command)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr


def test_names_with_spaces_and_beyond_ascii(odd_folder: Path) -> None:
    write_non_ascii(odd_folder)
    made = tiny.call_run(odd_folder)
    assert set(tiny.statuses(made).values()) == {"made"}
    bundle = Path(made["targets"]["cpu"]["bundle"])
    assert bundle.is_relative_to(odd_folder)
    assert check_bundle(bundle)["verdict"] == "passed"


def test_lines_that_end_as_on_windows(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    teach(tmp_path)
    write_crlf(tmp_path / "recipe.toml")
    done = tiny.call(tmp_path, "plan", "recipe.toml", *SHORT)
    assert done.returncode == 0, done.stderr
    assert next(line for line in done.stdout.splitlines() if "teacher" in line).startswith("reuse")


def test_a_thousand_artifacts_are_listed_and_collected(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in range(1000):
        key = f"{number:064x}"
        folder = store / "artifacts" / key
        folder.mkdir(parents=True)
        record = {**RECORD, "key": key, "digest": key, "files": {"facts.json": [2, 0, key]}}
        (folder / "facts.json").write_text("{}", encoding="utf-8")
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    done = tiny.call(tmp_path, "ls", "--json")
    assert len(json.loads(done.stdout)["artifacts"]) == 1000
    assert tiny.call(tmp_path, "show", f"{999:064x}").returncode == 0
    assert tiny.call(tmp_path, "gc").returncode == 0
    assert Store(store).entries() == []


def test_the_command_line_needs_no_terminal_and_no_home(tmp_path: Path) -> None:
    """As in a container that sets nothing: only the path."""
    tiny.write(tmp_path)
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        tiny.command(tmp_path, "plan", "recipe.toml"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
