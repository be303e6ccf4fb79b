"""Debian's package lists: the real parser on lists written here, and what is said where there is no apt-get."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from attar.models.tasks import debian
from attar.pipeline.core.errors import StageError
from tests.support.datasets.debian_lists import paragraph, write


def test_a_package_by_hand(tmp_path: Path) -> None:
    long = "A board game.\n .\n With stones:\n  * black\n  * white".replace("\n ", "\n")
    folder = write(tmp_path, [paragraph("go-data", "contrib/games", f"stones  for Go\n{long}", "go (1.2-3)")])
    (only,) = debian.read_packages(folder)
    assert only == debian.Package("go-data", "go", "games", "stones for Go", "A board game. With stones: * black * white")


def test_a_package_without_a_translation_keeps_its_first_line(tmp_path: Path) -> None:
    folder = write(tmp_path, [paragraph("one", "admin", "first\nMore of it."), paragraph("two", "admin", "second\nMore.")])
    translated = next(folder.glob(debian.name_translations("en")))
    translated.write_text(translated.read_text().split("\n\n")[0])
    one, two = debian.read_packages(folder)
    assert (one.source, one.long) == ("one", "More of it.")
    assert (two.short, two.long) == ("second", "")


def test_what_several_lists_have_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, [paragraph("b", "net", "old\nOld."), paragraph("a", "net", "other\nOther.")], "z_stable")
    write(tmp_path, [paragraph("b", "net", "new\nNew.")], "a_security")
    assert [(each.name, each.short) for each in debian.read_packages(tmp_path)] == [("a", "other"), ("b", "new")]


def test_a_package_without_a_section_is_of_no_topic(tmp_path: Path) -> None:
    package, translation = paragraph("a", "net", "text\nMore.")
    folder = write(tmp_path, [(package.replace("Section: net\n", ""), translation)])
    assert debian.read_packages(folder) == []


def test_lists_without_descriptions_are_not_complete(tmp_path: Path) -> None:
    folder = write(tmp_path / "lists", [paragraph("a", "net", "text\nMore.")])
    assert debian.has_lists(folder)
    next(folder.glob(debian.name_translations("en"))).unlink()
    assert not debian.has_lists(folder)
    assert not debian.has_lists(tmp_path / "nowhere")


def apt(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``apt-get`` of our own on the PATH."""
    file = folder / "apt-get"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_lists_are_fetched_into_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = f"touch {tmp_path}/lists/a_Packages {tmp_path}/lists/a_Translation-en"
    apt(tmp_path, f'test -d {tmp_path}/lists/partial && echo "$@" > {tmp_path}/asked && {made}', monkeypatch)
    debian.update_lists(tmp_path / "lists")
    asked = (tmp_path / "asked").read_text()
    for said in (f"Dir::State::lists={tmp_path}/lists", "Acquire::Languages=en", "Acquire::GzipIndexes=false"):
        assert f"-o {said}" in asked


def test_what_apt_get_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt(tmp_path, "echo 'E: no network' >&2; exit 100", monkeypatch)
    with pytest.raises(StageError, match="E: no network"):
        debian.update_lists(tmp_path / "lists")
    apt(tmp_path, "exit 0", monkeypatch)
    with pytest.raises(StageError, match="exit code 0, "):
        debian.update_lists(tmp_path / "lists")


def test_without_apt_get_it_says_how_to_get_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="no apt-get here"):
        debian.update_lists(tmp_path / "lists")
