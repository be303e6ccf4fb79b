"""A signed bundle in a folder that others may write: what is opened is what was verified, and no copy is left behind."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import attar
from attar.bundle import checksums
from attar.bundle.checksums import SIGNATURE, Checksums
from attar.bundle.finish import finish_bundle
from attar.bundle.opening import check_bundle
from attar.bundle.private_copy import MARKER, PrivateFolder, copy_file
from attar.bundle.sign import sign_bundle
from attar.bundle.verified import open_sealed, read_manifest
from attar.cli.main import main
from attar.pipeline.core.errors import InvalidBundleError
from tests.support.bundles.packaging import edit_manifest, package_unfinished
from tests.support.bundles.signing_parts import KeyPair, pair
from tests.support.proof.proof_parts import STUDENT, write_graph
from tests.support.serving.serving_parts import INFER, another, asked, loaded_version, running, wait_for_new_version

ENGINE = Path("engines/onnxruntime/model.onnx")
POINT = np.array([[1, 2]], np.float32)
ANSWER = [2.0, 4.5, -4.0]
"""The student's, by hand."""
OPENING = "import attar, sys; model = attar.open(sys.argv[1], trusted=sys.argv[2]); print('open', flush=True); "


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return pair(tmp_path)


@pytest.fixture
def signed(points_bundle: Path, tmp_path: Path, key: KeyPair) -> Path:
    bundle = Path(shutil.copytree(points_bundle, tmp_path / "shared"))
    sign_bundle(bundle, key.private)
    return bundle


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def copies(temporary: Path) -> list[Path]:
    return list(temporary.glob("attar-*"))


def swap_when_verified(monkeypatch: pytest.MonkeyPatch, bundle: Path, swap: Callable[[Path], object]) -> None:
    """Somebody who may write the folder changes it as soon as all of it was verified."""
    verify = checksums.verify_checksums

    def late(folder: Path, seal: Checksums, *more: Callable[[str], str]) -> None:
        verify(folder, seal, *more)
        if folder == bundle:
            swap(bundle)

    monkeypatch.setattr(checksums, "verify_checksums", late)


def write_opposite(bundle: Path) -> None:
    """A model that answers the opposite, and its own golden answers."""
    write_graph(bundle / ENGINE, -STUDENT)
    tensors = load_file(bundle / "golden.safetensors")
    save_file({**tensors, "engine.logits": -tensors["engine.logits"]}, bundle / "golden.safetensors")
    (bundle / "reference" / "model.onnx").write_bytes(b"no graph")


def test_what_was_verified_answers(signed: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    swap_when_verified(monkeypatch, signed, write_opposite)
    with attar.open(signed, trusted=key.public) as predict:
        assert predict({"x": POINT})["logits"].tolist() == [ANSWER]


def test_what_was_verified_is_checked(signed: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    swap_when_verified(monkeypatch, signed, lambda bundle: (bundle / "graphs" / "model.onnx").write_bytes(b"no graph"))
    assert check_bundle(signed, key.public)["signature"] == "valid"


def test_what_was_verified_is_finished(tmp_path: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished, done = package_unfinished(tmp_path), tmp_path / "done"
    sign_bundle(unfinished, key.private)
    threads = read_manifest(unfinished).engine.threads
    swap_when_verified(
        monkeypatch, unfinished, lambda bundle: edit_manifest(bundle, lambda found: found["engine"].update(threads=7))
    )
    finish_bundle(unfinished, done, key.public)
    assert read_manifest(done).engine.threads == threads


def test_a_watched_bundle_that_is_swapped_while_it_is_loaded(
    signed: Path, key: KeyPair, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = another(signed, tmp_path / "newer")
    sign_bundle(newer, key.private)
    with running(signed, trusted=key.public, watch=0.05, shadow="fp32") as server:
        before = loaded_version(server)
        swap_when_verified(monkeypatch, signed, write_opposite)
        shutil.copytree(newer, signed, dirs_exist_ok=True)
        wait_for_new_version(server, before)
        status, told, _ = server.ask("POST", INFER, asked([1, 2]))
        assert (status, told["outputs"][0]["data"]) == (200, ANSWER)
    assert copies(temporary) == []


def test_external_data_and_the_tokenizers_lie_beside_what_reads_them(signed: Path, key: KeyPair) -> None:
    model = onnx.load(signed / ENGINE)
    (signed / ENGINE).unlink()
    onnx.save(model, signed / ENGINE, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    checksums.write_checksums(signed)
    sign_bundle(signed, key.private)
    with attar.open(signed, trusted=key.public) as predict:
        assert predict({"x": POINT})["logits"].tolist() == [ANSWER]


def test_equal_files_take_room_once(signed: Path, key: KeyPair) -> None:
    """A bundle holds its graphs, or its engine, for Triton again."""
    with open_sealed(signed, key.public) as found:
        ours, tritons = found.root / "graphs" / "model.onnx", next(found.root.glob("triton/*/1/model.onnx"))
        assert ours.samefile(tritons)


# -- whose the copy is, and when it goes -------------------------------------------------------------------------------


def test_a_copy_is_its_users_alone_and_goes_with_the_bundle(signed: Path, key: KeyPair, temporary: Path) -> None:
    with attar.open(signed, trusted=key.public):
        (folder,) = copies(temporary)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert copies(temporary) == []
    with pytest.raises(InvalidBundleError, match="is signed by no key"):
        attar.open(signed, trusted=pair(temporary.parent, "stranger").public)
    (signed / "README.md").write_text("mine\n")
    with pytest.raises(InvalidBundleError, match=rf"{signed} .*README\.md"):
        attar.open(signed, trusted=key.public)
    assert copies(temporary) == []


def test_a_user_is_told_of_the_bundle_and_not_of_its_copy(signed: Path, key: KeyPair, temporary: Path) -> None:
    (signed / ENGINE).write_bytes(b"no graph")
    checksums.write_checksums(signed)
    sign_bundle(signed, key.private)
    with pytest.raises(InvalidBundleError, match=f"{signed} .*{signed / ENGINE}"):
        attar.open(signed, trusted=key.public)
    assert copies(temporary) == []


def test_another_folder_in_the_place_of_a_copy_is_not_read(temporary: Path) -> None:
    """In a folder that is not sticky others may rename what is not theirs."""
    folder = PrivateFolder()
    (folder.path / "engine").write_text("ours")
    (place,) = copies(temporary)
    place.rename(temporary / "away")
    place.mkdir()
    (place / "engine").write_text("theirs")
    assert (folder.path / "engine").read_text() == "ours"
    folder.close()
    assert (place / "engine").read_text() == "theirs"


def test_what_is_no_copy_stays_whatever_it_is_called(signed: Path, key: KeyPair, temporary: Path) -> None:
    notes, bundle = temporary / "attar-bundle-notes", temporary / "attar-bundle-cpu"
    notes.mkdir(0o700)
    (notes / "thesis.txt").write_text("mine")
    shutil.copytree(signed, bundle)
    bundle.chmod(0o700)
    (temporary / "attar-bundle-cpu.tar.gz").write_text("mine")
    (temporary / "attar-bundle-link").symlink_to(notes)
    before = sorted(temporary.rglob("*"))
    with attar.open(bundle, trusted=key.public) as predict:
        assert predict({"x": POINT})["logits"].tolist() == [ANSWER]
    assert sorted(temporary.rglob("*")) == before


def test_what_was_put_into_a_copy_stays(temporary: Path) -> None:
    folder = PrivateFolder()
    (place,) = copies(temporary)
    (place / "thesis.txt").write_text("mine")
    folder.close()
    assert list(temporary.rglob("*")) == [place, place / "thesis.txt"]


def test_a_copy_whose_removal_was_cut_short_goes_with_the_next(temporary: Path) -> None:
    left = temporary / "attar-bundle-left"
    left.mkdir(0o700)
    (left / MARKER).touch()
    PrivateFolder().close()
    assert copies(temporary) == []


def test_what_a_killed_process_left_goes_at_the_next_opening_and_what_is_in_use_stays(
    signed: Path, key: KeyPair, temporary: Path
) -> None:
    command = [sys.executable, "-c", OPENING + "input()", str(signed), str(key.public)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"open\n"
        (left,) = copies(temporary)
        with attar.open(signed, trusted=key.public):
            assert left.exists()
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
    assert copies(temporary) == [left]
    with attar.open(signed, trusted=key.public):
        assert not left.exists()


def test_who_forgets_to_close_leaves_nothing(signed: Path, key: KeyPair, temporary: Path) -> None:
    subprocess.run([sys.executable, "-c", OPENING, signed, key.public], check=True, capture_output=True)
    assert copies(temporary) == []


def test_a_child_that_ends_takes_nothing_from_its_parent(temporary: Path) -> None:
    forking = (
        "import os, sys; from attar.bundle.private_copy import PrivateFolder; folder = PrivateFolder()\n"
        "if not os.fork(): sys.exit()\n"
        "os.wait(); print(folder.path.exists(), len(os.listdir(os.environ['TMPDIR'])))"
    )
    done = subprocess.run([sys.executable, "-c", forking], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, copies(temporary)) == ("True 1\n", [])


# -- where there is no room --------------------------------------------------------------------------------------------


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file may become longer than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_is_told_and_nothing_is_left(signed: Path, key: KeyPair, temporary: Path) -> None:
    with limited_files(1000):
        done = CliRunner().invoke(main, ["check", str(signed), "--trusted", str(key.public)])
    told = f"error: {signed} cannot be copied to where nobody else can change it: File too large; set TMPDIR to"
    assert (done.exit_code, done.stderr.startswith(told)) == (4, True), done.stderr
    assert copies(temporary) == []


def test_what_is_not_as_it_was_sealed_takes_no_room(signed: Path, key: KeyPair, temporary: Path) -> None:
    limit = max(path.stat().st_size for path in signed.rglob("*")) + 1
    os.truncate(signed / "manifest.json", 2 * limit)
    with limited_files(limit), pytest.raises(InvalidBundleError, match=r"manifest\.json was changed"):
        attar.open(signed, trusted=key.public)
    assert copies(temporary) == []


def test_a_file_that_changes_when_it_was_hashed_is_noticed_and_takes_no_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"ours")
    expected, find_digest = checksums.sha256(source), hashlib.file_digest

    def late(file: FileIO, kind: str) -> Any:
        found = find_digest(file, kind)
        source.write_bytes(b"theirs, and much longer")
        return found

    monkeypatch.setattr(hashlib, "file_digest", late)
    assert copy_file(source, target, expected) == hashlib.sha256(b"thei").hexdigest()
    assert target.read_bytes() == b"thei"


def test_a_folder_for_temporary_files_that_takes_none(signed: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(InvalidBundleError, match="set TMPDIR"):
        attar.open(signed, trusted=key.public)


def test_who_asks_for_no_signature_needs_no_room(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    (signed / SIGNATURE).unlink()
    with attar.open(signed) as predict:
        assert predict.manifest.name == "points"
