"""A store in a bucket of a real server: SeaweedFS, which speaks S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from attar.cli.main import main
from attar.pipeline.core.errors import CorruptArtifactError, StoreError
from attar.pipeline.shared.publication import Publication
from attar.pipeline.shared.record_index import IndexedRecord, is_content_of
from attar.pipeline.shared.remote_files import RemoteFiles
from attar.pipeline.shared.store import SharedStore
from tests.support.bundles.signing_parts import pair
from tests.support.processes.seaweed import SeaweedServer, set_variables
from tests.support.projects import tiny
from tests.support.projects.shared_store_parts import find, make, read
from tests.support.projects.store_parts import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
URL = "s3://bucket/team"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    started = SeaweedServer(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        set_variables(patch, started)
        try:
            started.start()
            yield started
        finally:
            started.stop()


def call(folder: Path, *arguments: str, cache: str, url: str = URL) -> Result:
    with tiny.project_folder(folder):
        return CliRunner().invoke(main, [*arguments, "--store", url, "--cache", str(folder / cache)])


def run(folder: Path, cache: str, url: str = URL) -> dict[str, Any]:
    done = call(folder, "run", "recipe.toml", "--json", cache=cache, url=url)
    assert done.exit_code == 0, done.output
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_a_project_begun_on_one_machine_is_finished_on_another_and_remakes_nothing(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    begun = call(tmp_path, "label", "recipe.toml", cache="one")
    assert begun.exit_code == 0, begun.output
    made = tiny.statuses(run(tmp_path, "two"))
    assert {slot for slot, status in made.items() if status == "reused"} == {"teacher", "answers"}
    last = run(tmp_path, "one")
    assert tiny.made_again(last) == []
    assert (Path(last["targets"]["cpu"]["bundle"]) / "manifest.json").is_file()
    fetched = {path.name for path in (tmp_path / "one" / "artifacts").iterdir()}
    wanted = {tiny.entry(last, slot)["key"] for slot in ("teacher", "answers", "cpu.evidence", "cpu.bundle")}
    assert fetched == wanted
    assert "13 artifacts" in call(tmp_path, "ls", cache="three").stdout


def test_a_student_is_trained_on_another_machine_without_the_answers_to_the_test_split(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    for command, cache in (("label", "one"), ("distill", "two")):
        done = call(tmp_path, command, "recipe.toml", cache=cache, url=f"{URL}-parts")
        assert done.exit_code == 0, done.output
    fetched = sorted(path.name for path in (tmp_path / "two" / "parts").glob("*/*"))
    views = [f"train.{view}.00000.safetensors" for view in range(2)]
    assert fetched == [*views, "validation.clean.00000.safetensors"]


def test_who_only_reads_takes_what_its_team_signed(tmp_path: Path) -> None:
    key, stranger, url = pair(tmp_path), pair(tmp_path, "stranger"), f"{URL}-signed"
    tiny.write(tmp_path)
    made = call(
        tmp_path,
        "teach",
        "recipe.toml",
        "--store-trusted",
        str(key.public),
        "--store-key",
        str(key.private),
        cache="one",
        url=url,
    )
    assert made.exit_code == 0, made.output
    for trusted, status in ((key, "reused"), (stranger, "made")):
        given = ("teach", "recipe.toml", "--json", "--store-trusted", str(trusted.public))
        done = call(tmp_path, *given, cache=f"reader-{status}", url=url)
        assert tiny.statuses(json.loads(done.stdout)) == {"teacher": status}
    assert "signed by" in call(tmp_path, "ls", cache="three", url=url).stdout
    listed = call(tmp_path, "ls", "--store-trusted", str(stranger.public), cache="three", url=url)
    assert "not trusted: it names the key" in listed.stdout


def test_of_many_that_add_a_file_at_once_one_does() -> None:
    files = RemoteFiles(f"{URL}-race")
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda maker: files.add("records/x", str(maker).encode()), range(8)))
    assert added.count(True) == 1
    assert files.read("records/x") == str(added.index(True)).encode()


def test_an_object_that_was_flipped_is_found(tmp_path: Path) -> None:
    one, two = (SharedStore(tmp_path / name, f"{URL}-flipped") for name in ("one", "two"))
    record = one.history(make(one).key)
    one.remote.write(f"objects/{record['files']['value.json'][2]}", b"9")
    with pytest.raises(CorruptArtifactError, match=r"value\.json"):
        two.verify(find(two))
    make(two)
    assert read(SharedStore(tmp_path / "three", f"{URL}-flipped")) == 1.0


def test_a_thousand_artifacts_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = SharedStore(tmp_path / "one", f"{URL}-many")
    make(one)
    made = one.find_published(KEY)
    assert made is not None

    def publish(number: int) -> None:
        key = f"{number:064x}"
        copy = Publication(store=made.store, record={**made.record, "key": key}, facts=made.facts)
        one.remote.write(f"records/{key}.json", copy.encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(999)))
    assert len(SharedStore(tmp_path / "two", f"{URL}-many").entries()) == 1000
    three = SharedStore(tmp_path / "three", f"{URL}-many")
    asked: list[str] = []

    def read(path: str, most: int) -> bytes | None:
        asked.append(path)
        return one.remote.read(path, most)

    monkeypatch.setattr(three.remote, "read", read)
    assert len(three.entries()) == len(three.entries()) == 1000
    assert [path.partition("/")[0] for path in asked] == ["index"]


def test_the_server_names_a_content_by_its_sum_so_an_index_cannot_lie(tmp_path: Path) -> None:
    files = RemoteFiles(f"{URL}-sums")
    files.write("records/a.json", b"text")
    (file,) = files.list("records")
    assert is_content_of(file, IndexedRecord(file.tag, "text"))
    assert not is_content_of(file, IndexedRecord(file.tag, "TEXT"))


def test_a_record_is_replaced_by_one_machine_alone() -> None:
    files = RemoteFiles(f"{URL}-replaced")
    files.write("record", b"damaged")
    edition = files.find_edition("record")
    assert edition is not None
    assert (files.replace("record", b"1", edition), files.replace("record", b"2", edition)) == (True, False)
    assert files.read("record") == b"1"
    files.delete(["record"])
    assert not files.replace("record", b"2", edition)


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path) -> None:
    for attempt in (SharedStore(tmp_path, "s3://another/team").entries, lambda: make(SharedStore(tmp_path, "s3://another/team"))):
        with pytest.raises(StoreError, match="no bucket of this name"):
            attempt()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "WRONG-SECRET"}, "refuses these credentials"),
        ({"AWS_ACCESS_KEY_ID": "WRONG-SECRET"}, "refuses these credentials"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials"),
    ],
)
def test_wrong_credentials_are_an_error_that_repeats_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    done = call(tmp_path, "show", "abc", "-v", cache="one")
    assert done.exit_code == StoreError.exit_code
    assert named in done.stderr
    assert "SECRET" not in done.output


def test_a_server_that_is_gone_and_comes_back_gets_what_was_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = SeaweedServer(tmp_path / "server")
    own.folder.mkdir()
    set_variables(monkeypatch, own)
    try:
        own.start()
        one = SharedStore(tmp_path / "one", URL)
        assert one.find(type(make(one, "b" * 64)), KEY) is None
        own.stop()
        with pytest.raises(StoreError, match="is the server up"):
            make(one)
        own.start()
        assert find(one).value() == 1.0
        one.share(type(find(one)), find(one))
        assert {entry.key for entry in SharedStore(tmp_path / "two", URL).entries()} == {KEY, "b" * 64}
    finally:
        own.stop()


def test_a_server_that_is_full_shows_nothing_of_what_it_did_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = SeaweedServer(tmp_path / "server", volumes=1)
    own.folder.mkdir()
    set_variables(monkeypatch, own)
    try:
        own.start()
        with pytest.raises(StoreError, match="cannot do it"):
            make(SharedStore(tmp_path / "one", URL), value="1" + " " * 60_000_000)
        assert find(SharedStore(tmp_path / "one", URL)).value() == 1.0
        assert SharedStore(tmp_path / "two", URL).entries() == []
    finally:
        own.stop()
