"""``--store`` takes a folder or a URL, and ``--cache`` the folder in front of a URL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import attar
from attar.cli.main import main
from attar.pipeline.core.errors import MissingDependencyError, RecipeError, StoreError
from attar.pipeline.shared.record_trust import RecordTrust
from attar.pipeline.shared.store import SharedStore
from tests.support.bundles.signing_parts import pair
from tests.support.projects import tiny
from tests.support.projects.shared_store_parts import make
from tests.support.projects.store_parts import KEY


@pytest.mark.parametrize("command", [("ls",), ("gc",), ("show", "abc"), ("plan", "demo"), ("run", "demo")])
def test_a_url_with_a_typo_ends_every_command_before_it_does_anything(command: tuple[str, ...], tmp_path: Path) -> None:
    with tiny.project_folder(tmp_path):
        done = CliRunner().invoke(main, [*command, "--store", "s33://bucket/a"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (RecipeError.exit_code, [])
    assert "did you mean 's3'" in done.stderr


def test_a_cache_belongs_to_a_url(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ls", "--store", str(tmp_path / "a"), "--cache", str(tmp_path / "b")])
    assert done.exit_code == RecipeError.exit_code
    assert "--cache" in done.stderr


def test_a_store_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["ls", "--store", str(tmp_path / "file")])
    assert done.exit_code == 2
    assert "is a file" in done.stderr


def test_ls_and_show_know_what_another_machine_made(tmp_path: Path) -> None:
    url = (tmp_path / "bucket").as_uri()
    make(SharedStore(tmp_path / "one", url))
    given = ("--store", url, "--cache", str(tmp_path / "two"))
    assert "not fetched" in CliRunner().invoke(main, ["ls", *given]).stdout
    (row,) = json.loads(CliRunner().invoke(main, ["ls", "--json", *given]).stdout)["artifacts"]
    assert (row["key"], row["here"]) == (KEY, False)
    assert json.loads(CliRunner().invoke(main, ["show", KEY[:8], *given]).stdout)["facts"] == {"n": 1}
    assert CliRunner().invoke(main, ["show", KEY[:8], "--verify", *given]).exit_code == 0
    assert "not fetched" not in CliRunner().invoke(main, ["ls", *given]).stdout


def test_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    done = CliRunner().invoke(main, ["ls", "--store", (tmp_path / "bucket").as_uri()])
    assert done.exit_code == MissingDependencyError.exit_code
    assert "attar[remote]" in done.stderr


def test_a_program_gives_the_url_as_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--cache"):
        attar.run("demo", store=tmp_path / "store", cache=tmp_path / "cache")
    with pytest.raises(RecipeError, match="did you mean 's3'"):
        attar.run("demo", store="s33://bucket/a")


def test_ls_says_who_signed_and_the_file_of_keys_is_looked_at(tmp_path: Path) -> None:
    url, key, stranger = (tmp_path / "bucket").as_uri(), pair(tmp_path), pair(tmp_path, "stranger")
    make(SharedStore(tmp_path / "one", url, RecordTrust.read(key.public, key.private)))
    given = ("--store", url, "--cache", str(tmp_path / "two"))
    (row,) = json.loads(CliRunner().invoke(main, ["ls", "--json", *given]).stdout)["artifacts"]
    assert row["distrust"] is None
    assert f"signed by {row['signed_by']}" in CliRunner().invoke(main, ["ls", *given]).stdout
    stranger.public.chmod(0o666)
    stranger.private.chmod(0o644)
    variables = {"ATTAR_STORE_TRUSTED": str(stranger.public), "ATTAR_STORE_KEY": str(stranger.private)}
    done = CliRunner().invoke(main, ["ls", *given], env=variables)
    assert "not trusted: it names the key" in done.stdout
    assert "others may write" in done.stderr
    assert "others may read" in done.stderr
    done = CliRunner().invoke(main, ["show", KEY[:8], *given], env=variables)
    assert done.exit_code == StoreError.exit_code
    assert "have it signed" in done.stderr
