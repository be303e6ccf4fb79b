"""Requests that cost more than their bytes say, a bundle whose requests are large, and what a server spends meanwhile."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from tritonclient.grpc import service_pb2

from attar.bundle import checksums
from attar.serving.protocol.request import HEADER_LENGTH
from tests.support.serving.server_process import ServerProcess

ROWS, SHAPE = 32, (3, 224, 224)
MEGA = 2**20


def write_graph(path: Path) -> None:
    """``[batch, 3, 224, 224]`` to the mean of each channel."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["means"]), helper.make_node("Flatten", ["means"], ["logits"])]
    graph = helper.make_graph(nodes, "means", [x], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def bundle_of_large_requests(points: Path, to: Path) -> Path:
    """The bundle of points, turned into one that takes 32 pictures of 3 x 224 x 224 at once."""
    made = Path(shutil.copytree(points, to))
    for folder in ("engines/onnxruntime", "graphs", "reference"):
        write_graph(made / folder / "model.onnx")
    raw = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    means = raw.mean((2, 3))
    save_file({"raw.x": raw, "teacher.logits": means, "engine.logits": means}, made / "golden.safetensors")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["inputs"]["x"]["axes"] = ["batch", *SHAPE]
    manifest["ranges"]["batch"] = [1, ROWS]
    manifest["golden"]["requests"] = 2
    manifest["preprocess"] = {}
    (made / "manifest.json").write_text(json.dumps(manifest))
    checksums.write_checksums(made)
    return made


def objects(size: int) -> bytes:
    """A request of empty objects, each a dictionary to whoever parses it."""
    return b'{"inputs":[' + b"{}," * (size // 3) + b"{}]}"


def pictures(rows: int = ROWS) -> bytes:
    """In JSON, the numbers as Python writes a float32."""
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32).tolist()
    numbers = ",".join(map(repr, values * (rows * int(np.prod(SHAPE)) // 1000 + 1)))
    count = rows * int(np.prod(SHAPE))
    cut = ",".join(numbers.split(",")[:count])
    return f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{rows},3,224,224],"data":[{cut}]}}]}}'.encode()


def post(server: ServerProcess, body: bytes, model: str = "points", length: str = "", **headers: str) -> int:
    """``length``: of the JSON where bytes follow it. The status, 0 where the server hung up while the body was on its way."""
    connection = HTTPConnection(*server.http, timeout=120)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body, sent | ({HEADER_LENGTH: length} if length else {}))
        return connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        connection.close()


def binary(rows: int) -> tuple[bytes, str, str]:
    """Body, model, and the length of its JSON."""
    size = rows * 4 * int(np.prod(SHAPE))
    about = {"name": "x", "datatype": "FP32", "shape": [rows, *SHAPE], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [about]}).encode()
    return head + bytes(size), "points", str(len(head))


def send(server: ServerProcess, content: bytes, rows: int = ROWS) -> grpc.StatusCode:
    """The status of a request over gRPC."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, *SHAPE])
    asked = service_pb2.ModelInferRequest(model_name="points", inputs=[tensor], raw_input_contents=[content])
    return send_message(server, asked.SerializeToString())


def send_message(server: ServerProcess, content: bytes) -> grpc.StatusCode:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        try:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(content, timeout=60)
        except grpc.RpcError as error:
            made: grpc.StatusCode = error.code()
            return made
    return grpc.StatusCode.OK


def compressed(body: bytes) -> bytes:
    return gzip.compress(body, 1)


def kilobytes(server: ServerProcess, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


class Spent:
    """While something was done."""

    growth = peak = 0
    """Bytes that were resident at most, over those before and in all."""
    slowest = 0.0
    """Seconds that a health probe waited at most."""
    statuses: set[int]


@contextmanager
def watched(server: ServerProcess) -> Iterator[Spent]:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew (proc(5))
    before, spent, ended = kilobytes(server, "VmRSS"), Spent(), threading.Event()
    spent.statuses = set()

    def probe() -> None:
        connection = HTTPConnection(*server.http, timeout=120)
        while not ended.is_set():
            began = time.monotonic()
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            answer.read()
            spent.slowest = max(spent.slowest, time.monotonic() - began)
            spent.statuses.add(answer.status)
            time.sleep(0.005)
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield spent
    finally:
        ended.set()
        thread.join()
    spent.peak = kilobytes(server, "VmHWM") * 1024
    spent.growth = spent.peak - before * 1024


def least(server: ServerProcess, work: Callable[[], object], times: int = 3) -> Spent:
    """Of some attempts: other work of the machine makes probes slower and none quicker. Memory must not grow over all of them."""
    before, made = kilobytes(server, "VmRSS"), list[Spent]()
    for _ in range(times):
        with watched(server) as spent:
            work()
        made.append(spent)
    best = min(made, key=lambda each: each.slowest)
    best.growth = max(each.peak for each in made) - before * 1024
    return best
