"""The engine behind LitServe, batches of 32: ``MODEL PORT``. A request is ``{"input": [[...],
...]}``, one sample."""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request


class Api(litserve.LitAPI):  # type: ignore[misc]  # installed for this process alone
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        self.input = self.session.get_inputs()[0].name

    def decode_request(self, request: Request) -> Any:
        """LitServe reads the annotation, and hands over what the request's JSON says."""
        return np.array(request["input"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, batch: Any) -> Any:
        return self.session.run(None, {self.input: batch})[0]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=32, batch_timeout=0.0), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
