"""Fashion-MNIST: how it is found, fetched, verified, split and augmented. The real files are looked at where they are."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.checks import task as task_check
from attar.models.tasks import fashion
from attar.models.tasks.fashion import FILES, FashionMnist, FashionMnistErasing
from attar.models.tasks.images import erase, flip, shift
from attar.models.tasks.unpacking import read_unpacked
from attar.pipeline.core.errors import StageError
from tests.support.datasets.promised import missing


def packed(array: npt.NDArray[np.uint8]) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """6,000 and 100 random images, gzipped, where ATTAR_DATA says; nowhere else is looked."""
    generator = np.random.default_rng(0)
    for name in FILES:
        count = 100 if name.startswith("t10k") else 6000
        shape = (count, 28, 28) if "images" in name else (count,)
        content = packed(generator.integers(0, 10, shape, np.uint8))
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))
    monkeypatch.setattr(fashion, "HOME", replace(fashion.HOME, installed=()))
    return tmp_path


def test_splits_do_not_overlap_and_are_always_the_same(folder: Path) -> None:
    task = FashionMnist()
    assert [len(task.split(name)) for name in task_check.SPLITS] == [1000, 5000, 100]
    task_check.check_task(task)
    images = [FashionMnist().split("train").take(np.arange(10)).inputs["image"] for _ in range(2)]
    assert images[0].tobytes() == images[1].tobytes()
    assert images[0].shape == (10, 1, 28, 28)
    assert images[0].dtype == np.uint8


def test_files_are_unpacked_once_until_they_change(folder: Path) -> None:
    before = FashionMnist().split("test").take(np.arange(1)).inputs["image"]
    unread = fashion.read_cached.cache_info().misses
    FashionMnist().split("test")
    assert fashion.read_cached.cache_info().misses == unread
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(packed(np.full((101, 28, 28), 255, np.uint8)), 1))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(packed(np.zeros(101, np.uint8)), 1))
    changed = FashionMnist().split("test")
    assert len(changed) == 101
    assert changed.take(np.arange(1)).inputs["image"].tobytes() != before.tobytes()


def test_unpacked_files_and_a_folder_inside_are_found(folder: Path) -> None:
    inside = folder / "fashion-mnist"
    inside.mkdir()
    for name in FILES:
        (inside / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        (folder / f"{name}.gz").unlink()
    assert FashionMnist().data() == [inside / name for name in FILES]
    assert len(FashionMnist().split("test")) == 100


def test_missing_data_say_where_and_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)
    with pytest.raises(StageError, match=r"`attar fetch RECIPE`, .*ATTAR_DATA") as error:
        FashionMnist().data()
    assert str(folder) in str(error.value)


def test_broken_files_are_said(folder: Path) -> None:
    file = folder / "t10k-labels-idx1-ubyte.gz"
    whole = gzip.decompress(file.read_bytes())
    for content in (gzip.compress(whole[:-1]), gzip.compress(whole)[:-9], gzip.compress(b""), b"<html>"):
        file.write_bytes(content)
        with pytest.raises(StageError, match=r"delete .*`attar fetch RECIPE`"):
            FashionMnist().split("test")


def test_fetch_verifies_the_unpacked_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {name: hashlib.sha256(read_unpacked(folder / f"{name}.gz")).hexdigest() for name in FILES}
    monkeypatch.setattr(fashion, "FILES", hashes)
    monkeypatch.setattr(fashion, "OFFICIAL_URL", folder.as_uri())
    monkeypatch.setattr(fashion, "fetch_debian", lambda folder: None)
    fashion.download(tmp_path / "fetched")
    assert sorted(path.name for path in (tmp_path / "fetched").iterdir()) == sorted(f"{name}.gz" for name in FILES)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(StageError, match="when unpacked, expected"):
        fashion.download(tmp_path / "wrong")
    assert list((tmp_path / "wrong").iterdir()) == []


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion, "OFFICIAL_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(StageError, match="ATTAR_DATA"):
        fashion.fetch_official(tmp_path)


@pytest.mark.network
def test_the_debian_package_needs_no_root(tmp_path: Path) -> None:
    source = fashion.fetch_debian(tmp_path)
    if source is None:
        missing("fashion-mnist", "this needs an apt-get that has the package dataset-fashion-mnist")
    for name, expected in FILES.items():
        fashion.check_sha256(source / f"{name}.gz", expected)


def test_the_real_files() -> None:
    if fashion.HOME.find_complete() is None:
        missing("fashion-mnist", "apt-get install dataset-fashion-mnist")
    task = FashionMnist()
    task.fetch()  # finds them, and verifies
    assert [len(task.split(name)) for name in task_check.SPLITS] == [55_000, 5_000, 10_000]
    labels = np.asarray(task.split("test").take(np.arange(10_000)).targets["label"], np.int64)
    assert np.bincount(labels).tolist() == [1000] * 10


@given(st.integers(0, 2**32 - 1), st.sampled_from([FashionMnist(), FashionMnistErasing()]))
def test_augment_keeps_what_it_must_keep(seed: int, task: FashionMnist) -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 1, 28, 28), np.uint8)
    before = images.tobytes()
    one, two = (task.augment({"image": images}, np.random.default_rng(seed))["image"] for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert (one.shape, one.dtype) == (images.shape, images.dtype)
    assert images.tobytes() == before


def test_flip_by_hand() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3).repeat(50, 0)
    made = flip(images, np.random.default_rng(0))
    mirrored = (made == images[..., ::-1]).all((1, 2, 3))
    assert ((made == images).all((1, 2, 3)) != mirrored).all()
    assert 30 < mirrored.sum() < 70


def test_shift_moves_each_image_by_at_most_so_much() -> None:
    images = np.zeros((200, 1, 9, 9), np.uint8)
    images[:, 0, 4, 4] = 1
    made = shift(images, np.random.default_rng(0), 2)
    assert made.sum((1, 2, 3)).tolist() == [1] * 200
    where = {(int(row), int(column)) for _, _, row, column in np.argwhere(made)}
    assert where == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_erase_fills_one_rectangle_with_one_grey() -> None:
    images = np.full((300, 1, 12, 12), 7, np.uint8)
    made = erase(images, np.random.default_rng(0), 0.5, 4)
    changed = (made != 7).any((1, 2, 3))
    assert 110 < changed.sum() < 190
    for image in made[changed, 0]:
        rows, columns = np.nonzero(image != 7)
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box)) == 1
        assert max(box.shape) <= 4
