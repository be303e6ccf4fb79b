"""What others wrote commands no terminal: records of a shared store, errors, progress."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from attar.cli.console import ProgressView
from attar.cli.main import main
from attar.cli.plain_text import LAYOUT, escape_controls, escape_field
from attar.pipeline.run import Record
from attar.pipeline.shared.store import SharedStore
from tests.support.projects.store_parts import KEY, RECORD, fail_if_waiting
from tests.support.projects.toy import Number

HOSTILE = "x\x1b[2J\x1b]0;mine\x07\x9b31m\u202e\r\n* 0123456789ab  teacher"
"""It clears a terminal, gives it a title, turns red, writes backwards and adds a line."""
SHOWN = r"x\x1b[2J\x1b]0;mine\x07\x9b31m\u202e\r"


def test_control_characters_are_written_out() -> None:
    assert escape_controls(HOSTILE) == SHOWN + "\n* 0123456789ab  teacher"
    assert escape_field(HOSTILE) == SHOWN + r"\n* 0123456789ab  teacher"
    assert escape_controls("score 0.93 ± 0.01\tété 训练\n") == "score 0.93 ± 0.01\tété 训练\n"


@given(st.text())
def test_nothing_is_left_that_is_not_printed(text: str) -> None:
    assert all(each.isprintable() or not each.isascii() or each in LAYOUT for each in escape_controls(text))
    assert escape_controls(escape_controls(text)) == escape_controls(text)


def test_a_hostile_record_of_a_shared_store_is_listed_on_one_line(tmp_path: Path) -> None:
    url = (tmp_path / "bucket").as_uri()
    store = SharedStore(tmp_path / "one", url)
    with store.making(KEY, fail_if_waiting) as payload:
        (payload / "value.json").write_text("1")
        store.share(Number, store.commit(Number, payload, KEY, {"task": HOSTILE}, {**RECORD, "slot": HOSTILE}))
    at = ("--store", url, "--cache", str(tmp_path / "two"))
    listed = CliRunner().invoke(main, ["ls", *at], color=True)
    assert SHOWN in listed.stdout
    assert len(listed.stdout.splitlines()) == 2
    shown = CliRunner().invoke(main, ["show", KEY[:8], *at], color=True)
    assert r"x\u001b[2J" in shown.stdout  # JSON
    wrong = CliRunner().invoke(main, ["show", HOSTILE, *at], color=True)
    assert SHOWN in wrong.stderr
    for told in (listed, shown, wrong):
        assert not set(told.output) & set("\x1b\x07\x9b\u202e\r")


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_a_record_of_another_node_is_shown_as_text(status: str) -> None:
    screen = io.StringIO()
    view = ProgressView(Console(file=screen, width=200), None)
    record = Record("v1 student", "Distill", "failed", HOSTILE, error=HOSTILE)
    view.done(replace(record, status="skipped", error=None) if status == "skipped" else record)
    assert SHOWN in screen.getvalue()
