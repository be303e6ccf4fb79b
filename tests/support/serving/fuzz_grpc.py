"""Wrong messages over gRPC, with a token in the metadata and without: made of valid ones, and what came back judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from attar.serving.grpc.messages import HEALTH, SERVICE, ModelInferRequest, ModelStreamInferResponse
from tests.support.serving.fuzz_mutations import changed, mutated

WORDS = (
    b"\0",
    b"\xff" * 10,
    b"\x80" * 10,
    b"..",
    b"\xed\xa0\x80",
    b"points",
    b"FP32",
    b"BYTES",
    b"\x0a\xff\xff\xff\xff\x0f",
    b"x" * 5000,
)
NAME, STREAM = f"/{SERVICE.full_name}/", "ModelStreamInfer"
HEALTHS = [method.name for method in HEALTH.methods]
METHODS = (
    *["ModelInfer"] * 12,
    *[STREAM] * 4,
    *HEALTHS * 2,
    *[method.name for method in SERVICE.methods if "Unload" not in method.name],
)
OPEN = ("ServerLive", "ServerReady", "Check")
"""What may be answered without a token; Check asks for one where it is asked for a model."""
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": ["1", "2"]}
VALID: dict[str, Any] = {"model_name": "points", "inputs": [X | {"contents": {"fp32_contents": [1, 2]}}]}
RAW: dict[str, Any] = {
    "model_name": "points",
    "id": "a",
    "inputs": [X],
    "raw_input_contents": ["AACAPwAAAEA="],
    "parameters": {"mine": {"int64_param": "1"}},
    "outputs": [{"name": "logits"}],
}


NAMED = b"\x0a\x06points"
"""A HealthCheckRequest."""


def message(random: Random) -> bytes:
    """Half have wrong values in right fields, where protobuf takes them; the rest any byte wrong."""
    content = random.choice((VALID, RAW))
    if random.random() < 0.5:
        for _ in range(20):
            try:
                return bytes(ParseDict(changed(content, random), ModelInferRequest()).SerializeToString())
            except (ParseError, ValueError, TypeError, AttributeError, OverflowError):  # a value that no message can hold
                continue
    return mutated(ParseDict(content, ModelInferRequest()).SerializeToString(), WORDS, random)


def call(channel: grpc.Channel, method: str, content: bytes, token: str) -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        if method == "Watch":
            first(channel.unary_stream(f"/{HEALTH.full_name}/Watch")(content, metadata=metadata, timeout=20))
        elif method == "Check":
            channel.unary_unary(f"/{HEALTH.full_name}/Check")(content, metadata=metadata, timeout=20)
        elif method == STREAM:
            for _ in channel.stream_stream(NAME + method)(iter([content]), metadata=metadata, timeout=20):
                pass
        else:
            channel.unary_unary(NAME + method)(content, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def first(answers: Any) -> None:
    """Of a call that has no end."""
    next(answers)
    answers.cancel()


def answers(channel: grpc.Channel, token: str) -> bool:
    content = ParseDict(VALID, ModelInferRequest()).SerializeToString()
    (streamed,) = streams(channel, content, token)
    return call(channel, "ModelInfer", content, token) == grpc.StatusCode.OK and not streamed.error_message


def streams(channel: grpc.Channel, content: bytes, token: str) -> Iterator[Any]:
    metadata = [("authorization", f"Bearer {token}")]
    for answer in channel.stream_stream(NAME + STREAM)(iter([content]), metadata=metadata, timeout=20):
        yield ModelStreamInferResponse.FromString(answer)


def run(address: str, count: int, random: Random, token: str) -> Counter[str]:
    """Send so many; every hundred a valid one must be answered, and nothing but health without the token."""
    seen: Counter[str] = Counter()
    with grpc.insecure_channel(address) as channel:
        for number in range(count):
            method = random.choice(METHODS)
            content = mutated(NAMED, WORDS, random) if method in HEALTHS else message(random)
            right = random.random() < 0.9
            code = call(channel, method, content, token if right else random.choice(("", token[:-1], token + "a")))
            assert code not in FAULTS, (method, content, code)
            if not right and method not in OPEN:
                assert code == grpc.StatusCode.UNAUTHENTICATED, (method, code)
            seen[code.name] += 1
            if number % 100 == 99:
                assert answers(channel, token)
    return seen
