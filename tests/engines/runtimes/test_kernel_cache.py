"""The kernels of an engine are kept for the next process, where nobody else can write them. TensorRT-RTX is played here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from attar.engines.runtimes.kernel_cache import KernelCache, find_kernel_file


class Kernels:
    """A runtime cache: what it was given, and what was compiled since."""

    def __init__(self) -> None:
        self.content = bytearray()

    def deserialize(self, content: bytes) -> bool:
        self.content += content
        return True

    def serialize(self) -> bytearray:
        return self.content


def open_cache(file: Path) -> tuple[KernelCache, Kernels]:
    made, used = Kernels(), list[object]()
    cache = KernelCache(SimpleNamespace(create_runtime_cache=lambda: made, set_runtime_cache=used.append), file)
    assert used == [made]
    return cache, made


def keep(file: Path, content: bytes) -> None:
    cache, kernels = open_cache(file)
    kernels.content += content
    cache.save()


def test_what_was_compiled_is_there_for_the_next_process(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "kernels"
    keep(file, b"one")
    keep(file, b"two")
    assert open_cache(file)[1].content == b"onetwo"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["kernels"]


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "kernels"
    keep(file, b"one")
    before = file.stat().st_ino
    open_cache(file)[0].save()
    assert file.stat().st_ino == before


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_what_others_can_write_is_not_read(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "kernels"
    keep(file, b"one")
    file.chmod(mode)
    assert open_cache(file)[1].content == b""


def test_a_link_and_what_another_user_wrote_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "kernels", b"one")
    (tmp_path / "link").symlink_to(tmp_path / "kernels")
    assert open_cache(tmp_path / "link")[1].content == b""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert open_cache(tmp_path / "kernels")[1].content == b""


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")  # no folder
    with pytest.warns(UserWarning, match="are not kept in .*XDG_CACHE_HOME"):
        keep(tmp_path / "cache" / "kernels", b"one")


def test_each_engine_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(content)
    files = [find_kernel_file(tmp_path / name) for name in "abc"]
    assert files[0] == files[2] != files[1]
    assert files[0].parent == tmp_path / "attar" / "tensorrt-rtx"
