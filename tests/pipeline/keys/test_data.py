"""Many files: what looking at them costs, counted by what the operating system is asked, and what of them is in a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.keys import data, files
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys.deciders import Keys
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.store.store import Store
from tests.support.projects.toy import Constant, Tasked

MANY = 400
_counters: list[Counter[str]] = []


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if not _counters or event not in ("os.scandir", "os.listdir", "open"):
        return
    what = "read" if event == "open" and str(arguments[0]).endswith(".png") else "listed" if event != "open" else "other"
    _counters[-1][what] += 1


sys.addaudithook(_count)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often folders are ``listed`` and pictures ``read`` inside."""
    _counters.append(Counter())
    try:
        yield _counters[-1]
    finally:
        _counters.pop()


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what this process hashed."""
    return lambda: monkeypatch.setattr(files, "_hashed", {})


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were just written count as settled."""
    monkeypatch.setattr(files, "SETTLED_NANOSECONDS", 0)


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:05}.png").write_text(str(number))
    return folder


def digest(*items: Path | str) -> str:
    return keys.compute_json_digest(data.describe_content(data.inspect_data(items)))


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task that lists many pictures, in two folders."""
    for name in "ab":
        write_pictures(tmp_path / "pictures" / name, MANY // 2)
    task = "from pathlib import Path\nclass T:\n    def data(self): return sorted(Path(__file__).parent.glob('pictures/*/*'))\n"
    (tmp_path / "many_task.py").write_text(task)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "many_task", raising=False)
    return tmp_path


def data_digest(home: Path, *, may_import: bool) -> str | None:
    found = Keys(Store(home / "store"), Fingerprint(home)).deciders(Tasked(task="many_task:T"), {}, may_import=may_import)
    return None if found is None else str(found["data"])


@pytest.mark.usefixtures("settled")
def test_a_plan_lists_each_folder_once_and_reads_only_what_changed(listed: Path, another_process: Callable[[], None]) -> None:
    with counted() as first:
        one = data_digest(listed, may_import=True)
    assert first["read"] == MANY
    another_process()
    with counted() as again:
        assert data_digest(listed, may_import=False) == one
    assert again["read"] == 0
    assert again["listed"] <= 10  # two folders, and those where code is looked for
    (listed / "pictures" / "a" / "00007.png").write_text("other")
    another_process()
    with counted() as changed:
        assert data_digest(listed, may_import=False) != one
    assert changed["read"] == 1
    (listed / "pictures" / "b" / "more.png").write_text("more")
    assert data_digest(listed, may_import=False) is None  # only the task knows whether it belongs to the data


@pytest.mark.parametrize(
    ("new", "is_noticed"),
    [
        ("pictures/c/more.png", True),
        ("pictures/a/more.jpg", True),
        ("pictures/.notes/more.png", False),
        ("pictures/a/__pycache__/more.png", False),
        ("more.png", False),
        ("other/more.png", False),
    ],
)
def test_a_new_name_that_may_belong_to_the_data_has_the_task_asked(listed: Path, new: str, is_noticed: bool) -> None:
    one = data_digest(listed, may_import=True)
    (listed / new).parent.mkdir(exist_ok=True)
    (listed / new).write_text("more")
    assert (data_digest(listed, may_import=False) is None) == is_noticed
    belongs = is_noticed and new.startswith("pictures/")
    assert (data_digest(listed, may_import=True) != one) == belongs


def test_beside_data_in_the_recipe_s_folder_only_files_that_end_alike_count(tmp_path: Path) -> None:
    (tmp_path / "points.npz").write_text("1")
    known = data.inspect_data([tmp_path / "points.npz"], tmp_path)
    (tmp_path / "report.html").write_text("2")
    assert data.refresh_data(known) == known
    (tmp_path / "more.npz").write_text("2")
    assert data.refresh_data(known) is None


def test_folders_are_looked_at_up_to_the_recipe_s_or_to_the_one_that_holds_all() -> None:
    inside, outside = "/home/p/data/all/cat", ["/big/train/cat", "/big/train/dog", "/big/test"]
    assert data.list_folders_above([inside, *outside], "/home/p") == {"/home/p/data/all", "/home/p/data", "/big/train", "/big"}
    assert data.list_folders_above([inside], None) == set()
    assert data.list_folders_above(["/home/p"], "/home/p") == set()
    assert data.list_folders_above(["/a/x", "/"], None) == {"/a", "/"}


def test_a_folder_above_that_may_not_be_listed_shows_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [write_pictures(tmp_path / name, 1) / "00000.png" for name in "ab"]
    scan = os.scandir

    def refuse(folder: str) -> Any:
        if folder == str(tmp_path):
            raise PermissionError
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    known = data.inspect_data(listed)
    assert str(tmp_path) in known.names
    assert data.refresh_data(known) == known


@pytest.mark.usefixtures("settled")
def test_every_file_is_hashed_once_however_many_there_are(tmp_path: Path, another_process: Callable[[], None]) -> None:
    shown: list[tuple[str, int, int, str]] = []
    folder = write_pictures(tmp_path / "pictures", MANY)
    another_process()
    with counted() as first, listen_to_progress(lambda *said: shown.append(said)):
        one = digest(*sorted(folder.iterdir()))
    assert first["read"] == MANY
    assert shown[0] == ("hashing files", 0, MANY, "")
    assert [done for _, done, _, _ in shown] == sorted({done for _, done, _, _ in shown})
    with counted() as again:  # a stage of the same process asks again
        assert digest(*sorted(folder.iterdir())) == one
    assert again["read"] == 0


def test_which_files_lie_together_counts_and_where_they_are_does_not(tmp_path: Path) -> None:
    """A picture that is moved to the next class's folder has the same name, bytes and place in the list."""
    for place in ("here", "there"):
        for name in "ab":
            write_pictures(tmp_path / place / name, 1)
    (tmp_path / "here/a/00001.png").write_text("1")
    (tmp_path / "there/a/00001.png").write_text("1")
    here, there = (sorted((tmp_path / place).glob("*/*")) for place in ("here", "there"))
    assert digest(*here) == digest(*there)
    (tmp_path / "there/a/00001.png").rename(tmp_path / "there/b/.first")
    (tmp_path / "there/b/00000.png").rename(tmp_path / "there/b/00002.png")
    (tmp_path / "there/b/.first").rename(tmp_path / "there/b/00001.png")
    (tmp_path / "here/b/00000.png").rename(tmp_path / "here/b/00002.png")
    here, there = (sorted((tmp_path / place).glob("*/*")) for place in ("here", "there"))
    assert [path.name for path in here] == [path.name for path in there]
    assert [path.read_text() for path in here] == [path.read_text() for path in there]
    assert digest(*here) != digest(*there)


def test_files_of_one_folder_count_by_their_names_and_bytes(tmp_path: Path) -> None:
    first, second = sorted(write_pictures(tmp_path / "pictures", 2).iterdir())
    assert data.describe_content(data.inspect_data([first, "version 1", second])) == [
        ["00000.png", "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"],  # echo -n 0 | sha256sum
        ["", "b19f8edae2ee6c225b7278b289c2823ab9accfa225c5d67c4bef270b88ea55f0"],  # echo -n 'version 1' | sha256sum
        ["00001.png", "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"],
    ]


CHANGES: dict[str, Callable[[Path], Any]] = {
    "add": lambda folder: (folder / "b/deep/more.png").write_text("more"),
    "change": lambda folder: (folder / "b/deep/00000.png").write_text("more"),
    "rename": lambda folder: (folder / "a/00000.png").rename(folder / "a/renamed.png"),
    "move": lambda folder: (folder / "a/00000.png").rename(folder / "b/00000.png"),
    "remove": lambda folder: (folder / "a/00000.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_stands_for_all_that_is_in_it(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "pictures"
    for name in ("a", "b/deep"):
        write_pictures(folder / name, 2)
    before = data.inspect_data([folder])
    assert [len(item.files) for item in before.items if isinstance(item, data.FolderState)] == [4]
    known = data.DataState.from_json(before.to_json())
    assert known is not None
    assert data.refresh_data(known) == before
    CHANGES[change](folder)
    assert data.list_changed(before) == [str(folder)]
    after = data.refresh_data(before)
    assert after is not None
    assert data.describe_content(after) != data.describe_content(before)


def test_a_folder_s_place_and_its_hidden_files_do_not_count(tmp_path: Path) -> None:
    one = digest(write_pictures(tmp_path / "here" / "pictures", 2).parent)
    (tmp_path / "here" / ".notes").mkdir()
    (tmp_path / "here" / ".notes" / "note.png").write_text("note")
    (tmp_path / "here").rename(tmp_path / "there")
    assert digest(tmp_path / "there") == one


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    plain, linked = write_pictures(tmp_path / "plain" / "a", 2).parent, tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(plain / "a")
    assert digest(linked) == digest(plain)
    assert digest(linked / "a" / "00000.png", linked / "a") == digest(plain / "a" / "00000.png", plain / "a")
    before = data.inspect_data([linked])
    (plain / "a" / "00000.png").write_text("other")
    assert data.list_changed(before) == [str(linked)]


@pytest.mark.parametrize(("target", "message"), [("..", "has no end"), ("nowhere", "leads nowhere")])
def test_links_that_cannot_be_followed(tmp_path: Path, target: str, message: str) -> None:
    (write_pictures(tmp_path / "pictures", 1) / "link").symlink_to(target)
    with pytest.raises(StageError, match=rf"pictures/link.* {message}"):
        data.inspect_data([tmp_path / "pictures"])


def test_a_folder_that_goes_away_is_asked_for_again(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 1)
    before = data.inspect_data([folder])
    folder.rename(tmp_path / "elsewhere")
    assert data.list_changed(before) == [str(folder)]
    assert data.refresh_data(before) is None


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_any_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(files, "stamp_folder", lambda folder: {})  # nobody is to read all of the disk
    monkeypatch.chdir(tmp_path)
    (item,) = data.inspect_data([Path(name)]).items
    assert isinstance(item, data.FolderState)


def test_what_is_no_file_and_what_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StageError, match="pipe, but"):
        data.inspect_data([tmp_path / "pipe"])
    with pytest.raises(StageError, match=r"no file .*gone\.png"):
        data.inspect_data([tmp_path / "gone.png"])
    with pytest.raises(StageError, match=r"gone\.png cannot"):
        files.hash_files({str(tmp_path / "gone.png"): (1, 1, 1, 1)})


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.png")
    file.write_text("0")
    known = data.inspect_data([file])
    store = Store(tmp_path / "store")
    store.write_note("data/x.json", known.to_json())
    assert data.DataState.from_json(store.read_note("data/x.json")) == known


@pytest.mark.parametrize(
    "note", [None, 3, {}, {"items": 2, "names": {}, "home": None}, {"items": [["x"]], "names": {}, "home": None}]
)
def test_a_note_that_is_damaged_is_no_note(note: object) -> None:
    assert data.DataState.from_json(note) is None
    assert files.read_states(note) == []


@pytest.mark.usefixtures("settled")
def test_a_file_that_a_setting_names_is_hashed_once_for_all_processes(
    tmp_path: Path, another_process: Callable[[], None]
) -> None:
    file = tmp_path / "5.png"
    file.write_text("5")

    def settings(*, may_import: bool) -> Any:
        another_process()
        found = Keys(Store(tmp_path / "store"), Fingerprint(tmp_path)).deciders(Constant(file=file), {}, may_import=may_import)
        return None if found is None else found["settings"]

    one = settings(may_import=True)
    with counted() as plan:
        assert settings(may_import=False) == one
    assert plan["read"] == 0
    file.write_text("6")
    with counted() as plan:
        assert settings(may_import=False) != one
    assert plan["read"] == 1


@pytest.mark.usefixtures("settled")
def test_a_file_moved_over_one_of_the_same_size_and_mtime_is_read(tmp_path: Path, another_process: Callable[[], None]) -> None:
    """As ``cp -p``, ``tar`` and ``rsync -t`` leave it."""
    file, other = tmp_path / "teacher.safetensors", tmp_path / "other"
    digests = []
    for content in ("1" * 100, "2" * 100):
        another_process()
        other.write_text(content)
        os.utime(other, (1e9, 1e9))
        other.replace(file)
        deciders = Keys(Store(tmp_path / "store"), Fingerprint(tmp_path)).deciders(Constant(file=file), {}, may_import=True)
        assert deciders is not None
        digests.append(keys.compute_key(deciders))
    assert digests[0] != digests[1]


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path, another_process: Callable[[], None]) -> None:
    """A second change within one tick of the file system's clock leaves the stamp as it is."""
    file = tmp_path / "5.png"
    file.write_text("5")
    known = data.inspect_data([file])
    another_process()
    with counted() as first:
        assert data.refresh_data(known) == known
    assert first["read"] == 1


@pytest.mark.usefixtures("settled")
def test_another_stamp_with_the_same_bytes_is_no_change(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 2)
    known = data.inspect_data([folder, folder / "00000.png"])
    (folder / "00000.png").chmod(0o600)
    os.link(folder / "00001.png", tmp_path / "link.png")
    assert data.list_changed(known) == []


WRITER = """
import sys
from pathlib import Path
from attar.pipeline.store.store import Store
store = Store(Path(sys.argv[1]))
for number in range(100):
    store.write_note("data/x.json", {"items": [f"{sys.argv[2]} {number}"] * 2000})
"""


def test_processes_that_write_one_note_leave_it_whole(tmp_path: Path) -> None:
    Store(tmp_path).write_note("data/x.json", {"items": ["first"] * 2000})
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, name]) for name in "ab"]
    while any(writer.poll() is None for writer in writers):
        note = Store(tmp_path).read_note("data/x.json")
        assert note is not None
        assert len(set(note["items"])) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["x.json"]


def test_a_text_that_names_a_file_is_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "points.npz").touch()
    (tmp_path / "folder").mkdir()
    for named in ("points.npz", str(tmp_path / "points.npz")):
        with pytest.raises(StageError, match=rf"'{named}', which is a version, and there is a file.*; write Path"):
            data.inspect_data(["version 1", named], tmp_path)
    for version in ("folder", "", "points", "x" * 5000, "a\0b"):
        assert data.inspect_data([version], tmp_path).items == [version]
    assert data.inspect_data(["points.npz"]).items == ["points.npz"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StageError, match="which is a version"):
        data.inspect_data(["points.npz"])
