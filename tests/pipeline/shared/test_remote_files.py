"""URLs of shared stores, and what is said when a server refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import AzureStore

from attar.pipeline.core.errors import MissingDependencyError, RecipeError, StoreError
from attar.pipeline.shared.remote_files import RemoteFiles, check_url, find_reason, is_url


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "gs://b/a", "az://container/a", "file:///a"])
def test_urls_are_taken_without_a_slash_at_their_end(url: str) -> None:
    assert is_url(url)
    assert check_url(f"{url}/") == url


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("s33://bucket/a", "did you mean 's3'"),
        ("http://host/a", "known: az, file, gs, s3"),
        ("s3:/bucket/a", "s3://BUCKET/PREFIX"),
        ("s3:///a", "s3://BUCKET/PREFIX"),
        ("az:///a", "az://CONTAINER/PREFIX"),
        ("file://folder/a", "file:///FOLDER"),
        ("file:///", "file:///FOLDER"),
        ("s3://[x", "s3://BUCKET/PREFIX"),
    ],
)
def test_a_typo_in_a_url_is_named(url: str, named: str) -> None:
    assert is_url(url)
    with pytest.raises(RecipeError, match=named):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/a",
        "s3:/KEY:SECRET@bucket/a",
        "s3:///KEY:SECRET@bucket",
        "az://a/c/p?sig=SECRET",
        "s5://b#SECRET",
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RecipeError, match="environment") as caught:
        check_url(url)
    assert "SECRET" not in str(caught.value)


def test_folders_are_no_urls() -> None:
    assert not any(is_url(text) for text in (".attar", "/a/b", "a:b", "..", "c"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Error performing PUT http://169.254.169.254/latest/api/token", "no credentials"),
        ("Account must be specified", "no credentials"),
        ("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", r"refuses.*SignatureDoesNotMatch"),
        ("status code: 404 Not Found: <Code>NoSuchBucket</Code>", "no bucket"),
        ("No space left on device (os error 28)", "No space left"),
        ("Server returned non-2xx status code: 507 Insufficient Storage", r"cannot do it \(507\)"),
        ("HTTP error: error sending request", "is the server up"),
    ],
)
def test_a_reason_says_what_to_do_and_repeats_no_request(text: str, reason: str) -> None:
    found = find_reason(GenericError(f"{text} ?sig=SECRET\n\nDebug source: SECRET 403 Forbidden"))
    assert re.search(reason, found)
    assert "SECRET" not in found
    assert "refuses" in find_reason(PermissionDeniedError("lacked the necessary privileges"))


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingDependencyError, match=r"attar\[remote\]"):
        RemoteFiles(tmp_path.as_uri())


def test_azure_s_account_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match="environment"):
        RemoteFiles("az://container/pre/fix").read("a")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    server = RemoteFiles("az://container/pre/fix").server
    assert isinstance(server, AzureStore)
    assert (server.config["container_name"], server.prefix) == ("container", "pre/fix")


def test_files_are_added_once_read_listed_and_deleted(tmp_path: Path) -> None:
    files = RemoteFiles((tmp_path / "new").as_uri())
    assert files.read("a/one") is None
    assert (files.add("a/one", b"1"), files.add("a/one", b"2")) == (True, False)
    files.write("a/two", b"22")
    assert files.read("a/one") == b"1"
    assert (files.has("a/two"), files.has("a/three")) == (True, False)
    assert sorted((file.name, file.size) for file in files.list("a")) == [("one", 1), ("two", 2)]
    assert files.list("b") == []
    files.delete(["a/gone", "a/one", "a/two"])
    assert files.list("a") == []
    files.delete(["a/gone"])


def test_a_place_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/bucket"):
        RemoteFiles((tmp_path / "file" / "bucket").as_uri()).write("a", b"1")


def test_many_files_are_read_in_their_order_and_one_that_is_not_there_is_none(tmp_path: Path) -> None:
    files = RemoteFiles(tmp_path.as_uri())
    for number in range(100):
        files.write(f"notes/{number}", str(number).encode())
    names = [f"notes/{number}" for number in (7, 500, *range(100))]
    assert files.read_all(names) == [b"7", None, *(str(number).encode() for number in range(100))]
    assert files.read_all([]) == []
