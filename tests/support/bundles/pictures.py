"""Bundles of pictures, from that of points: ink on the right is class 0, ink above is class 1, and no ink is neither."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file, save_file
from tritonclient import http

from attar.bundle import checksums, ragged
from attar.models import preprocess
from attar.models.preprocess import CenterCrop, ChannelsFirst, DecodeImage, Resize, Scale, Step
from attar.models.task import Array
from tests.support.proof.proof_parts import STUDENT, TEACHER, Matrix
from tests.support.serving.server_process import ServerProcess
from tests.support.serving.serving_parts import triton_client

FILES: list[Step] = [DecodeImage(), Resize(shorter=8), CenterCrop(height=8, width=8), ChannelsFirst(), Scale(by=1 / 255)]
"""From any file to ``[N, 3, 8, 8]``."""
WAYS = {"right": (slice(None), slice(-1, None)), "up": (slice(None, 1), slice(None))}
"""Where the ink of a class is, in eighths."""


def matrix(side: str, channels: int) -> Matrix:
    """``[channels * 8 * 8, 3]``: where the ink is, as a point, by the matrix of points."""
    row, column = np.divmod(np.arange(64), 8)
    point = np.stack([column - 3.5, 3.5 - row], 1) / 8 / channels
    made: Matrix = np.tile(point @ {"teacher": TEACHER, "student": STUDENT}[side], (channels, 1)).astype(np.float32)
    return made


def write_graph(path: Path, weights: Matrix) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", len(weights) // 64, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "matrix"], ["logits"])]
    graph = helper.make_graph(nodes, "pictures", [x], [logits], [numpy_helper.from_array(weights, "matrix")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def bundle_of(points: Path, to: Path, raw: Array, steps: Sequence[Step]) -> Path:
    """The bundle of points, turned into one that reads 16 ``raw`` samples by ``steps``."""
    made = Path(shutil.copytree(points, to))
    inputs = preprocess.apply({"x": steps}, {"x": raw})["x"]
    channels = inputs.shape[1]
    for file, side in (("engines/onnxruntime", "student"), ("graphs", "student"), ("reference", "teacher")):
        write_graph(made / file / "model.onnx", matrix(side, channels))
    flat: Matrix = np.asarray(inputs, np.float32).reshape(len(inputs), -1)
    golden = {name: array for name, array in load_file(made / "golden.safetensors").items() if not name.startswith("raw.x")}
    golden |= ragged.encode_samples("raw.x", raw)
    golden |= {"teacher.logits": flat @ matrix("teacher", channels), "engine.logits": flat @ matrix("student", channels)}
    save_file(golden, made / "golden.safetensors")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["inputs"]["x"]["axes"] = ["batch", *inputs.shape[1:]]
    manifest["preprocess"]["x"] = [step.model_dump(mode="json") for step in steps]
    (made / "manifest.json").write_text(json.dumps(manifest))
    checksums.write_checksums(made)
    return made


def of_pixels(points: Path, to: Path) -> Path:
    """It takes grey pixels, uint8 ``[N, 1, 8, 8]``."""
    raw = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), np.uint8)
    return bundle_of(points, to, raw, [Scale(by=1 / 255)])


def of_files(points: Path, to: Path) -> Path:
    """It takes files of pictures, whose sizes differ."""
    return bundle_of(points, to, objects(*(encoded(noise(8 + n, 12 + n % 3, seed=n)) for n in range(16))), FILES)


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def inked(way: str, side: int = 64, mode: str = "RGB") -> Image.Image:
    """White where the class wants it, else black."""
    pixels: npt.NDArray[np.uint8] = np.zeros((8, 8), np.uint8)
    pixels[WAYS[way]] = 255
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def objects(*files: bytes) -> Array:
    made = np.empty(len(files), object)
    made[:] = files
    return made


NAME = "points-raw"


def make_grey_png(side: int, content: bytes = b"") -> bytes:
    """Grey, and as wide as it is high, whatever its content (PNG specification, section 5)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


UP_PNG = encoded(inked("up"))


def infer_pictures(server: ServerProcess, files: Sequence[bytes], binary: bool = True) -> Array:
    asked = http.InferInput("x", [len(files)], "BYTES")
    asked.set_data_from_numpy(objects(*files), binary_data=binary)
    with triton_client(f"{server.http[0]}:{server.http[1]}") as client:
        made: Array = client.infer(NAME, [asked]).as_numpy("logits")
    return made
