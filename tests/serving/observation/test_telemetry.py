"""Telemetry: what Prometheus reads after requests that went well and others."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from attar.serving.observation.telemetry import RECENT, SECONDS, BucketCounts
from tests.support.serving.serving_parts import Running, asked, running, slow

INFER = "/v2/models/points/infer"


@pytest.fixture
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle) as made:
        yield made


def test_nothing_was_asked_yet(server: Running) -> None:
    (info,) = [each for family in server.scrape() for each in family.samples if each.name == "attar_model_info"][:1]
    told = server.ask("GET", "/v2/models/points")[1]
    assert (info.labels["model"], info.labels["version"]) == ("points", told["versions"][0])
    assert (info.labels["runtime"], info.labels["precision"], info.labels["gates"]) == ("onnxruntime", "fp32", "passed")
    assert server.metric("attar_model_ready", model="points-raw") == 1
    assert server.metric("attar_queue_requests") == 0
    assert server.metric("attar_requests_total") == 0
    assert server.metric("process_resident_memory_bytes") > 1e6


def test_requests_rows_batches_and_phases(server: Running) -> None:
    for body in (asked([1, 2]), asked([1, 2], [3, 4], [5, 6])):
        assert server.ask("POST", INFER, body)[0] == 200
    assert server.ask("POST", "/v2/models/points-raw/infer", asked([1, 2]))[0] == 200
    version = server.ask("GET", "/v2/models/points")[1]["versions"][0]
    assert server.metric("attar_requests_total", model="points", version=version, outcome="ok") == 2
    assert server.metric("attar_requests_total", model="points-raw", outcome="ok") == 1
    assert server.metric("attar_rows_total", model="points") == 4
    assert server.metric("attar_batch_rows_bucket", model="points", le="1.0") == 1
    assert server.metric("attar_batch_rows_bucket", model="points", le="4.0") == 2
    assert server.metric("attar_batch_rows_sum", model="points") == 4
    assert server.metric("attar_batch_rows_sum", model="points-raw") == 1
    spent = {
        phase: server.metric("attar_request_seconds_sum", model="points-raw", phase=phase)
        for phase in ("prepare", "queue", "compute", "total")
    }
    assert spent["prepare"] > 0
    assert spent.pop("total") == pytest.approx(sum(spent.values()))
    assert server.metric("attar_request_seconds_count", model="points", phase="total") == 2


def test_more_requests_than_are_counted_together(server: Running) -> None:
    """Most of them are folded on the way, the rest when the page is asked for."""
    count = RECENT // 4 + 10
    server.send(infer_many(count))
    assert server.metric("attar_requests_total", outcome="ok") == count
    assert server.metric("attar_request_seconds_bucket", phase="compute", le="+Inf") == count


def infer_many(count: int) -> bytes:
    body = json.dumps(asked([1, 2])).encode()
    one = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
    return (one + b"\r\n" + body) * (count - 1) + one + b"Connection: close\r\n\r\n" + body


def test_errors_by_cause_with_and_without_a_model(server: Running) -> None:
    assert server.ask("POST", INFER, b"nonsense")[0] == 400
    assert server.ask("POST", "/v2/models/lines/infer", asked([1, 2]))[0] == 404
    assert server.ask("PUT", INFER)[0] == 405
    server.send(b"nonsense\r\n\r\n")
    assert server.metric("attar_requests_total", model="points", outcome="bad_request") == 1
    assert server.metric("attar_requests_total") == 1
    found = {cause: server.metric("attar_errors_total", cause=cause) for cause in ("bad_request", "not_found", "not_allowed")}
    assert found == {"bad_request": 2, "not_found": 1, "not_allowed": 1}


def test_what_grpc_refuses_counts_too(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0) as server, triton.InferenceServerClient(server.grpc_url) as client:
        with pytest.raises(InferenceServerException, match="lines"):
            client.get_model_metadata("lines")
        assert server.metric("attar_errors_total", cause="not_found") == 1


def test_a_client_that_went_away(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.2)
    with running(points_bundle, instances=1) as server:
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
        with socket.create_connection((server.host, server.port)) as raw:
            raw.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.05)
        time.sleep(0.05)
        assert server.metric("attar_requests_total", outcome="client_gone") == 1
        assert server.metric("attar_errors_total") == 0


def test_open_metrics_where_it_is_asked_for(server: Running) -> None:
    server.ask("POST", INFER, asked([1, 2]))
    (family,) = [each for each in server.scrape("application/openmetrics-text; version=1.0.0") if each.name == "attar_requests"]
    assert (family.type, family.samples[0].value) == ("counter", 1)


def test_two_servers_do_not_mix(points_bundle: Path) -> None:
    with running(points_bundle) as one, running(points_bundle) as other:
        one.ask("POST", INFER, asked([1, 2]))
        assert (one.metric("attar_requests_total"), other.metric("attar_requests_total")) == (1, 0)


@given(st.lists(st.floats(0, 100) | st.sampled_from(SECONDS)), st.integers(0, 5))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[float], first: int) -> None:
    made = BucketCounts(SECONDS)
    for part in (values[:first], values[first:]):
        made.add(np.array(part, np.float64), np.ones(len(part), np.int64))
    assert made.list_buckets() == [
        *((str(bound), sum(value <= bound for value in values)) for bound in SECONDS),
        ("+Inf", len(values)),
    ]
    assert made.total == pytest.approx(sum(values))
