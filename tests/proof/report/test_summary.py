"""The summary of a CI step: appended whole, within what GitHub shows, or said to be left out."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attar.pipeline.core.errors import StageError
from attar.proof.report.formats import summary
from attar.proof.report.formats.markdown import render_markdown
from tests.support.proof.report_records import Made, broke, run_records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    return run_records(tmp_path_factory.mktemp("store"), broken=True)


def named(file: Path) -> dict[str, str]:
    return {summary.VARIABLE: str(file), "HOME": "/"}


def test_nothing_is_written_where_no_file_is_named(records: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary.append_summary(records, "fashion", {})
    summary.append_summary(records, "fashion", {summary.VARIABLE: ""})
    assert list(tmp_path.iterdir()) == []


def test_appends_the_whole_report_after_an_empty_line(records: list[Made], tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    said = render_markdown(records, "fashion")
    summary.append_summary(records, "fashion", named(file))
    assert file.read_text(encoding="utf-8") == said
    file.write_text("| a table |", encoding="utf-8")
    for _ in range(2):
        summary.append_summary(records, "fashion", named(file))
    assert file.read_text(encoding="utf-8") == f"| a table |\n\n{said}\n\n{said}"


def test_what_does_not_fit_is_named_with_its_verdicts(records: list[Made], tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    summary.append_summary(broke(records, "cpu.bundle", "wörd " * 200_000), "fashion <b>", named(file))
    assert file.read_text(encoding="utf-8") == (
        "# fashion \\<b\\>\n\ncpu failed. The rest is left out, for GitHub shows at most 1,048,576 bytes of a step; "
        "`attar report` writes it whole.\n"
    )


def test_the_limit_is_that_of_all_that_stands_there(records: list[Made], tmp_path: Path) -> None:
    """In bytes: to the last one the report is whole, then it is named, and nothing is ever above the limit."""
    file = tmp_path / "summary.md"
    size = len(render_markdown(records, "fashion").encode())
    for room, whole in ((size, True), (size - 1, False)):
        file.write_bytes(b"x" * (summary.MAX_SUMMARY_BYTES - room - 2))
        summary.append_summary(records, "fashion", named(file))
        assert ("All 16 gates" in file.read_text(encoding="utf-8")) is whole
        assert file.stat().st_size <= summary.MAX_SUMMARY_BYTES


def test_a_full_summary_is_said(records: list[Made], tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_bytes(b"x" * (summary.MAX_SUMMARY_BYTES - 10))
    with pytest.raises(StageError, match="no room for fashion"):
        summary.append_summary(records, "fashion", named(file))
    assert file.stat().st_size == summary.MAX_SUMMARY_BYTES - 10


@pytest.mark.parametrize("name", [".", "missing/summary.md"])
def test_a_file_that_cannot_be_written_is_said(records: list[Made], tmp_path: Path, name: str) -> None:
    with pytest.raises(StageError, match="GITHUB_STEP_SUMMARY") as raised:
        summary.append_summary(records, "fashion", named(tmp_path / name))
    assert isinstance(raised.value.__cause__, OSError)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """What a full disk does: writing takes bytes up to here, then fails."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_half_a_report_is_taken_back(records: list[Made], tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before", encoding="utf-8")
    with largest_file(500), pytest.raises(StageError, match="File too large"):
        summary.append_summary(records, "fashion", named(file))
    assert file.read_text(encoding="utf-8") == "before"


def test_what_does_not_fit_may_have_reached_no_target(tmp_path: Path) -> None:
    file = tmp_path / "summary.md"
    teacher = Made("teacher", "Teach", status="failed", error="no " * 400_000, exit_code=1)
    summary.append_summary([teacher], "fashion", named(file))
    assert file.read_text(encoding="utf-8").startswith("# fashion\n\nno target was reached. The rest is left out")
