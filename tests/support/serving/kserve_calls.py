"""What KServe's own client gets from a server, as JSON: run in an environment that has it.

Its protobuf is older than ours, so it has an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import kserve
import numpy as np


def request(binary: bool) -> kserve.InferRequest:
    made = kserve.InferInput("x", [1, 2], "FP32")
    made.set_data_from_numpy(np.array([[1, 2]], np.float32), binary_data=binary)
    return kserve.InferRequest("points", [made], request_id="7")


def told(answer: kserve.InferResponse) -> dict[str, Any]:
    return {"id": answer.id, "model": answer.model_name, "logits": answer.outputs[0].as_numpy().tolist()}


async def over_rest(base: str) -> AsyncIterator[Any]:
    client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=1))
    yield await client.is_server_live(base)
    yield await client.is_server_ready(base)
    yield await client.is_model_ready(base, "points")
    yield await client.is_model_ready(base, "lines")
    for binary in (False, True):
        yield told(await client.infer(base, request(binary), model_name="points"))
    await client.close()


async def over_grpc(address: str) -> AsyncIterator[Any]:
    client = kserve.InferenceGRPCClient(address)
    yield await client.is_server_live()
    yield await client.is_server_ready()
    yield await client.is_model_ready("points")
    yield await client.is_model_ready("lines")
    for binary in (False, True):
        yield told(await client.infer(request(binary)))
    await client.close()


async def main(base: str, address: str) -> None:
    found = {"rest": [each async for each in over_rest(base)], "grpc": [each async for each in over_grpc(address)]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
