"""``attar new --from``: a project for data that it finds, which trains at once, and what it says of data that are not whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pyarrow import parquet

from attar.cli.main import main
from tests.support.bundles.pictures import encoded, inked
from tests.support.projects.copies import ROOT

CLASSES = ("right", "up")
FRUITS, TOOLS = ["apple", "pear", "plum", "cherry", "fig", "lemon"], ["hammer", "saw", "drill", "pliers", "wrench", "file"]


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["new", "--from", *map(str, arguments)])


def draw(way: str, seed: int, mode: str = "RGB") -> Image.Image:
    """Ink on one side, and noise."""
    ink = np.asarray(inked(way, 16)).astype(int)
    noise = np.random.default_rng(seed).integers(-60, 60, ink.shape)
    return Image.fromarray(np.clip(ink + noise, 0, 255).astype(np.uint8)).convert(mode)


def make_pictures(folder: Path, samples: int = 12) -> Path:
    """Three times as many of the first class."""
    for number, way in enumerate(CLASSES):
        (folder / way).mkdir(parents=True)
        for n in range(samples * (3 if number == 0 else 1)):
            (folder / way / f"{n:03}.png").write_bytes(encoded(draw(way, n + 1000 * number)))
    return folder


def make_table(folder: Path, samples: int = 40) -> Path:
    """Patients have several rows each, of one or two classes; an id and a text are no features."""
    generator, rows = np.random.default_rng(0), ["id,size,weight,a,b,c,patient,town,label"]
    for n in range(samples):
        size, weight = generator.normal(n % 2, 0.3), generator.normal(100 - n % 2, 0.3)
        more = ",".join(f"{each:.4f}" for each in generator.normal(0, 1, 3))
        rows.append(f"{n},{size:.4f},{weight:.4f},{more},p{n // 4},here,{('no', 'yes')[n % 2]}")
    folder.mkdir()
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "table.csv"


def make_texts(folder: Path, samples: int = 40) -> Path:
    generator = np.random.default_rng(0)
    kinds = [n % 2 for n in range(samples)]
    texts = [f"item {n}: the {' '.join(generator.choice((FRUITS, TOOLS)[kind], 4))}" for n, kind in enumerate(kinds)]
    folder.mkdir()
    parquet.write_table(pa.table({"note": ["x"] * samples, "body": texts, "class": kinds}), folder / "texts.parquet")
    return folder / "texts.parquet"


def make_text_files(folder: Path, samples: int = 40) -> Path:
    for n in range(samples):
        place = folder / ("fruit", "tool")[n % 2] / f"{n}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"item {n}: the {(FRUITS, TOOLS)[n % 2][n % 6]}", encoding="utf-8")
    return folder


def read_splits(project: Path) -> dict[str, str]:
    with (project / "splits.csv").open(encoding="utf-8", newline="") as lines:
        return {row["sample"]: row["split"] for row in csv.DictReader(lines)}


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-P", "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_partly_broken_folder_is_told_and_used(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data")
    jpeg = encoded(draw("up", 1).resize((99, 99)), "JPEG")
    (data / "up/cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (data / "up/palette.png").write_bytes(encoded(draw("up", 2, "P")))
    (data / "right/notes.txt").write_text("no picture", encoding="utf-8")
    (data / "neither").mkdir()
    shutil.copy(data / "right/001.png", data / "right/copy.png")
    done = new("images", data, tmp_path / "project")
    assert done.exit_code == 0, done.output
    for part in (
        "50 samples of 2 classes: right 37, up 13",
        "truncated): up/cut.jpg",
        "right/notes.txt",
        "Copies of other samples: 1;",
        "neither",
    ):
        assert part in done.stdout, done.stdout
    splits = read_splits(tmp_path / "project")
    assert splits["right/001.png"] == splits["right/copy.png"]
    assert "up/palette.png" in splits
    assert not {"up/cut.jpg", "right/notes.txt"} & set(splits)
    assert {(name.split("/")[0], split) for name, split in splits.items()} == {
        (way, split) for way in CLASSES for split in ("train", "validation", "test")
    }


def test_groups_and_copies_stay_together(tmp_path: Path) -> None:
    table = make_table(tmp_path / "data")
    with table.open("a", encoding="utf-8") as lines:
        lines.write(table.read_text(encoding="utf-8").splitlines()[1].replace("p0", "another") + "\n")
        lines.write("99,,1,1,1,1,p1,here,yes\n")
    done = new("table", table, tmp_path / "project")
    assert done.exit_code == 0, done.output
    for part in ("same 'patient'", "size, weight", "id, town", "size is empty or no finite float32: row 42"):
        assert part in done.stdout, done.stdout
    splits = read_splits(tmp_path / "project")
    assert set(splits) == {str(n) for n in range(41)}
    assert all(splits[str(n)] == splits[str(n - n % 4)] for n in range(40))
    assert splits["40"] == splits["0"]
    assert set(splits.values()) == {"train", "validation", "test"}


def test_the_columns_may_be_named(tmp_path: Path) -> None:
    done = new("table", make_table(tmp_path / "data"), "--label", "town", "--group", "id", tmp_path / "project")
    assert (done.exit_code, "the one class 'here'" in done.stderr) == (2, True)
    done = new("table", make_table(tmp_path / "more"), tmp_path / "project", "--label", "labl")
    assert (done.exit_code, "did you mean 'label'" in done.stderr) == (2, True)


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """With a suffix in capitals, and row numbers in a column without a name."""
    data = make_table(tmp_path / "data").rename(tmp_path / "data/DATA.CSV")
    data.write_text(data.read_text(encoding="utf-8").replace("id,", ",", 1), encoding="utf-8")
    done = new("table", data.parent, tmp_path / "project")
    assert done.exit_code == 0, done.output
    assert "one without a name, town" in done.stdout


def test_a_column_is_not_classes_and_groups(tmp_path: Path) -> None:
    """Each class would be in one split."""
    done = new("table", make_table(tmp_path / "data"), tmp_path / "project", "--label", "town", "--group", "town")
    assert (done.exit_code, "the column 'town' is that of the classes" in done.stderr) == (2, True)


@pytest.mark.parametrize("are_files", [True, False])
def test_texts_that_differ_in_case_alone_stay_together(are_files: bool, tmp_path: Path) -> None:
    """The vocabulary has lower case, so the networks read them alike."""
    texts = [f"item {n} of the {(FRUITS, TOOLS)[n % 2][n % 6]}" for n in range(30)]
    both = [*texts, *(text.upper() for text in texts)]
    data, names = tmp_path / "data", [str(n) for n in range(60)]
    data.mkdir()
    if are_files:
        names = [f"{('fruit', 'tool')[n % 2]}/{n}.txt" for n in range(60)]
        for name, text in zip(names, both, strict=True):
            (data / name).parent.mkdir(exist_ok=True)
            (data / name).write_text(text, encoding="utf-8")
    else:
        parquet.write_table(pa.table({"text": both, "label": [n % 2 for n in range(60)]}), data / "texts.parquet")
    done = new("texts", data, tmp_path / "project")
    assert done.exit_code == 0, done.output
    assert "Copies of other samples: 30;" in done.stdout
    splits = read_splits(tmp_path / "project")
    assert all(splits[names[n]] == splits[names[n + 30]] for n in range(30))


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def one_class(folder: Path) -> Path:
    shutil.rmtree(make_pictures(folder) / "up")
    return folder


def no_pictures(folder: Path) -> Path:
    make_text_files(folder, 3)
    return folder


def written(content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / "data.csv").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make


@pytest.mark.parametrize(
    ("kind", "make", "named"),
    [
        ("images", empty, "no usable file"),
        ("images", one_class, "the one class 'right'"),
        ("images", no_pictures, "no image of"),
        ("images", lambda folder: folder, "there is no"),
        ("texts", empty, "no table"),
        ("table", empty, "no table"),
        ("table", written(""), "mpty"),
        ("table", written("a,b\n1,2\n"), "--label"),
        ("table", written("a,label\n1,0.5\n2,0.25\n"), "classes are texts or whole numbers"),
        ("table", written("a,label\n1,x\n2,y\n"), "hardly classes"),
        ("table", written("a,label,a\n1,x,2\n"), "2 columns of the name 'a'"),
        ("table", written("name,label\n\xe9,x\n".encode("latin1")), "line 2"),
        ("table", written("name,label\nx,x\ny,y\n"), "--from texts"),
        ("texts", written("a,label\n1,x\n2,y\n"), "--from table"),
        ("table", written("a,label\n" + "1,x\n2,y\n" * 9), "too few different samples"),
    ],
)
def test_data_that_are_no_use_leave_no_project(kind: str, make: Callable[[Path], Path], named: str, tmp_path: Path) -> None:
    done = new(kind, make(tmp_path / "data"), tmp_path / "project")
    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr
    assert not (tmp_path / "project").exists()


def test_columns_are_of_tables(tmp_path: Path) -> None:
    assert new("images", make_pictures(tmp_path / "data", 3), tmp_path / "project", "--label", "x").exit_code == 2
    assert CliRunner().invoke(main, ["new", str(tmp_path / "project"), "--label", "x"]).exit_code == 2


Make = Callable[[Path, int], Path]
KINDS: list[tuple[str, Make, int]] = [
    ("images", make_pictures, 100),
    ("table", make_table, 600),
    ("texts", make_texts, 400),
    ("texts", make_text_files, 400),
]


@pytest.mark.parametrize(("kind", "make", "samples"), KINDS)
def test_the_project_can_be_planned(kind: str, make: Make, samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    project = tmp_path / "project"
    done = new(kind, make(tmp_path / "data", 40), project)
    assert done.exit_code == 0, done.output
    planned = CliRunner().invoke(main, ["plan", str(project / "recipe.toml"), "--store", str(tmp_path / "store"), "--json"])
    assert planned.exit_code == 0, planned.output
    actions = {slot["slot"]: slot["action"] for slot in json.loads(planned.stdout)["slots"]}
    assert (actions["teacher"], actions["cpu.bundle"]) == ("run", "wait")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "make", "samples"), KINDS)
def test_the_project_trains_at_once(kind: str, make: Make, samples: int, tmp_path: Path) -> None:
    assert new(kind, make(tmp_path / "data", samples), tmp_path / "project").exit_code == 0
    tested = program(tmp_path / "project", "pytest", "-q", "-p", "no:cacheprovider", "test_project.py")
    assert tested.returncode == 0, tested.stdout
    done = program(tmp_path / "project", "attar", "run", "recipe.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"]["cpu"]["verdict"] == "passed"
