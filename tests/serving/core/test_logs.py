"""Logs: lines that a program reads, and the ids of requests in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.serving.core import logs
from attar.serving.core.logs import JsonFormatter, log_fields
from attar.serving.http.message import Reply, Request
from tests.support.serving.serving_parts import Running, asked, running

INFER = "/v2/models/points/infer"


@pytest.fixture
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, access_log=True) as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.message == message]


def test_a_line_is_one_json_object() -> None:
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s\nfell", ("x",), None)
    record.__dict__.update(log_fields(id="7", where=Path("b")))
    told = json.loads(JsonFormatter().format(record))
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "warning", "logger": "a", "message": "x\nfell", "id": "7", "where": "b"}


def test_the_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "failed", (), (ValueError, error, error.__traceback__))
    said = JsonFormatter().format(record)
    assert "\n" not in said
    assert "ValueError: broken" in json.loads(said)["traceback"]


def test_the_id_of_the_header_is_echoed_and_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, _, headers = server.ask("POST", INFER, asked([1, 2], id="inner"), X_Request_ID="outer-1")
    assert headers["x-request-id"] == "outer-1"
    (line,) = lines(caplog, "answered")
    assert (line["id"], line["method"], line["target"], line["status"]) == ("outer-1", "POST", INFER, 200)
    assert line["milliseconds"] > 0


def test_the_id_of_the_protocol_stands_in_where_there_is_no_header(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, told, headers = server.ask("POST", INFER, asked([1, 2], id="inner"))
    assert (told["id"], "x-request-id" in headers) == ("inner", False)
    assert [line["id"] for line in lines(caplog, "answered")] == ["inner"]


def test_an_error_is_logged_with_its_id_and_cause(points_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(points_bundle) as server:
        server.ask("POST", INFER, asked([1, 2]))
        _, _, headers = server.ask("POST", INFER, asked([1, 2, 3]), X_Request_ID="7")
        assert headers["x-request-id"] == "7"
        server.send(b"nonsense\r\n\r\n")
    assert not lines(caplog, "answered")
    wrong, no_http = lines(caplog, "refused")
    assert (wrong["id"], wrong["status"], wrong["cause"], wrong["level"]) == ("7", 400, "bad_request", "warning")
    assert "is not nested as its shape" in wrong["error"]
    assert (no_http["status"], "id" in no_http) == (400, False)


@pytest.mark.parametrize("named", ["a b", "x" * 129, "\u00e9"])
def test_an_id_that_could_confuse_a_reader_is_passed_over(server: Running, named: str) -> None:
    status, _, headers = server.ask("POST", INFER, asked([1, 2]), X_Request_ID=named)
    assert (status, "x-request-id" in headers) == (200, False)


def test_a_kind_of_line_has_its_room_in_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(logs, "monotonic", lambda: now[0])
    limit = logs.LineLimit(lines=2)
    assert [limit.count_line("one") for _ in range(5)] == [0, 0, None, None, None]
    assert limit.count_line("other") == 0
    now[0] = logs.MINUTE
    assert [limit.count_line("one") for _ in range(3)] == [3, 0, None]
    now[0] = 5 * logs.MINUTE
    assert limit.count_line("one") == 1
    assert limit.count_line("other") == 0


@pytest.mark.parametrize("inner", ["x\r\nSet-Cookie: a=b\r\n\r\nHTTP/1.1 200 OK", "\u20ac", "x" * 129])
def test_the_id_of_the_protocol_is_neither_a_header_nor_logged_unless_it_is_plain(
    server: Running, caplog: pytest.LogCaptureFixture, inner: str
) -> None:
    """It was written into the reply's head where the header of the request was not plain."""
    caplog.set_level(logging.INFO)
    status, told, headers = server.ask("POST", INFER, asked([1, 2], id=inner), X_Request_ID="a b")
    assert (status, told["id"], headers.keys() & {"x-request-id", "set-cookie"}) == (200, inner, set())
    assert [line["id"] for line in lines(caplog, "answered")] == [""]


def test_a_reply_that_cannot_be_sent_ends_the_connection_and_is_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: Request) -> Reply:
        return Reply(headers=[("A", "\u20ac")])

    server.server.api.add_route("GET", "/unsendable", answer)
    with pytest.raises(ConnectionError):
        server.ask("GET", "/unsendable")
    (line,) = lines(caplog, "a reply could not be sent")
    assert (line["target"], "UnicodeEncodeError" in line["traceback"]) == ("/unsendable", True)
