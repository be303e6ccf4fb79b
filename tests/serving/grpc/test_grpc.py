"""The protocol over gRPC, spoken by Triton's own clients and by hand."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient import http
from tritonclient.grpc import aio, service_pb2
from tritonclient.utils import InferenceServerException

from attar.pipeline.core.errors import AttarError
from attar.serving.core import errors
from attar.serving.core.settings import Settings
from attar.serving.grpc import infer as grpc_infer
from attar.serving.grpc import server as serving_grpc
from attar.serving.grpc import stream as grpc_stream
from attar.serving.grpc.calls import CODES
from attar.serving.models import model
from attar.serving.models.engines import Engines, open_engines
from attar.serving.models.service import EXTENSIONS
from attar.serving.protocol.signature import BYTES, DATATYPES, Signature
from tests.support.engines.tensor_specs import make_spec
from tests.support.proof.proof_parts import STUDENT
from tests.support.serving.serving_parts import (
    METHOD,
    Running,
    another,
    ask,
    asked,
    channel,
    running,
    slow,
    spoil,
    triton_client,
    triton_grpc_client,
    until,
)


@pytest.fixture(scope="module")
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, grpc_port=0, max_body=2000, max_tensors=3, max_elements=100, slow=0.5) as made:
        yield made


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with triton_grpc_client(server) as made:
        yield made


def input_of(rows: Any) -> list[Any]:
    content = np.array(rows, np.float32)
    made = triton.InferInput("x", list(content.shape), "FP32")
    made.set_data_from_numpy(content)
    return [made]


def request(*inputs: dict[str, Any], **more: Any) -> Any:
    return service_pb2.ModelInferRequest(**{"model_name": "points", "inputs": inputs} | more)


def point(**more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 2]} | more


TYPED = point(contents={"fp32_contents": [1, 2]})


def refusal(server: Running, sent: Any, method: str = "ModelInfer", **more: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        ask(server, sent, method, **more)
    return refused.value.code(), refused.value.details()


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("points")
    assert not client.is_model_ready("lines")
    told = client.get_server_metadata()
    assert (told.name, told.version, list(told.extensions)) == ("attar", "0.1.0", list(EXTENSIONS))
    told = client.get_model_metadata("points", as_json=True)
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert told["platform"] == "onnxruntime"
    (version,) = told["versions"]
    assert client.get_model_metadata("points", version, as_json=True) == told
    assert client.is_model_ready("points", version)
    config = client.get_model_config("points-raw").config
    assert (config.max_batch_size, config.input[0].data_type, list(config.input[0].dims)) == (8, 11, [2])


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(client: Any, compression: str | None) -> None:
    rows = np.array([[1, 2], [3, 4.5]])
    found = client.infer("points", input_of(rows), request_id="7", compression_algorithm=compression)
    assert np.allclose(found.as_numpy("logits"), rows @ STUDENT)
    assert (found.get_response().id, found.get_response().model_name) == ("7", "points")


def test_raw_inputs_are_preprocessed(client: Any) -> None:
    assert np.allclose(client.infer("points-raw", input_of([[2, 4]])).as_numpy("logits"), [[1, 2]] @ STUDENT)


def test_classification_names_the_labels(client: Any) -> None:
    found = client.infer("points", input_of([[4, 0]]), outputs=[triton.InferRequestedOutput("logits", class_count=2)])
    assert found.as_numpy("logits").tolist() == [[b"8.000000:0:right", b"2.000000:1:up"]]


def test_parameters_come_back_as_they_were_sent(server: Running) -> None:
    sent = request(TYPED)
    sent.parameters["whole"].int64_param = -3
    sent.parameters["large"].uint64_param = 2**64 - 1
    sent.parameters["part"].double_param = 0.5
    sent.parameters["text"].string_param = "é"
    sent.parameters["yes"].bool_param = True
    echoed = dict(sent.parameters)
    sent.parameters["timeout"].int64_param = 10_000_000
    assert dict(ask(server, sent).parameters) == echoed


def test_the_asynchronous_client(server: Running) -> None:
    """On the server's own loop: gRPC logs spurious errors where two loops of one process use it."""

    async def work() -> None:
        async with aio.InferenceServerClient(server.grpc_url) as client:
            made = [client.infer("points", input_of([[n, 0]]), request_id=str(n)) for n in range(20)]
            for n, found in enumerate(await asyncio.gather(*made)):
                assert np.allclose(found.as_numpy("logits"), [[n, 0]] @ STUDENT)
                assert found.get_response().id == str(n)
            assert await client.is_server_ready()

    server.call(work())


def test_each_caller_gets_the_answer_to_its_own_request(server: Running) -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        with triton_grpc_client(server) as mine:
            for turn in range(30):
                rows = rng.standard_normal((1 + turn % 3, 2)).astype(np.float32)
                found = mine.infer("points", input_of(rows), request_id=f"{number}-{turn}")
                if not np.allclose(found.as_numpy("logits"), rows @ STUDENT, atol=1e-5):
                    wrong.append(rows)
                if found.get_response().id != f"{number}-{turn}":
                    wrong.append(found.get_response().id)

    at_once(work, 6)
    assert not wrong


def test_a_head_is_understood_once(server: Running) -> None:
    remembered = server.server.repository.find_model("points").reader._remembered
    before = remembered.cache_info()
    for rows in ([[1, 2]], [[3, 4]], [[5, 6], [7, 8]]):
        content = np.array(rows, np.float32)
        sent = request(point(shape=content.shape), id=str(rows), raw_input_contents=[content.tobytes()])
        sent.parameters["of"].string_param = "this test"
        found = triton.InferResult(ask(server, sent))
        assert np.allclose(found.as_numpy("logits"), content @ STUDENT)
        assert found.get_response().id == str(rows)
    after = remembered.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 2)


def at_once(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- every datatype -----------------------------------------------------------------------------------------------------

NUMPY = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
EXTREMES = {name: [np.iinfo(dtype).min, np.iinfo(dtype).max] for name, dtype in NUMPY.items() if dtype.kind in "iu"} | {
    "BOOL": [True, False],
    "FP16": [-1.5, 65504.0],
    "FP32": [float(np.float32(0.1)), -3e38],
    "FP64": [0.1, 1e308],
    BYTES: [b"", b"\xff\x00a"],
}
FIELDS = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", BYTES: "bytes"}


def content(datatype: str) -> Any:
    return np.array(EXTREMES[datatype], object if datatype == BYTES else NUMPY[datatype]).reshape(1, 2)


@contextmanager
def echo(bundle: Path, *datatypes: str) -> Iterator[Running]:
    """A model that gives back what it takes, a tensor of each datatype."""
    every = {name: make_spec(name, name, ("batch", 2)) for name in datatypes}

    def opened(path: Path, settings: Settings) -> Engines:
        same = Signature(every, every, {"batch": (1, 8)})
        return replace(open_engines(path, settings), graph=same, raw=None, predicts=[lambda inputs: dict(inputs)])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "open_engines", opened)
        with running(bundle, grpc_port=0) as made:
            yield made


def inputs_of(module: Any) -> list[Any]:
    made = []
    for name in EXTREMES:
        each = module.InferInput(name, [1, 2], name)
        each.set_data_from_numpy(content(name))
        made.append(each)
    return made


@pytest.mark.parametrize("split", [False, True])
def test_every_datatype_as_bytes_and_as_over_http(points_bundle: Path, monkeypatch: pytest.MonkeyPatch, split: bool) -> None:
    if split:
        monkeypatch.setattr(grpc_infer, "SHORT_BYTES", 0)
    with echo(points_bundle, *EXTREMES) as server, triton_grpc_client(server) as client, triton_client(server.url) as other:
        found = client.infer("points", inputs_of(triton), request_id="a")
        same = other.infer("points", inputs_of(http), request_id="a")
    described, over_http = found.get_response(), same.get_response()
    assert [described.model_name, described.model_version, described.id] == [
        over_http[name] for name in ("model_name", "model_version", "id")
    ]
    assert [each.name for each in described.outputs] == [each["name"] for each in over_http["outputs"]] == list(EXTREMES)
    for name in EXTREMES:
        assert np.array_equal(found.as_numpy(name), content(name))
        assert np.array_equal(found.as_numpy(name), same.as_numpy(name))
        assert found.as_numpy(name).dtype == same.as_numpy(name).dtype


def tensor(name: str, values: Any) -> dict[str, Any]:
    field = FIELDS.get(name, "uint" if name.startswith("U") else "int")
    return {"name": name, "datatype": name, "shape": [1, 2], "contents": {f"{field}_contents": values}}


@pytest.mark.parametrize("split", [False, True])
def test_every_datatype_as_values(points_bundle: Path, monkeypatch: pytest.MonkeyPatch, split: bool) -> None:
    if split:
        monkeypatch.setattr(grpc_infer, "SHORT_BYTES", 0)  # every message is split before it is decoded
    names = [name for name in EXTREMES if name != "FP16"]
    with echo(points_bundle, *names) as server:
        found = triton.InferResult(ask(server, request(*[tensor(name, EXTREMES[name]) for name in names])))
        for name in names:
            assert np.array_equal(found.as_numpy(name), content(name))
            assert found.as_numpy(name).dtype == content(name).dtype


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", ["INT8", "UINT16"])
def test_a_value_that_does_not_fit(points_bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: bool) -> None:
    if split:
        monkeypatch.setattr(grpc_infer, "SHORT_BYTES", 0)
    with echo(points_bundle, name) as server:
        code, told = refusal(server, request(tensor(name, [0, 100_000])))
        assert (code, f"{name!r} holds what is no {name}" in told) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_half_floats_come_as_bytes_only(points_bundle: Path) -> None:
    with echo(points_bundle, "FP16") as server:
        sent = {"name": "FP16", "datatype": "FP16", "shape": [1, 2], "contents": {"fp32_contents": [1, 2]}}
        assert refusal(server, request(sent)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "'FP16' is FP16, which has no contents in gRPC; send raw_input_contents",
        )


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "told"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "no ModelInferRequest: "),
        (request(TYPED, model_name="lines"), "NOT_FOUND", "there is no model 'lines'"),
        (request(TYPED, model_version="9"), "NOT_FOUND", "points has no version '9'"),
        (request(), "INVALID_ARGUMENT", "the input 'x' is missing"),
        (request(TYPED, TYPED), "INVALID_ARGUMENT", "an input is there twice"),
        (request(point(name="y")), "INVALID_ARGUMENT", "there is no input 'y'"),
        (request(point(datatype="FP64")), "INVALID_ARGUMENT", "'x' has the datatype FP64, expected FP32"),
        (request(point(shape=[-1, 2])), "INVALID_ARGUMENT", "the shape of 'x' is [-1, 2], expected a list of sizes"),
        (request(point(shape=[1, 3])), "INVALID_ARGUMENT", "[batch, 2], got [1, 3]"),
        (request(point(shape=[1000, 2])), "RESOURCE_EXHAUSTED", "'x' has 2000 elements, allowed are 100"),
        (request(point()), "INVALID_ARGUMENT", "'x' has 0 fp32_contents, its shape [1, 2] asks for 2"),
        (request(point(), raw_input_contents=[b"1234567"]), "INVALID_ARGUMENT", "'x' has 7 bytes"),
        (request(point(), raw_input_contents=[b"", b""]), "INVALID_ARGUMENT", "there are 2 raw_input_contents for 1 inputs"),
        (request(TYPED, raw_input_contents=[b"12345678"]), "INVALID_ARGUMENT", "'x' has contents beside raw_input_contents"),
        (request(*[TYPED] * 4), "RESOURCE_EXHAUSTED", "more than the 3 inputs or outputs that are allowed"),
        (request(TYPED, outputs=[{"name": "no"}]), "INVALID_ARGUMENT", "there is no output 'no'"),
        (request(TYPED, outputs=[{"name": "logits"}] * 2), "INVALID_ARGUMENT", "an output is asked for twice"),
        (request(TYPED, id="a" * 2000), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_errors_follow_the_protocol(server: Running, sent: Any, code: str, told: str) -> None:
    got, said = refusal(server, sent)
    assert got is grpc.StatusCode[code]
    assert told in said


def test_every_error_has_a_code() -> None:
    """But those that only HTTP can make."""
    assert {each.status for each in errors.RequestError.__subclasses__()} - {405, 431} <= CODES.keys()


@pytest.mark.parametrize(
    ("name", "parameter", "told"),
    [
        ("timeout", {"int64_param": -1}, "the parameter timeout is -1, expected microseconds"),
        ("timeout", {"double_param": 1.5}, "the parameter timeout is 1.5, expected microseconds"),
        ("sequence_id", {"int64_param": 7}, "sequences need a model that keeps state"),
    ],
)
def test_parameters_that_cannot_be_followed(server: Running, name: str, parameter: dict[str, Any], told: str) -> None:
    sent = request(TYPED, parameters={name: service_pb2.InferParameter(**parameter)})
    code, said = refusal(server, sent)
    assert (code, told in said) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_shared_memory_is_not_taken(client: Any) -> None:
    (shared,) = input_of([[1, 2]])
    shared.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*tensors in shared memory are not taken"):
        client.infer("points", [shared])


def test_what_is_not_served_is_unimplemented(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_trace_settings()


def test_a_small_message_that_swells(server: Running) -> None:
    code, said = refusal(server, request(TYPED, id="a" * 100_000), compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said == "Decompressed message larger than max"


def test_a_request_that_never_comes(server: Running) -> None:
    with channel(server) as made:
        over = threading.Event()

        def nothing() -> Iterator[bytes]:
            over.wait(20)
            yield from ()

        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as late:
            made.stream_unary(METHOD + "ModelInfer")(nothing())
        over.set()
        assert time.monotonic() - began < 5
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.value.details() == "the request did not arrive in time; send it quicker, or in parts"
        with pytest.raises(grpc.RpcError, match="the request ended without a ModelInferRequest"):
            made.stream_unary(METHOD + "ModelInfer")(iter(()))
    assert ask(server, request(TYPED)).model_name == "points"


def test_an_error_that_nobody_foresaw(points_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(points_bundle, grpc_port=0) as server:
        server.server.repository.list_models = lambda: None  # type: ignore[method-assign,assignment,return-value]  # to break it
        told = refusal(server, b"", "ModelStatistics")
        assert told == (grpc.StatusCode.INTERNAL, "the server failed; its log says why")
        assert "ModelStatistics failed" in caplog.text
        del server.server.repository.list_models


# -- time ---------------------------------------------------------------------------------------------------------------


def test_a_deadline(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.2)
    with running(points_bundle, grpc_port=0, instances=1) as server, triton_grpc_client(server) as client:
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("points", input_of([[1, 2]]), client_timeout=0.05)
        with pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED.*no answer within 0\.05 s"):
            client.infer("points", input_of([[1, 2]]), timeout=50_000)  # microseconds
        assert client.infer("points", input_of([[1, 2]]), client_timeout=10)
    with running(points_bundle, grpc_port=0, deadline=0.05) as server:
        assert refusal(server, request(TYPED))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_work_of_a_client_that_went_away_is_dropped(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = slow(monkeypatch, 0.3)
    with running(points_bundle, grpc_port=0, instances=1) as server, triton_grpc_client(server) as client:
        before = len(calls)
        answers: queue.Queue[Any] = queue.Queue()

        def told(result: Any, error: Any) -> None:
            answers.put((result, error))

        client.async_infer("points", input_of([[1, 2]]), told)
        time.sleep(0.1)
        gone = [client.async_infer("points", input_of([[1, 2], [3, 4]]), told) for _ in range(4)]
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("points", input_of([[1, 2], [3, 4]]), client_timeout=0.05)
        for each in gone:
            each.cancel()
        client.infer("points", input_of([[5, 6], [7, 8], [9, 1]]))
        assert calls[before:] == [1, 3]
        errors = [answers.get(timeout=10)[1] for _ in range(5)]
        assert sorted(str(error.status()) if error else "" for error in errors) == ["", *["StatusCode.CANCELLED"] * 4]
        counted = client.get_inference_statistics("points").model_stats[0].inference_stats
        assert (counted.success.count, counted.fail.count) == (2, 5)


def refused_of(server: Running, count: int) -> list[Any]:
    """The errors of so many requests at once, on one connection."""
    with channel(server) as made:
        call = made.unary_unary(METHOD + "ModelInfer")
        calls = [call.future(request(TYPED).SerializeToString(), timeout=20) for _ in range(count)]
        return [each for each in calls if each.exception() is not None]


def test_a_full_queue_says_when_to_come_back(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.3)
    with running(points_bundle, grpc_port=0, queue=1, instances=1) as server:
        refused = refused_of(server, 6)
    assert 0 < len(refused) < 6
    for error in refused:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "requests wait already" in error.details()
        assert ("grpc-retry-pushback-ms", "1000") in [tuple(each) for each in error.trailing_metadata()]


def test_too_many_requests_at_a_time(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.3)
    with running(points_bundle, grpc_port=0, max_connections=1) as server:
        refused = refused_of(server, 3)
    assert [error.code() for error in refused] == [grpc.StatusCode.UNAVAILABLE] * 2
    assert "1 calls are under way" in refused[0].details()


def test_connections_are_bounded(points_bundle: Path) -> None:
    """Those of strangers too, as each takes a descriptor: further ones are closed before anything is read."""
    settings_frame = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    with running(points_bundle, grpc_port=0, max_connections=2) as server, ExitStack() as stack:
        host, port = server.grpc_url.split(":")

        def is_taken() -> bool:
            made = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            made.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame)
            try:
                return bool(made.recv(100))
            except ConnectionError:
                return False

        assert [is_taken() for _ in range(4)] == [True, True, False, False]


# -- streams ------------------------------------------------------------------------------------------------------------


@contextmanager
def stream(client: Any) -> Iterator[queue.Queue[Any]]:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        yield answers
    finally:
        client.stop_stream()


def test_a_stream_answers_in_order_and_goes_on_behind_an_error(client: Any) -> None:
    with stream(client) as answers:
        for n in range(10):
            rows = [[n, 0, 0]] if n == 4 else [[n, 0]]
            client.async_stream_infer("points", input_of(rows), request_id=str(n))
        for n in range(10):
            result, error = answers.get(timeout=10)
            if n == 4:
                assert "[batch, 2], got" in str(error)
            else:
                assert (result.get_response().id, error) == (str(n), None)
                assert np.allclose(result.as_numpy("logits"), [[n, 0]] @ STUDENT)


def test_requests_of_a_stream_share_batches_and_errors_have_their_ids(
    points_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = slow(monkeypatch, 0.2)
    names = [str(n) for n in range(100)]
    requests = [request(point(shape=[1, 1 if n == "7" else 2], contents={"fp32_contents": [1, 2]}), id=n) for n in names]
    with running(points_bundle, grpc_port=0, instances=1) as server, channel(server) as made:
        before = len(calls)
        call = made.stream_stream(
            METHOD + "ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )
        answers = list(call(iter(requests), timeout=20))
    assert [each.infer_response.id for each in answers] == names
    assert [each.infer_response.id for each in answers if each.error_message] == ["7"]
    assert "[batch, 2], got" in answers[7].error_message
    assert sum(calls[before:]) == 99
    assert max(calls[before:]) == 8  # the most that the bundle promises


def test_a_stream_is_read_as_far_ahead_as_its_bytes_allow(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = request(TYPED).SerializeToString()
    monkeypatch.setattr(grpc_stream, "PIPELINED_BYTES", 4 * len(sent))
    calls = slow(monkeypatch, 0.1)
    with running(points_bundle, grpc_port=0, instances=1) as server, channel(server) as made:
        before = len(calls)
        assert len(list(made.stream_stream(METHOD + "ModelStreamInfer")(iter([sent] * 20), timeout=20))) == 20
    assert sum(calls[before:]) == 20
    assert 1 < max(calls[before:]) <= 4


def test_a_stream_that_is_given_up_leaves_nothing_behind(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = slow(monkeypatch, 0.2)
    with running(points_bundle, grpc_port=0, instances=1) as server, channel(server) as made:
        before, over = len(calls), threading.Event()

        def requests() -> Iterator[bytes]:
            yield from [request(TYPED).SerializeToString()] * 20
            over.wait(20)

        call = made.stream_stream(METHOD + "ModelStreamInfer")(requests(), timeout=20)
        next(call)
        call.cancel()
        over.set()
        served = server.server.repository.find_model("points").served
        end = time.monotonic() + 10
        while served.active and time.monotonic() < end:
            time.sleep(0.01)
        assert (served.active, served.batcher.waiting) == (0, 0)
        assert sum(calls[before:]) < 20


def test_answers_that_a_stream_does_not_take_are_counted_until_it_is_over(points_bundle: Path) -> None:
    """Only their requests were, until they were answered."""
    sent = request(TYPED, id="a" * 60_000).SerializeToString()
    with running(points_bundle, grpc_port=0) as server, channel(server) as made:
        over, ledger = threading.Event(), server.server.ledger

        def requests() -> Iterator[bytes]:
            yield from [sent] * 400  # their answers are more than the buffers of both sides take
            over.wait(20)

        call = made.stream_stream(METHOD + "ModelStreamInfer")(requests(), timeout=20)
        answers = grpc_stream.MAX_PIPELINED * 60_000
        served = server.server.repository.find_model("points").served
        until(lambda: not served.active and answers < ledger.held < answers + 200_000)
        call.cancel()
        over.set()
        until(lambda: ledger.held == 0)


def test_a_stream_on_which_nothing_comes_is_ended(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0, idle=0.3) as server, triton_grpc_client(server) as client, stream(client) as answers:
        client.async_stream_infer("points", input_of([[1, 2]]))
        assert answers.get(timeout=10)[1] is None
        assert "no request came on the stream" in str(answers.get(timeout=10)[1])


# -- start and end ------------------------------------------------------------------------------------------------------


def test_what_has_begun_is_answered_when_the_server_ends(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.3)
    with (
        running(points_bundle, grpc_port=0) as server,
        triton_grpc_client(server) as client,
        triton_grpc_client(server) as other,
        stream(other) as answers,
    ):
        told: queue.Queue[Any] = queue.Queue()
        client.async_infer("points", input_of([[1, 2]]), lambda result, error: told.put((result, error)))
        other.async_stream_infer("points", input_of([[1, 2]]))
        time.sleep(0.1)
        began = time.monotonic()
        server.call(server.server.stop())
        assert time.monotonic() - began < 5  # the stream did not hold it up
        result, error = told.get(timeout=10)
        assert error is None
        assert np.allclose(result.as_numpy("logits"), [[1, 2]] @ STUDENT)
        assert answers.get(timeout=10)[1] is None
        assert "the server ends" in str(answers.get(timeout=10)[1])
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            client.infer("points", input_of([[1, 2]]))


def test_a_call_that_comes_when_the_server_ends_is_answered(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither it nor the one behind it meets the moment in which gRPC cancels what comes."""
    monkeypatch.setattr(serving_grpc, "HOLD_SECONDS", 0.5)
    with running(points_bundle, grpc_port=0) as server, triton_grpc_client(server) as client:
        client.infer("points", input_of([[1, 2]]))
        ended = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        while not server.server.service.draining:
            time.sleep(0.001)
        assert np.allclose(client.infer("points", input_of([[1, 2]])).as_numpy("logits"), [[1, 2]] @ STUDENT)
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            client.infer("points", input_of([[1, 2]]))
        ended.result(20)


def test_an_address_that_is_taken(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0) as server:
        port = int(server.grpc_url.rsplit(":", 1)[1])
        with (
            pytest.raises(AttarError, match=rf"cannot listen on 127\.0\.0\.1:{port} for gRPC: .*--host and --grpc-port"),
            running(points_bundle, grpc_port=port),
        ):
            pass
        with (
            pytest.raises(AttarError, match=r"cannot listen on .*--host and --http-port"),
            running(points_bundle, grpc_port=0, http_port=server.port),
        ):
            pass


def test_the_repository(points_bundle: Path, tmp_path: Path) -> None:
    bundle = another(points_bundle, tmp_path / "mine")
    with running(bundle, grpc_port=0, model_control=True) as server, triton_grpc_client(server) as client:

        def index() -> list[tuple[str, str]]:
            return [(each.name, each.state) for each in client.get_model_repository_index().models]

        assert index() == [("points", "READY")]
        client.unload_model("points")
        assert index() == [("points", "UNAVAILABLE")]
        assert client.is_server_ready()
        assert not client.is_model_ready("points")
        only = service_pb2.RepositoryIndexRequest(ready=True)
        assert not ask(server, only, "RepositoryIndex").models
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*points is not loaded: unloaded"):
            client.get_model_metadata("points")
        client.load_model("points")
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*nothing of it is replaced"):
            client.load_model("points", config="{}")
        with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*the repository has no bundle"):
            client.load_model("../points")
        spoil(bundle)
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*model\.onnx was changed"):
            client.load_model("points")
        assert client.infer("points", input_of([[1, 2]]))


def test_statistics_count_both_transports(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0) as server, triton_grpc_client(server) as client:
        client.infer("points", input_of([[1, 2], [3, 4]]))
        assert server.ask("POST", "/v2/models/points/infer", asked([1, 2]))[0] == 200
        with pytest.raises(InferenceServerException):
            client.infer("points", input_of([[1, 2, 3]]))
        (told,) = client.get_inference_statistics("points").model_stats
        assert (told.inference_count, told.execution_count) == (3, 2)
        assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (2, 1)
        assert [each.batch_size for each in told.batch_stats] == [1, 2]
        assert {each.name for each in client.get_inference_statistics().model_stats} == {"points", "points-raw"}


def test_statistics_without_a_version_are_of_every_version(points_bundle: Path, tmp_path: Path) -> None:
    bundles = [another(points_bundle, tmp_path / name) for name in ("one", "two")]
    with running(*[f"points={each}" for each in bundles], grpc_port=0) as server, triton_grpc_client(server) as client:
        versions = server.ask("GET", "/v2/models/points")[1]["versions"]
        assert len(versions) == 2
        for version in [*versions, versions[0]]:
            client.infer("points", input_of([[1, 2]]), model_version=version)
        told = client.get_inference_statistics("points").model_stats
        assert [(each.version, each.inference_count) for each in told] == list(zip(versions, (2, 1), strict=True))
        over_http = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"]
        assert [(each["version"], each["inference_count"]) for each in over_http] == list(zip(versions, (2, 1), strict=True))
        assert [each.version for each in client.get_inference_statistics("points", versions[0]).model_stats] == versions[:1]


def test_a_message_is_no_longer_than_the_memory_for_it(points_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(points_bundle, grpc_port=0, max_bodies=600_000) as server:
        assert server.server.grpc
        assert server.server.grpc._largest == 200_000
        assert server.server.grpc._admission.most_reads == 1
    assert "--max-bodies" in caplog.text


def test_silent_calls_hold_up_no_probe(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0, max_connections=2) as server, channel(server) as made:
        over = threading.Event()

        def send_nothing() -> Iterator[bytes]:
            over.wait(20)
            yield from ()

        calls = [made.stream_unary(METHOD + "ModelInfer").future(send_nothing()) for _ in range(2)]
        time.sleep(0.3)
        check = made.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=5) == b"\x08\x01"
        over.set()
        for call in calls:
            call.cancel()
