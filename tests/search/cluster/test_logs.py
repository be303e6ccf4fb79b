"""The end of a job's log, as the store has it while the job runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attar.pipeline.core.errors import StoreError
from attar.pipeline.shared.remote_files import RemoteFiles
from attar.search.cluster.logs import MOST_BYTES, MOST_LINES, LogTail, keep_log, read_log_end

PATH = "cluster/token-v1.log"


@pytest.fixture
def files(tmp_path: Path) -> RemoteFiles:
    return RemoteFiles((tmp_path / "bucket").as_uri())


def test_the_last_lines_of_a_job_are_read_by_others(tmp_path: Path, files: RemoteFiles) -> None:
    with (tmp_path / "log").open("w+b") as log:
        log.write(b"of an earlier job\n")
        log.flush()
        tail = LogTail(files, PATH, log.fileno())
        for number in range(1000):
            log.write(f"line {number}\n".encode())
        log.flush()
        tail.send()
    lines = read_log_end(files, PATH).splitlines()
    assert lines == [f"line {number}" for number in range(1000 - MOST_LINES, 1000)]
    assert len(files.read(PATH) or b"") == MOST_BYTES


def test_what_an_earlier_job_of_the_process_wrote_is_no_part_of_it(tmp_path: Path, files: RemoteFiles) -> None:
    with (tmp_path / "log").open("w+b") as log:
        log.write(b"of an earlier job\n")
        log.flush()
        tail = LogTail(files, PATH, log.fileno())
        log.write(b"own\n")
        log.flush()
        tail.send()
    assert read_log_end(files, PATH) == "own"


def test_a_stream_that_is_no_file_has_no_log(files: RemoteFiles) -> None:
    reader, writer = os.pipe()
    tail = LogTail(files, PATH, writer)
    tail.send()
    os.close(reader)
    os.close(writer)
    assert read_log_end(files, PATH) == ""


def test_the_log_of_a_job_that_went_well_is_deleted(files: RemoteFiles) -> None:
    files.write(PATH, b"of a process that died")
    with keep_log(files, PATH):
        pass
    assert files.read(PATH) is None


def test_a_log_that_cannot_be_deleted_ends_no_job_that_went_well(files: RemoteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(paths: object) -> None:
        raise StoreError("no answer")

    monkeypatch.setattr(files, "delete", fail)
    done = False
    with keep_log(files, PATH):
        done = True
    assert done
