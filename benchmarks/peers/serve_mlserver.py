"""The engine behind MLServer, adaptive batches of 32, in one process: ``MODEL PORT``. Requests are
the V2 protocol's."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

FILE = sys.argv[1]


class Served(MLModel):  # type: ignore[misc]  # installed for this process alone
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(FILE, options)
        self.names = (
            [each.name for each in self.session.get_inputs()],
            [each.name for each in self.session.get_outputs()],
        )
        return True

    async def predict(self, payload: Any) -> Any:
        inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        found = self.session.run(self.names[1], inputs)
        outputs = [
            NumpyCodec.encode_output(name, array)
            for name, array in zip(self.names[1], found, strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


async def main(port: int) -> None:
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    server = MLServer(
        Settings(host="127.0.0.1", parallel_workers=0, debug=False, gzip_enabled=False, **ports)
    )
    await server.start(
        [
            ModelSettings(
                name="served", implementation=Served, max_batch_size=32, max_batch_time=0.001
            )
        ]
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[2])))
