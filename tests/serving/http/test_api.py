"""The protocol over HTTP, spoken by Triton's own client and by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from attar.serving.models.service import EXTENSIONS
from tests.support.proof.proof_parts import STUDENT
from tests.support.serving.serving_parts import Running, asked, running, slow, triton_client

HEADER = "Inference_Header_Content_Length"


@pytest.fixture(scope="module")
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, max_body=2000, model_control=True) as made:
        yield made


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with triton_client(server.url) as made:
        yield made


def input_of(rows: Any, binary: bool = True) -> list[Any]:
    content = np.array(rows, np.float32)
    made = triton.InferInput("x", list(content.shape), "FP32")
    made.set_data_from_numpy(content, binary_data=binary)
    return [made]


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("points")
    assert not client.is_model_ready("lines")
    assert client.get_server_metadata() == {"name": "attar", "version": "0.1.0", "extensions": list(EXTENSIONS)}
    told = client.get_model_metadata("points")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert (told["platform"], told["properties"]["gates"]) == ("onnxruntime", "passed")
    (version,) = told["versions"]
    assert client.get_model_metadata("points", version) == told
    assert client.is_model_ready("points", version)
    assert client.get_model_config("points-raw")["max_batch_size"] == 8


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, sent: bool, back: bool, compression: str | None) -> None:
    rows = np.array([[1, 2], [3, 4.5]])
    output = triton.InferRequestedOutput("logits", binary_data=back)
    found = client.infer(
        "points",
        input_of(rows, sent),
        outputs=[output],
        request_id="7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert np.allclose(found.as_numpy("logits"), rows @ STUDENT)
    assert (found.get_response()["id"], found.get_response()["model_name"]) == ("7", "points")


def test_raw_inputs_are_preprocessed(client: Any) -> None:
    found = client.infer("points-raw", input_of([[2, 4]]))
    assert np.allclose(found.as_numpy("logits"), [[1, 2]] @ STUDENT)


def test_classification_names_the_labels(client: Any) -> None:
    found = client.infer("points", input_of([[4, 0]]), outputs=[triton.InferRequestedOutput("logits", class_count=2)])
    assert found.as_numpy("logits").tolist() == [[b"8.000000:0:right", b"2.000000:1:up"]]


def test_the_asynchronous_client(server: Running) -> None:
    async def work() -> None:
        async with aio.InferenceServerClient(server.url) as client:
            made = [client.infer("points", input_of([[n, 0]])) for n in range(20)]
            for n, found in enumerate(await asyncio.gather(*made)):
                assert np.allclose(found.as_numpy("logits"), [[n, 0]] @ STUDENT)

    asyncio.run(work())


def test_each_caller_gets_the_answer_to_its_own_request(server: Running) -> None:
    """Eight clients at once, of different batch sizes; every answer is that of asking alone."""
    wrong: list[Any] = []

    def client(number: int) -> None:
        rng = np.random.default_rng(number)
        with triton_client(server.url) as mine:
            for turn in range(40):
                rows = rng.standard_normal((1 + turn % 3, 2)).astype(np.float32)
                found = mine.infer("points", input_of(rows, turn % 2 == 0), request_id=f"{number}-{turn}")
                if not np.allclose(found.as_numpy("logits"), rows @ STUDENT, atol=1e-5):
                    wrong.append((rows, found.as_numpy("logits")))
                if found.get_response()["id"] != f"{number}-{turn}":
                    wrong.append(found.get_response())

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_health_as_the_protocol_has_it(points_bundle: Path) -> None:
    with running(points_bundle) as server:
        assert server.ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
        assert server.ask("GET", "/v2/health/ready")[:2] == (200, {"ready": True})
        assert server.ask("GET", "/v2/models/points/ready")[:2] == (200, {"name": "points", "ready": True})
        server.server.service.draining = True
        assert server.ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
        assert server.ask("GET", "/v2/health/ready")[:2] == (503, {"ready": False})
        assert server.ask("GET", "/v2/models/points/ready")[:2] == (503, {"name": "points", "ready": False})


def test_a_method_that_is_not_allowed_says_which_are(server: Running) -> None:
    for method, path, allowed in (
        ("DELETE", "/v2/models/points", "GET, HEAD"),
        ("GET", "/v2/models/points/infer", "POST"),
        ("POST", "/v2/models/stats", "GET, HEAD"),
    ):
        status, _, headers = server.ask(method, path)
        assert (status, headers["allow"]) == (405, allowed)


def test_a_timeout_of_zero_is_none(client: Any) -> None:
    assert client.infer("points", input_of([[1, 2]]), timeout=0)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_output_that_json_has_no_number_for(client: Any, value: float) -> None:
    inputs = input_of([[value, 1]])
    for output in (
        triton.InferRequestedOutput("logits", binary_data=False),
        triton.InferRequestedOutput("logits", class_count=1),
    ):
        with pytest.raises(InferenceServerException, match="'logits' holds Inf or NaN") as refused:
            client.infer("points", inputs, outputs=[output])
        assert refused.value.status() == "400"
    assert not np.isfinite(client.infer("points", inputs).as_numpy("logits")).all()


def test_statistics(points_bundle: Path) -> None:
    with running(points_bundle) as server, triton_client(server.url) as client:
        client.infer("points", input_of([[1, 2], [3, 4]]))
        with pytest.raises(InferenceServerException):
            client.infer("points", input_of([[1, 2, 3]]))
        (told,) = client.get_inference_statistics("points")["model_stats"]
        assert (told["inference_count"], told["execution_count"]) == (2, 1)
        counts = {phase: total["count"] for phase, total in told["inference_stats"].items()}
        assert counts["success"] == counts["queue"] == counts["compute_infer"] == 1
        assert counts["fail"] == 1
        assert [each["batch_size"] for each in told["batch_stats"]] == [2]
        assert {each["name"] for each in client.get_inference_statistics()["model_stats"]} == {"points", "points-raw"}
        client.infer("points-raw", input_of([[1, 2], [3, 4], [5, 6]]))
        (told,) = client.get_inference_statistics("points-raw")["model_stats"]
        assert (told["inference_count"], told["execution_count"]) == (3, 1)
        assert client.get_inference_statistics("points")["model_stats"][0]["execution_count"] == 1


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "told"),
    [
        ("GET", "/nowhere", None, 404, "there is no '/nowhere'"),
        ("GET", "/v2/models/pints", None, 404, "there is no model 'pints'; did you mean 'points'?"),
        ("GET", "/v2/models/points/versions/7", None, 404, "points has no version '7'; it has "),
        ("POST", "/v2/models/points/versions/7/infer", asked([1, 2]), 404, "points has no version '7'"),
        ("GET", "/v2/models/..%2F..%2Fetc", None, 404, "there is no "),
        ("GET", "/v2/models/%ff", None, 400, "is no path"),
        ("GET", "/v2/models/points/infer", None, 405, "GET is not allowed here, POST is"),
        ("POST", "/v2/models/points/infer", b"{", 400, "the body is no JSON"),
        ("POST", "/v2/models/points/infer", asked([1, 2, 3]), 400, "is not nested as its shape"),
        ("POST", "/v2/models/points/infer", asked(*[[1, 2]] * 9), 400, "'x' has batch = 9, must be 1 to 8"),
        ("POST", "/v2/models/points/infer", b" " * 2001, 413, "the body is over 2000 bytes"),
        ("POST", "/v2/repository/index", b"[]", 400, "the body is a list"),
        ("POST", "/v2/repository/models/lines/load", None, 404, "the repository has no bundle 'lines'"),
        ("POST", "/v2/repository/models/..%2Fpoints/load", None, 404, ""),
        ("POST", "/v2/repository/models/..%2e/unload", None, 404, "the repository has no bundle '...'"),
        ("POST", "/v2/repository/models/%2e%2e/load", None, 404, "the repository has no bundle '..'"),
        ("POST", "/v2/repository/models/%2e%2e%2f%2e%2e%2fetc/load", None, 404, "there is no "),
        ("POST", "/v2/repository/models/..%5cpoints/load", None, 404, "the repository has no bundle "),
        ("POST", "/v2/repository/models/points%00/load", None, 404, "the repository has no bundle "),
        ("POST", "/v2/repository/models/points%0a/load", None, 404, "the repository has no bundle "),
        ("POST", "/v2/repository/models/%EF%BC%8E%EF%BC%8E/load", None, 404, "the repository has no bundle "),
        ("POST", "/v2/repository/models/points/load", {"parameters": {"config": "{}"}}, 400, "nothing of it is replaced"),
    ],
)
def test_errors_follow_the_protocol(server: Running, method: str, path: str, content: Any, status: int, told: str) -> None:
    got, answer, headers = server.ask(method, path, content)
    assert got == status
    assert told in answer["error"]
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("given", ["-1", "1.5", "x", "9" * 19])
def test_a_header_that_is_no_length(server: Running, given: str) -> None:
    status, answer, _ = server.ask("POST", "/v2/models/points/infer", b"{}", **{HEADER: given})
    assert (status, "expected a number of bytes" in answer["error"]) == (400, True)


def test_compressed_bodies(server: Running) -> None:
    content = json.dumps(asked([1, 2])).encode()

    def ask(body: bytes, encoding: str) -> tuple[int, Any]:
        return server.ask("POST", "/v2/models/points/infer", body, Content_Encoding=encoding)[:2]

    assert ask(gzip.compress(content), "gzip")[0] == ask(zlib.compress(content), "deflate")[0] == 200
    assert ask(content, "br") == (400, {"error": "the Content-Encoding is 'br', taken are gzip and deflate"})
    assert "the body is no gzip" in ask(content, "gzip")[1]["error"]
    assert "the body is no whole gzip" in ask(gzip.compress(content)[:-9], "gzip")[1]["error"]
    assert "send one member" in ask(gzip.compress(content) + b"more", "gzip")[1]["error"]
    assert ask(gzip.compress(b" " * 10**6), "gzip") == (413, {"error": "the body is over 2000 bytes when decompressed"})


def test_head_answers_without_a_body(server: Running) -> None:
    status, answer, headers = server.ask("HEAD", "/v2")
    assert (status, answer, int(headers["content-length"]) > 0) == (200, None, True)


def test_a_full_queue_says_when_to_come_back(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.3)
    with running(points_bundle, queue=1, instances=1) as server:
        found: list[tuple[int, Any, dict[str, str]]] = []
        threads = [
            threading.Thread(target=lambda: found.append(server.ask("POST", "/v2/models/points/infer", asked([1, 2]))))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [each for each in found if each[0] != 200]
        assert 0 < len(refused) < 6
        for status, told, headers in refused:
            assert (status, headers["retry-after"]) == (503, "1")
            assert "requests wait already" in told["error"]


def test_a_deadline(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.2)
    with running(points_bundle) as server, triton_client(server.url) as client:
        with pytest.raises(InferenceServerException, match=r"504.*no answer within 0\.05 s") as late:
            client.infer("points", input_of([[1, 2]]), timeout=50_000)  # microseconds
        assert late.value.status() == "504"
        assert client.infer("points", input_of([[1, 2]]), timeout=5_000_000)
    with running(points_bundle, deadline=0.05) as server:
        assert server.ask("POST", "/v2/models/points/infer", asked([1, 2]))[0] == 504
