"""What may be wrong with users' files is told by name."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset
from pyarrow import parquet

import attar
from attar.models.splits import cache
from attar.models.task import Split
from attar.pipeline.core.errors import StageError

ROW = np.array([0])


def table(content: str | bytes, name: str = "data.csv") -> Callable[[Path], Split]:
    def make(folder: Path) -> Split:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return attar.TableSplit(folder / name, {"x": ["a", "b"]}, {"label": "kind"}, ("no", "yes"))

    return make


def typed_table(folder: Path) -> Split:
    moments = pa.array([0], pa.timestamp("s"))
    parquet.write_table(pa.table({"a": moments, "b": [1], "kind": ["yes"]}), folder / "data.parquet")
    return attar.TableSplit(folder / "data.parquet", {"x": "a"}, {"label": "kind"}, ("yes",))


def lists(*values: list[float | None]) -> Callable[[Path], Split]:
    def make(folder: Path) -> Split:
        column = pa.array(values, pa.list_(pa.float64()))
        parquet.write_table(pa.table({"a": column}), folder / "data.parquet")
        return attar.TableSplit(folder / "data.parquet", {"x": "a"}, {})

    return make


def shard(cut: int = 0, **fields: object) -> Callable[[Path], Split]:
    def make(folder: Path) -> Split:
        with webdataset.TarWriter(str(folder / "0.tar")) as writer:
            writer.write({"__key__": "first", "png": b"x" * 2000, "cls": 1})
            writer.write({"__key__": "second", "png": b"x" * 2000, **fields})
        whole = (folder / "0.tar").read_bytes()
        (folder / "0.tar").write_bytes(whole[: cut or len(whole)])
        return attar.ShardSplit([folder / "0.tar"], {"image": "png"}, {"label": "cls"})

    return make


def packed_shard(folder: Path) -> Split:
    with tarfile.open(folder / "0.tar.gz", "w:gz"):
        pass
    return attar.ShardSplit([folder / "0.tar.gz"], {"image": "png"}, {"label": "cls"})


def files(name: str, content: bytes | None, is_text: bool = False) -> Callable[[Path], Split]:
    def make(folder: Path) -> Split:
        (folder / name).parent.mkdir()
        if content is not None:
            (folder / name).write_bytes(content)
        return attar.FileSplit(folder, ["cat"], [name], is_text=is_text)

    return make


def arrays(folder: Path) -> Split:
    np.save(folder / "x.npy", np.zeros(3))
    np.save(folder / "y.npy", np.zeros(4))
    return attar.NpySplit({"x": folder / "x.npy"}, {"y": folder / "y.npy"})


def objects(folder: Path) -> Split:
    np.save(folder / "x.npy", np.array([{}], object))
    return attar.NpySplit({"x": folder / "x.npy"}, {})


def pairs(folder: Path) -> Split:
    return attar.MapSplit(torch.utils.data.TensorDataset(torch.zeros(3)), {"x": 0}, {"y": 1})


def samples(*dataset: object) -> Callable[[Path], Split]:
    return lambda _: attar.MapSplit(list(dataset), {"x": "x"}, {"y": "y"})


def unreadable(folder: Path) -> Split:
    """A file that the system opens, and does not read."""
    (folder / "data.csv").symlink_to("/proc/self/mem")
    return attar.TableSplit(folder / "data.csv", {"x": "a"}, {})


def read_all(make: Callable[[Path], Split], folder: Path) -> None:
    split = make(folder)
    split.take(np.arange(len(split)))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (table(""), ["data.csv", "mpty"]),
        (table("a,b,a\n1,2,3\n"), ["data.csv", "2 columns of the name 'a'"]),
        (table("a,c,kind\n1,2,yes\n"), ["no column 'b'", "known: a, c, kind"]),
        (table("a,b,kind\n1,2,maybe\n"), ["'kind'", "'maybe'", "known: no, yes"]),
        (table("a,b,kind\n1,,yes\n"), ["'b'", "empty cells"]),
        (table("a,b,kind\n1,2,yes\n1,2,\n1,2,  \n"), ["'kind'", "empty cells, 2 in 3 rows"]),
        (table("a,b,kind\n1,x,yes\n"), ["'b'", "no numbers"]),
        (table("a,b,kind\n1,2,yes\n1,2\n"), ["data.csv", "Expected 3 columns, got 2"]),
        (table("a,b,kind\n1,2,yes\n1,2,b\xe9\n".encode("latin1")), ["not in UTF-8", "line 3", "iconv"]),
        (table("a,b,kind\n".encode("utf-16")), ["not in UTF-8", "line 1"]),
        (table("a,b,kind\n", "data.xlsx"), ["data.xlsx", ".parquet"]),
        (table("a,b,kind\n", "data.parquet"), ["data.parquet", "cannot be read as a table"]),
        (lists([1, 2], [3]), ["'a'", "lists of one length"]),
        (lists([1, 2], [3, None]), ["'a'", "empty cells, 1 in 2 rows"]),
        (unreadable, ["data.csv cannot be read as a table"]),
        (typed_table, ["'a'", "timestamp"]),
        (shard(cls=1, cut=3000), ["0.tar"]),
        (shard(), ["sample 1 of", "0.tar", ".cls"]),
        (packed_shard, ["0.tar.gz", "without compression"]),
        (files("cat/gone.png", None), ["cat/gone.png", "No such file"]),
        (files("dog/other.png", b""), ["dog/other.png", "known: cat"]),
        (files("cat/text.txt", "b\xe9".encode("latin1"), is_text=True), ["cat/text.txt", "UTF-8"]),
        (arrays, ["x.npy 3", "y.npy 4"]),
        (objects, ["x.npy", "numpy.save"]),
        (pairs, ["TensorDataset has no place 1, it has 1 values"]),
        (samples({"x": 1}), ["list has no place 'y', it has the keys ['x']"]),
        (samples(3), ["list has no place 'x', it is of the type int"]),
    ],
)
def test_it_is_told_by_name(make: Callable[[Path], Split], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(StageError) as raised:
        read_all(make, tmp_path)
    assert all(part in str(raised.value) for part in named), raised.value


@pytest.mark.parametrize("cut", [6000, 8000, 9500])
def test_a_shard_that_ends_too_early(cut: int, tmp_path: Path) -> None:
    """In a header, in the padding between two files, in a file."""
    split = shard(cls=1, cut=cut)(tmp_path)
    with pytest.raises(StageError, match=r"0\.tar (is cut off|cannot be read)"):
        len(split)


def test_a_class_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="'dog'"):
        attar.FileSplit(tmp_path, ["dog"])


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("before", encoding="utf-8")

    def change(to: Path) -> None:
        to.touch()
        source.write_text("after all", encoding="utf-8")

    with pytest.raises(StageError, match="changed while it was read"):
        cache.make_cached_file(source, "test", change)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    with pytest.raises(StageError, match="XDG_CACHE_HOME"):
        len(table("a,b,kind\n1,2,yes\n")(tmp_path))


def test_what_is_made_is_made_once_for_each_content(tmp_path: Path) -> None:
    source, calls = tmp_path / "source", []

    def copy(to: Path) -> None:
        calls.append(to)
        to.write_bytes(source.read_bytes())

    for content in (b"one", b"one more"):
        source.write_bytes(content)
        made = [cache.make_cached_file(source, "test", copy) for _ in range(2)]
        assert [file.read_bytes() for file in made] == [content] * 2
    assert len(calls) == 2
    assert {path.name for path in made[0].parent.iterdir() if path.name.startswith(".")} == set()
