"""The file that the messages are made from, against those of Triton's client."""

from __future__ import annotations

from importlib.resources import as_file
from pathlib import Path
from typing import Any

import pytest
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

from attar.serving.grpc.messages import DESCRIPTORS, POOL, PROTOCOL_FILES, SERVICE, ModelInferRequest

OWN = {"ModelMetadataResponse": {"properties"}}
"""Fields that the protocol has and this client, older than they are, has not."""
KIND = ("number", "type", "is_repeated", "has_presence")
NAMES = sorted(POOL.FindFileByName(PROTOCOL_FILES[0]).message_types_by_name)


def fields(message: Any, without: set[str]) -> dict[str, Any]:
    """By name, as the wire has them; those of nested messages behind a dot."""
    found: dict[str, Any] = {
        each.name: ([getattr(each, kind) for kind in KIND], each.message_type and each.message_type.full_name)
        for each in message.fields
        if each.name not in without
    }
    for nested in message.nested_types:
        found |= {f"{nested.name}.{name}": kind for name, kind in fields(nested, without).items()}
    return {name: kind for name, kind in found.items() if name.split(".")[0] != "PropertiesEntry"}


@pytest.mark.parametrize("name", NAMES)
def test_every_message_is_the_protocols(name: str) -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name.get(name) or model_config_pb2.DESCRIPTOR.message_types_by_name[name]
    ours = fields(POOL.FindMessageTypeByName(f"inference.{name}"), OWN.get(name, set()))
    known = fields(theirs, set())
    assert ours == {each: known[each] for each in ours}
    told_in_part = name in {"ModelConfig", "ModelInput", "ModelOutput", "ModelInstanceGroup", "ModelDynamicBatching"}
    assert told_in_part or name == "ModelStatistics" or set(ours) == set(known)


def test_the_enums_are_the_protocols() -> None:
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert POOL.FindEnumTypeByName("inference.DataType").values_by_name.keys() == theirs.values_by_name.keys()
    for value in POOL.FindEnumTypeByName("inference.DataType").values:
        assert value.number == theirs.values_by_name[value.name].number


def test_the_service_is_the_protocols() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert SERVICE.full_name == theirs.full_name
    for method in SERVICE.methods:
        same = theirs.methods_by_name[method.name]
        for each in ("input_type", "output_type"):
            assert getattr(method, each).full_name == getattr(same, each).full_name
        assert (method.client_streaming, method.server_streaming) == (same.client_streaming, same.server_streaming)


def test_what_one_writes_the_other_reads() -> None:
    given = {"name": "x", "datatype": "FP32", "shape": [1, -2], "contents": {"fp32_contents": [1.5]}}
    mine = ModelInferRequest(model_name="m", id="7", inputs=[given], raw_input_contents=[b"ab"])
    mine.parameters["a"].uint64_param = 2**63
    theirs = service_pb2.ModelInferRequest.FromString(mine.SerializeToString())
    assert str(theirs) == str(mine)
    assert ModelInferRequest.FromString(theirs.SerializeToString()) == mine


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    fresh = tmp_path / "messages.binpb"
    with as_file(DESCRIPTORS) as kept:
        arguments = ["protoc", f"-I{kept.parent}", f"--descriptor_set_out={fresh}", *PROTOCOL_FILES]
        assert protoc.main(arguments) == 0
        assert fresh.read_bytes() == kept.read_bytes(), "run `make messages`"
