"""The engine behind bare Starlette on uvicorn, batches of what has arrived: ``MODEL PORT``. The
least that a V2 server can be."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

LENGTH = "inference-header-content-length"
waiting: list[tuple[Any, asyncio.Future[Any]]] = []


def open_session(file: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def answer_batch() -> None:
    batch = [waiting.pop(0) for _ in range(min(32, len(waiting)))]
    if waiting:
        asyncio.get_running_loop().call_soon(answer_batch)
    found = MODEL.run(None, {INPUT: np.concatenate([each for each, _ in batch])})[0]
    start = 0
    for each, future in batch:
        future.set_result(found[start : start + len(each)])
        start += len(each)


async def answer_array(array: Any) -> Any:
    future = asyncio.get_running_loop().create_future()
    waiting.append((array, future))
    if len(waiting) == 1:
        asyncio.get_running_loop().call_soon(answer_batch)
    return await future


async def answer_request(request: Request) -> Response:
    body, size = await request.body(), int(request.headers.get(LENGTH, 0))
    told = orjson.loads(body[:size] if size else body)["inputs"][0]
    flat = np.frombuffer(body[size:], np.float32) if size else np.array(told["data"], np.float32)
    found = await answer_array(flat.reshape(told["shape"]))
    output = {"name": "output", "datatype": "FP32", "shape": found.shape}
    if not size:
        text = orjson.dumps(
            {"outputs": [{**output, "data": found.ravel()}]}, option=orjson.OPT_SERIALIZE_NUMPY
        )
        return Response(text, media_type="application/json")
    text = orjson.dumps({"outputs": [{**output, "parameters": {"binary_data_size": found.nbytes}}]})
    return Response(
        text + found.tobytes(),
        headers={LENGTH: str(len(text))},
        media_type="application/octet-stream",
    )


if __name__ == "__main__":
    MODEL = open_session(sys.argv[1])
    INPUT = MODEL.get_inputs()[0].name
    app = Starlette(routes=[Route("/v2/models/served/infer", answer_request, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
