"""Splits read what lies in users' files: any row, in any order, also after they were sent to another process."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
from PIL import Image
from pyarrow import parquet
from webdataset import tariterators

import attar
from attar.models.task import Array, Split
from attar.pipeline.core.errors import StageError
from tests.support.bundles.pictures import encoded, noise

SAMPLES = 24
CLASSES = ("cat", "dog")
NUMBERS = np.arange(SAMPLES) * 0.5
LABELS = np.arange(SAMPLES) % 2
IMAGES = [encoded(noise(4, 5, seed=n)) for n in range(SAMPLES)]
TEXTS = [f"text {n}; says “{n}”\nand more" for n in range(SAMPLES)]


def make_files(folder: Path) -> Split:
    """The order is that of the names."""
    for number, image in enumerate(IMAGES):
        file = folder / CLASSES[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image)
    return attar.FileSplit(folder, CLASSES, [f"{CLASSES[n % 2]}/{n:02}.png" for n in range(SAMPLES)])


def make_csv(folder: Path) -> Split:
    rows = [f'{n},{n * 0.5},"{text}",{CLASSES[n % 2]}\n' for n, text in enumerate(TEXTS)]
    (folder / "data.csv").write_text("number,half,text,animal\n" + "".join(rows), encoding="utf-8")
    return open_table(folder / "data.csv")


def make_parquet(folder: Path) -> Split:
    """In groups of seven rows."""
    animals = [CLASSES[n % 2] for n in range(SAMPLES)]
    columns = {"number": range(SAMPLES), "half": NUMBERS, "text": TEXTS, "animal": animals}
    parquet.write_table(pa.table({name: pa.array(list(each)) for name, each in columns.items()}), folder / "data.parquet", 7)
    return open_table(folder / "data.parquet")


def open_table(file: Path) -> Split:
    return attar.TableSplit(file, {"x": ["number", "half"], "text": "text"}, {"label": "animal"}, CLASSES)


def make_tensors(folder: Path) -> Split:
    return attar.MapSplit(
        torch.utils.data.TensorDataset(torch.from_numpy(NUMBERS), torch.from_numpy(LABELS)), {"half": 0}, {"label": 1}
    )


def make_hugging_face(folder: Path) -> Split:
    """Saved and read again, as one that was downloaded; its images are decoded by Pillow."""
    columns = {"image": [{"bytes": image, "path": None} for image in IMAGES], "text": TEXTS, "label": LABELS}
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), label=datasets.ClassLabel(names=CLASSES))
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(folder / "saved"))
    loaded = datasets.load_from_disk(str(folder / "saved"))
    return attar.MapSplit(loaded, {"pixels": "image", "text": "text"}, {"label": "label"})


def make_undecoded(folder: Path) -> Split:
    split = make_hugging_face(folder)
    assert isinstance(split, attar.MapSplit)
    return attar.MapSplit(
        split.dataset.cast_column("image", datasets.Image(decode=False)), {"image": "image"}, {"label": "label"}
    )


def make_shards(folder: Path) -> Split:
    """Ten samples a shard, as the library writes them."""
    for start in range(0, SAMPLES, 10):
        with webdataset.TarWriter(str(folder / f"{start:02}.tar")) as shard:
            for n in range(start, min(start + 10, SAMPLES)):
                shard.write(
                    {
                        "__key__": f"s/{n:03}",
                        "png": IMAGES[n],
                        "cls": int(LABELS[n]),
                        "a.txt": TEXTS[n],
                        "npy": NUMBERS[n : n + 1],
                    }
                )
    fields = {"image": "png", "text": "a.txt", "numbers": "npy"}
    return attar.ShardSplit(sorted(folder.glob("*.tar")), fields, {"label": "cls"})


def make_arrays(folder: Path) -> Split:
    np.save(folder / "half.npy", NUMBERS)
    np.save(folder / "label.npy", LABELS)
    return attar.NpySplit({"half": folder / "half.npy"}, {"label": folder / "label.npy"})


Make = Callable[[Path], Split]
MADE: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "files": (make_files, ("image",)),
    "csv": (make_csv, ("x", "text")),
    "parquet": (make_parquet, ("x", "text")),
    "tensors": (make_tensors, ("half",)),
    "hugging face": (make_hugging_face, ("pixels", "text")),
    "undecoded": (make_undecoded, ("image",)),
    "shards": (make_shards, ("image", "text", "numbers")),
    "arrays": (make_arrays, ("half",)),
}
ROWS = np.array([23, 0, 11, 12, 0])


def expect(name: str) -> Sequence[object]:
    """What each sample of an input holds."""
    pixels = [np.asarray(noise(4, 5, seed=n)) for n in range(SAMPLES)]
    joined = np.stack([np.arange(SAMPLES), NUMBERS], 1)
    columns: dict[str, Sequence[object]] = {"half": list(NUMBERS), "numbers": list(NUMBERS[:, None]), "x": list(joined)}
    known: dict[str, Sequence[object]] = {"image": IMAGES, "text": TEXTS, "pixels": pixels, **columns}
    return known[name]


def check_batch(split: Split, names: Sequence[str]) -> None:
    batch = split.take(ROWS)
    assert (len(split), set(batch.inputs), set(batch.targets)) == (SAMPLES, set(names), {"label"})
    assert batch.targets["label"].tolist() == LABELS[ROWS].tolist()
    assert batch.targets["label"].dtype == np.int64
    for name in names:
        for got, row in zip(batch.inputs[name], ROWS.tolist(), strict=True):
            np.testing.assert_array_equal(got, np.asarray(expect(name)[row]))


@pytest.mark.parametrize("kind", MADE)
def test_rows_come_as_they_were_asked_for(kind: str, tmp_path: Path) -> None:
    make, names = MADE[kind]
    split = make(tmp_path)
    check_batch(split, names)
    check_batch(pickle.loads(pickle.dumps(split)), names)  # noqa: S301  # our own bytes: as a worker gets it
    picked = attar.Subset(split, np.array([5, 3]))
    assert (len(picked), picked.take(np.array([1])).targets["label"].tolist()) == (2, [LABELS[3]])
    assert len(split.take(np.arange(3)).targets["label"]) == 3


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("files", ["dog/23.png", "cat/04.png"]),
        ("csv", ["row 24 of data.csv", "row 5 of data.csv"]),
        ("shards", ["sample 3 of 20.tar", "sample 4 of 00.tar"]),
    ],
)
def test_a_sample_has_the_name_of_where_it_lies(kind: str, names: Sequence[str], tmp_path: Path) -> None:
    split = MADE[kind][0](tmp_path)
    assert [split.name_sample(index) for index in (23, 4)] == names
    assert attar.Subset(split, np.array([5, 23])).name_sample(1) == names[0]


def test_no_shards_are_no_samples() -> None:
    assert len(attar.ShardSplit([], {"image": "png"}, {})) == 0


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int64(), 3)])
def test_lists_of_one_length_are_rows_of_an_array(kind: pa.DataType, tmp_path: Path) -> None:
    rows = np.arange(15).reshape(5, 3)
    parquet.write_table(pa.table({"x": pa.array(rows.tolist(), kind)}), tmp_path / "data.parquet", 2)
    split = attar.TableSplit(tmp_path / "data.parquet", {"x": "x"}, {})
    np.testing.assert_array_equal(split.take(np.array([4, 0])).inputs["x"], rows[[4, 0]])
    assert len(split.take(np.array([], np.int64)).inputs["x"]) == 0


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [("P", (4, 5, 3), "uint8"), ("L", (4, 5, 1), "uint8"), ("1", (4, 5, 1), "uint8"), ("I;16", (4, 5, 1), "uint16")],
)
def test_pictures_of_any_mode_are_their_pixels(mode: str, shape: tuple[int, ...], dtype: str) -> None:
    picture = Image.fromarray(np.full((4, 5), 4000, np.uint16)) if mode == "I;16" else noise(4, 5, mode)
    pixels = attar.MapSplit([(picture,)], {"image": 0}, {}).take(np.array([0])).inputs["image"][0]
    assert (pixels.shape, pixels.dtype) == (shape, dtype)
    wanted = 4000 if mode == "I;16" else np.asarray(picture.convert("RGB" if mode == "P" else "L")).reshape(shape)
    np.testing.assert_array_equal(pixels, wanted)


def sum_labels(split: Split) -> int:
    labels: Array = split.take(np.arange(SAMPLES)).targets["label"]
    return int(np.asarray(labels, np.int64).sum())


@pytest.mark.parametrize("kind", ["parquet", "shards", "arrays", "files"])
def test_processes_that_fork_read_the_same(kind: str, tmp_path: Path) -> None:
    """Each while the parent has read, too: no file is open in both."""
    split = MADE[kind][0](tmp_path)
    assert sum_labels(split) == 12
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(sum_labels, [split] * 4) == [12] * 4


def test_shards_are_read_as_their_library_reads_them(tmp_path: Path) -> None:
    split = make_shards(tmp_path)
    batch = split.take(np.arange(SAMPLES))
    number = 0
    for file in sorted(tmp_path.glob("*.tar")):
        with file.open("rb") as stream:  # the library closes no file that it opens itself
            opened = [{"url": str(file), "stream": stream}]
            for sample in tariterators.group_by_keys(tariterators.tar_file_expander(opened)):
                assert sample["a.txt"].decode() == batch.inputs["text"][number]
                assert (int(sample["cls"]), sample["png"]) == (batch.targets["label"][number], batch.inputs["image"][number])
                number += 1
    assert number == SAMPLES


def test_all_files_of_the_classes_are_found(tmp_path: Path) -> None:
    make_files(tmp_path)
    (tmp_path / "cat/.hidden").touch()
    (tmp_path / "cat/deep").mkdir()
    (tmp_path / "cat/deep/er.png").write_bytes(b"deep")
    split = attar.FileSplit(tmp_path, CLASSES)
    batch = split.take(np.arange(len(split)))
    assert len(split) == SAMPLES + 1
    assert batch.inputs["image"][12] == b"deep"
    assert np.bincount(np.asarray(batch.targets["label"], np.int64)).tolist() == [13, 12]


def test_a_place_may_be_a_text(tmp_path: Path) -> None:
    files, table = make_files(tmp_path), make_csv(tmp_path)
    assert isinstance(files, attar.FileSplit)
    named = attar.FileSplit(str(tmp_path), CLASSES, files.files.astype(str).tolist())
    assert named.take(np.arange(3)).inputs["image"].tolist() == files.take(np.arange(3)).inputs["image"].tolist()
    told = attar.TableSplit(str(tmp_path / "data.csv"), {"x": ["number", "half"]}, {"label": "animal"}, CLASSES)
    np.testing.assert_array_equal(told.take(np.arange(3)).inputs["x"], table.take(np.arange(3)).inputs["x"])
    assert told.name_sample(0) == table.name_sample(0)
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.save(tmp_path / "y.npy", np.zeros(4))
    assert len(attar.NpySplit({"x": str(tmp_path / "x.npy")}, {})) == 3
    with pytest.raises(StageError, match=r"x\.npy 3, y\.npy 4"):
        len(attar.NpySplit({"x": str(tmp_path / "x.npy")}, {"y": str(tmp_path / "y.npy")}))
