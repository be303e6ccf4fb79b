"""Bench of a server: what it measures, and whom it does not measure."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from attar.models.task import Predict
from attar.pipeline.core.errors import AttarError
from attar.serving.load import server as servers
from attar.serving.load.client import Address, parse_address, read_bearer, read_outputs
from attar.serving.load.load import Outcome
from attar.serving.load.server import LoadSpec, bench_server, draw_figure, format_table
from tests.support.serving.serving_parts import running, wrapped

ASKED = LoadSpec(batches=(1, 8), connections=(1, 2), seconds=0.05)


def test_a_server_is_measured_in_both_loops_and_forms(points_bundle: Path) -> None:
    with running(points_bundle) as server:
        facts = bench_server(points_bundle, f"http://{server.url}", ASKED)
    shown = [(row["loop"], row["form"], row["batch"], row["connections"]) for row in facts["rows"]]
    each = [("closed", 1), ("closed", 2), ("open", 2)]
    assert shown == [(loop, form, batch, c) for form in ("json", "binary") for batch in (1, 8) for loop, c in each]
    for row in facts["rows"]:
        assert row["errors"] == {}
        assert 0 < row["p50"] <= row["p99"]
    json.dumps(facts, allow_nan=False)
    lines = format_table(facts).splitlines()
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert lines[1].split()[:4] == ["closed", "json", "1", "1"]
    assert draw_figure(facts) == draw_figure(facts)
    drawn = ET.fromstring(draw_figure(facts))  # noqa: S314  # our own
    assert sum(part.tag.endswith("circle") for part in drawn.iter()) == len(facts["rows"])


def test_rates_that_are_asked_for(points_bundle: Path) -> None:
    with running(points_bundle) as server:
        facts = bench_server(points_bundle, f"http://{server.url}", LoadSpec((1,), (1,), (200.0, 400.0), 0.1))
    assert [row["asked_rate"] for row in facts["rows"] if row["loop"] == "open"] == [200, 400] * 2


def test_another_model_is_not_measured(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(predict: Predict) -> Predict:
        return lambda inputs: {name: array + 1 for name, array in predict(inputs).items()}

    wrapped(monkeypatch, off)
    with running(points_bundle) as server:
        with pytest.raises(AttarError, match="does not give this bundle's answers"):
            bench_server(points_bundle, f"http://{server.url}", ASKED)
        with pytest.raises(AttarError, match=r"404.*nobody"):
            bench_server(points_bundle, f"http://{server.url}", LoadSpec(batches=(1,), model="nobody"))


def test_nobody_there(points_bundle: Path) -> None:
    with pytest.raises(AttarError, match=r"no answer from 127\.0\.0\.1:1"):
        bench_server(points_bundle, "http://127.0.0.1:1", ASKED)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_model_that_is_not_loaded(scheme: str, points_bundle: Path) -> None:
    """The server is there, and says why it does not answer."""
    with running(points_bundle, grpc_port=0) as server:
        server.call(server.server.repository.unload("points"))
        where = f"http://{server.url}" if scheme == "http" else f"grpc://{server.grpc_url}"
        with pytest.raises(AttarError, match=r"answered .* with (503|UNAVAILABLE): .*points is not loaded: unloaded"):
            bench_server(points_bundle, where, ASKED)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_name_that_nobody_knows(scheme: str, points_bundle: Path) -> None:
    with pytest.raises(AttarError, match=r"no answer from nobody\.invalid:1: .*start `attar serve`"):
        bench_server(points_bundle, f"{scheme}://nobody.invalid:1", ASKED)


def test_addresses() -> None:
    assert parse_address("http://[::1]:8000/") == Address("::1", 8000)
    assert str(Address("::1", 80)) == "[::1]:80"
    assert parse_address("https://host") == Address("host", 443, "https")
    assert parse_address("grpcs://host:1") == Address("host", 1, "grpcs")


@pytest.mark.parametrize(
    "wrong",
    [
        *("ftp://host:1", "host:1", "http://host:x", "http://host:0", "grpc://host", "http://", "http://:1"),
        *("http://host/v2", "http://host?a", "http://host:1#a", "http://me@host:1", "http://:secret@host:1"),
    ],
)
def test_what_is_no_address(wrong: str) -> None:
    with pytest.raises(AttarError, match="expected http://HOST:PORT"):
        parse_address(wrong)


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery\nanother-one-of-them\n")
    assert read_bearer(file) == {"Authorization": "Bearer correct-horse-battery"}
    assert read_bearer(None) == {}


@pytest.mark.parametrize("content", [b"", b"\n", b"secret", "пароль-пароль-пароль".encode(), b"\xff\xfe" * 20])
def test_a_file_without_a_token(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(AttarError, match="holds no token; its first line is sent: 16 characters or more") as told:
        LoadSpec.with_token(file)
    assert "secret" not in str(told.value)


def test_what_the_generator_takes_is_shared_by_all_requests() -> None:
    """Refused ones among them: 20 ms for 4 are 5000 µs each, and where there was none there is nothing to tell."""
    found = Outcome(np.array([0.1]), 1.0, {"404": 3}, 0.5, 0.02)
    made = servers.make_row("closed", found, form="json", batch=1, connections=2)
    assert made["cpu"] == pytest.approx(5000)
    assert servers.format_line(made).split()[-3:] == ["5,000", "3", "404"]
    none = servers.make_row("closed", Outcome(np.array([]), 1.0, {}, 0.5, 0.02), form="json", batch=1, connections=2)
    assert "cpu" not in none
    assert servers.format_line(none).split()[-3:] == ["-", "-", "none"]


def test_what_is_no_answer() -> None:
    with pytest.raises(AttarError, match="not one of the Open Inference Protocol"):
        read_outputs(b'{"outputs": [{"name": "y"}]}', 28)
