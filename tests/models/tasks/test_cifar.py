"""CIFAR-100: how it is found, fetched, verified, split and augmented, and its recipe cut down to seconds, on files made here."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from attar.models.checks import task as task_check
from attar.models.tasks import cifar
from attar.models.tasks.cifar import FILES, FOLDER, Cifar100
from attar.pipeline.core.errors import StageError
from attar.recipes.workspace import open_workspace
from attar.stages.slots import SLOTS
from tests.support.datasets.cifar import pack_records, write
from tests.support.datasets.promised import missing

CUT_DOWN = [
    "teacher.options={ depth = 8, width = 4 }",
    "teacher.epochs=1",
    "teacher.precision='fp32'",
    "student.precision='fp32'",
    "answers.views=2",
    "student.options={ depth = 8, width = 2 }",
    "student.epochs=2",
    "control.enabled=false",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / FOLDER, 5200, 100)


@pytest.fixture
def folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """5,200 and 100 images, in the folder's usual place inside the one that ATTAR_DATA names."""
    monkeypatch.setenv("ATTAR_DATA", str(written.parent))
    return written


def test_splits_do_not_overlap_and_are_always_the_same(folder: Path) -> None:
    task = Cifar100()
    assert task.data() == [folder / name for name in FILES]
    assert [len(task.split(name)) for name in task_check.SPLITS] == [199, 5000, 100]  # one is a test image too, and left out
    task_check.check_task(task)


def test_pixels_are_red_then_green_then_blue_row_by_row(elsewhere: Path) -> None:
    """As the data set's page says: 1,024 red values, row-major, then the green, then the blue."""
    write(elsewhere, 100, 100)
    images = np.zeros((1, 3, 32, 32), np.uint8)
    images[0, 1, 2, 3] = 9
    (elsewhere / cifar.TEST).write_bytes(pack_records(images, [42]))
    assert images.reshape(-1)[1024 + 2 * 32 + 3] == 9
    batch = Cifar100().split("test").take(np.arange(1))
    assert batch.inputs["image"][0, 1, 2, 3] == 9
    assert batch.targets["label"].tolist() == [42]


def test_missing_data_say_where_to_get_them_and_where_to_put_them(elsewhere: Path) -> None:
    with pytest.raises(StageError, match=r"`attar fetch RECIPE`, .*binary\.tar\.gz") as error:
        Cifar100().data()
    for said in (
        str(elsewhere),
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        cifar.ARCHIVE_MD5,
        "ATTAR_DATA",
        "cifar-100-python",
    ):
        assert said in str(error.value)


@pytest.mark.parametrize("size", [0, 3073, 3075])
def test_files_of_another_format_are_said(elsewhere: Path, size: int) -> None:
    write(elsewhere, 100, 100)
    (elsewhere / cifar.TEST).write_bytes(bytes(size))
    with pytest.raises(StageError, match=rf"test\.bin has {size} bytes"):
        Cifar100().split("test")


def test_other_classes_are_said(elsewhere: Path) -> None:
    write(elsewhere, 100, 100)
    (elsewhere / cifar.NAMES).write_bytes(b"apple\n\xff\n")
    with pytest.raises(StageError, match="hundred classes"):
        Cifar100().split("train")


@pytest.fixture
def archive(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``cifar-100-binary.tar.gz``, which is where and what the module expects it to be."""
    made = write(elsewhere / "source" / FOLDER, 100, 100)
    file = elsewhere / "source" / f"{FOLDER}.tar.gz"
    with tarfile.open(file, "w:gz") as packing:
        packing.add(made, FOLDER)
    monkeypatch.setattr(cifar, "ARCHIVE", file.as_uri())
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", md5(file))
    return file


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def test_fetch_unpacks_what_it_has_verified(archive: Path, elsewhere: Path) -> None:
    Cifar100().fetch()
    folder = elsewhere / "cache" / "attar" / FOLDER
    assert Cifar100().data() == [folder / name for name in FILES]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_another_archive_or_none_leaves_nothing(archive: Path, elsewhere: Path) -> None:
    archive.write_bytes(b"other")
    with pytest.raises(StageError, match=r"tar.gz has MD5"):
        Cifar100().fetch()
    archive.unlink()
    with pytest.raises(StageError, match="ATTAR_DATA"):
        Cifar100().fetch()
    assert list((elsewhere / "cache" / "attar" / FOLDER).iterdir()) == []


def test_the_real_files() -> None:
    if cifar.HOME.find_complete() is None:
        missing("cifar-100", "https://www.cs.toronto.edu/~kriz/cifar.html")
    task = Cifar100()
    assert [len(task.split(name)) for name in task_check.SPLITS[1:]] == [5_000, 10_000]
    assert 44_900 < len(task.split("train")) <= 45_000  # without those that are in the test file too
    labels = np.asarray(task.split("test").take(np.arange(10_000)).targets["label"], np.int64)
    assert np.bincount(labels).tolist() == [100] * 100


def test_views_keep_what_they_must_keep(folder: Path) -> None:
    task, images = Cifar100(), Cifar100().split("train").take(np.arange(50)).inputs["image"]
    one, two = (task.augment({"image": images}, np.random.default_rng(3))["image"] for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert (one.shape, one.dtype) == (images.shape, images.dtype)
    assert one.tobytes() != images.tobytes()


def test_the_recipe_is_planned_without_data(elsewhere: Path) -> None:
    plans = list(open_workspace("cifar100", SLOTS, elsewhere / "store").run.plan())
    assert "the task is new" in plans[0].reason
    assert {plan.action for plan in plans} == {"run", "wait"}


def test_without_data_the_first_slot_says_what_to_do(elsewhere: Path) -> None:
    records = list(open_workspace("cifar100", SLOTS, elsewhere / "store").run.walk())
    assert records[0].status == "failed"
    assert "CIFAR-100 is not here" in str(records[0].error)
    assert {record.status for record in records[1:]} == {"skipped"}


@pytest.mark.slow
def test_the_recipe_cut_down_runs_as_far_as_the_students_graph(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "HELD_OUT", 100)
    write(elsewhere / FOLDER, 485, 100)
    workspace = open_workspace("cifar100", SLOTS, elsewhere / "store", CUT_DOWN, device="cpu")
    records = {record.slot: record for record in workspace.run.walk(workspace.recipe.pipeline.up_to({"onnx"}))}
    assert {record.status for record in records.values()} == {"made"}, [record.error for record in records.values()]
    assert records["answers"].facts["samples"] == {"train": 384, "validation": 100, "test": 100}
    student = records["student"].facts
    assert len(student["history"]) == 2
    assert student["history"][1]["loss"] < student["history"][0]["loss"]
