"""A client over gRPC: channels, encoded requests, decoded answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.serving.grpc.contents import FIELDS
from attar.serving.grpc.messages import SERVICE, ModelInferRequest, ModelInferResponse
from attar.serving.load.client import (
    TIMEOUT,
    Address,
    format_refusal,
    format_unreached,
    format_untrusted,
    load_trust,
)
from attar.serving.protocol.tensors import DTYPES, find_array_datatype, write_binary_tensor

METHOD = f"/{SERVICE.full_name}/ModelInfer"
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one server share one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
"""Options of a channel, which gRPC's ``channel_arg_names.h`` explains."""
UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)|(Hostname Verification Check failed)")
"""gRPC's message about a certificate that is not trusted; it has no status of its own."""
UNREACHED = re.compile("failed to connect to all addresses|errors resolving|resolution failed")
"""gRPC's message about a server that is not there. One that is there may give the same status,
for example for a model that is not loaded."""
Metadata: TypeAlias = Sequence[tuple[str, str]]


def build_metadata(headers: Mapping[str, str]) -> Metadata:
    return [(name.lower(), value) for name, value in headers.items()]


def open_channel(module: Any, where: Address, ca: Path | None) -> Any:
    """Open a channel of ``grpc`` or ``grpc.aio``.

    ``ca``: certificates to trust, in PEM; None: those that gRPC trusts. Raises AttarError for
    another file.
    """
    if not where.is_tls:
        return module.insecure_channel(str(where), OPTIONS)
    if ca:
        load_trust(ca)  # gRPC reports no connection for an invalid file
    credentials = grpc.ssl_channel_credentials(ca.read_bytes() if ca else None)
    return module.secure_channel(str(where), credentials, OPTIONS)


def build_message(model: str, inputs: Arrays) -> bytes:
    """Return a ModelInferRequest for all outputs, with its tensors as bytes."""
    described = [
        {"name": name, "datatype": find_array_datatype(array), "shape": array.shape}
        for name, array in inputs.items()
    ]
    raw = [bytes(write_binary_tensor(array)) for array in inputs.values()]
    made: bytes = ModelInferRequest(
        model_name=model, inputs=described, raw_input_contents=raw
    ).SerializeToString()
    return made


def send_message(
    where: Address, message: bytes, sent: Metadata = (), ca: Path | None = None
) -> dict[str, Array]:
    """Return the outputs by name. Raises AttarError with the server's message if it refuses."""
    with open_channel(grpc, where, ca) as made:
        try:
            return read_message(made.unary_unary(METHOD)(message, metadata=sent, timeout=TIMEOUT))
        except grpc.RpcError as error:
            raise format_failure(where, error.code(), error.details()) from error


def format_failure(where: Address, code: grpc.StatusCode, said: str) -> AttarError:
    if found := UNTRUSTED.search(said):
        return format_untrusted(where, found[1] or found[2])
    if code is grpc.StatusCode.UNAVAILABLE and UNREACHED.search(said):
        return format_unreached(where, AttarError(said))
    return format_refusal(where, "ModelInfer", code.name, said)


def read_message(content: bytes) -> dict[str, Array]:
    """Decode a ModelInferResponse. Raises AttarError."""
    made: dict[str, Array] = {}
    try:
        answer = ModelInferResponse.FromString(content)
        raw = answer.raw_output_contents
        for i, each in enumerate(answer.outputs):
            dtype = DTYPES[each.datatype]
            flat = (
                np.frombuffer(raw[i], dtype)
                if raw
                else np.array(list(getattr(each.contents, FIELDS[each.datatype])), dtype)
            )
            made[each.name] = flat.reshape(list(each.shape))
    except (DecodeError, KeyError, IndexError, ValueError) as error:
        raise AttarError(
            f"the server's answer is not one of the Open Inference Protocol v2: {error!r}"
        ) from error
    return made
