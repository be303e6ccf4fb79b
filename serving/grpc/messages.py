"""Protobuf's classes for the messages of the Open Inference Protocol and of health.

``messages.binpb`` holds the descriptors of the ``.proto`` files beside it; ``make messages`` writes
it. The classes belong to a pool of their own: the code that protoc generates registers them in the
pool of the whole process, where they would clash with a client of the same protocol.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PROTOCOL_FILES = ("open_inference.proto", "health.proto")
DESCRIPTORS = files(__package__) / "messages.binpb"
POOL = DescriptorPool()
for descriptor in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
    POOL.Add(descriptor)


def find_message_class(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(name))


SERVICE = POOL.FindServiceByName("inference.GRPCInferenceService")
HEALTH = POOL.FindServiceByName("grpc.health.v1.Health")
ModelInferRequest = find_message_class("inference.ModelInferRequest")
InferTensorContents = find_message_class("inference.InferTensorContents")
ModelInferResponse = find_message_class("inference.ModelInferResponse")
ModelStreamInferResponse = find_message_class("inference.ModelStreamInferResponse")
HealthCheckRequest = find_message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = find_message_class("grpc.health.v1.HealthCheckResponse")
