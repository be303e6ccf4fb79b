"""A served bundle that reads files of pictures, in a process of its own: over every transport, and whatever is sent as one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import attar
from attar.models.preprocess import ChannelsFirst, Resize, Scale, Step
from attar.models.preprocess.images import stack_images
from attar.models.task import Array
from attar.pipeline.core.errors import AttarError
from attar.serving.models.preprocessor import count_pixels
from tests.support.bundles import pictures
from tests.support.bundles.pictures import NAME, UP_PNG, encoded, infer_pictures, inked, make_grey_png, noise, objects
from tests.support.serving.server_process import ServerProcess, run_server
from tests.support.serving.serving_parts import ask as ask_grpc
from tests.support.serving.serving_parts import running

GROWTH = 60_000
"""Kilobytes that broken pictures may take at most, Pillow itself among them."""


@pytest.fixture(scope="module")
def bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.of_files(points_bundle, tmp_path_factory.mktemp("pictures") / "points")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with run_server(tmp_path_factory.mktemp("serve"), "--max-pixels", "60000000", str(bundle)) as made:
        yield made
        made.check()


def turned(image: Image.Image) -> bytes:
    """As a camera saves it that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


def animation() -> bytes:
    file = BytesIO()
    inked("up").save(file, "GIF", save_all=True, append_images=[inked("right")], duration=50)
    return file.getvalue()


TAKEN = {
    "png": UP_PNG,
    "jpeg": encoded(noise(40, 60), "JPEG"),
    "grey": encoded(noise(9, 30, "L")),
    "transparent": encoded(noise(30, 20, "RGBA")),
    "turned": turned(inked("right")),
    "one pixel": encoded(noise(1, 1)),
    "animation": animation(),
}
BROKEN = {
    "cut": (encoded(noise(64, 64))[:2000], "image file is truncated"),
    "text": (b"hello", "cannot identify image file"),
    "empty": (b"", "got 0 bytes as sample 0 of 1"),
    "hollow": (make_grey_png(7000), "image file is truncated"),
    "bomb": (make_grey_png(50_000), "claims more pixels than its max_pixels, 50000000; send a smaller image"),
    "narrow": (encoded(Image.new("L", (65_537, 1))), "sides up to 65,536"),
}


def over_grpc(server: ServerProcess, files: Sequence[bytes]) -> Array:
    asked = triton.InferInput("x", [len(files)], "BYTES")
    asked.set_data_from_numpy(objects(*files))
    with triton.InferenceServerClient(server.grpc) as client:
        made: Array = client.infer(NAME, [asked]).as_numpy("logits")
    return made


def in_json(server: ServerProcess, *texts: str) -> tuple[int, Any]:
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]}
    with closing(HTTPConnection(*server.http, timeout=20)) as connection:
        connection.request("POST", f"/v2/models/{NAME}/infer", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def expected(bundle: Path, files: Sequence[bytes]) -> Array:
    with attar.open(bundle) as model:
        return model(model.preprocess({"x": objects(*files)}))["logits"]


@pytest.mark.parametrize("ask", [infer_pictures, over_grpc])
def test_every_picture_is_answered_as_the_bundle_answers(server: ServerProcess, bundle: Path, ask: Any) -> None:
    for name, file in TAKEN.items():
        assert np.array_equal(ask(server, [file]), expected(bundle, [file])), name
    assert ask(server, [UP_PNG]).argmax() == 1


@pytest.mark.parametrize("ask", [infer_pictures, over_grpc])
def test_pictures_of_different_sizes_go_together(server: ServerProcess, bundle: Path, ask: Any) -> None:
    files = list(TAKEN.values())
    assert np.array_equal(ask(server, files), expected(bundle, files))


def test_what_a_camera_turned_is_turned_back(server: ServerProcess) -> None:
    """Turned by a quarter to the right, what is on the right comes below, which is the opposite of up."""
    logits = infer_pictures(server, [turned(inked("right"))])
    assert logits.argmin() == 1
    assert infer_pictures(server, [encoded(inked("right"))]).argmax() == 0


def test_json_holds_texts_and_no_files(server: ServerProcess, bundle: Path) -> None:
    """BYTES in JSON are the UTF-8 of a text, which a picture's file hardly ever is: Triton's client does not send it either."""
    with pytest.raises(InferenceServerException, match="use binary_data=True"):
        infer_pictures(server, [UP_PNG], binary=False)
    for text in (base64.b64encode(UP_PNG).decode(), UP_PNG.decode("latin-1")):
        status, answer = in_json(server, text)
        assert (status, "send the whole file as it is on disk: no base64, no text" in answer["error"]) == (400, True)
    ascii_alone = encoded(Image.new("RGB", (2, 2), "#102030"), "BMP", dpi=(1, 1))
    status, answer = in_json(server, ascii_alone.decode("ascii"))
    assert status == 200
    assert np.allclose(answer["outputs"][0]["data"], expected(bundle, [ascii_alone]).ravel())


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_is_refused_and_the_next_is_answered(server: ServerProcess, name: str) -> None:
    file, told = BROKEN[name]
    before = server.resident()
    for ask in (infer_pictures, over_grpc):
        with pytest.raises(InferenceServerException) as caught:
            ask(server, [file])
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
        assert told in caught.value.message()
        assert infer_pictures(server, [UP_PNG]).argmax() == 1
    assert server.resident() - before < GROWTH
    server.check()


def test_which_of_several_is_broken_is_told(server: ServerProcess) -> None:
    with pytest.raises(InferenceServerException, match="got 5 bytes as sample 1 of 3"):
        infer_pictures(server, [UP_PNG, b"hello", UP_PNG])


def peak(server: ServerProcess) -> int:
    """Kilobytes that were resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


def test_many_large_pictures_in_few_bytes_are_refused_before_they_are_decoded(server: ServerProcess) -> None:
    """Each is one that is taken alone. A request of 8 of 7000 x 7000 had taken 2.7 GB and the only thread for a minute."""
    large = make_grey_png(5000, bytes(5001 * 5000))
    assert len(large) < 50_000
    before = peak(server)
    for ask, status in ((infer_pictures, "413"), (over_grpc, "StatusCode.RESOURCE_EXHAUSTED")):
        with pytest.raises(InferenceServerException, match="have 75,000,000 pixels, decoded or resized; 60,000,000") as caught:
            ask(server, [large] * 3)
        assert caught.value.status() == status
    assert infer_pictures(server, [UP_PNG]).argmax() == 1
    assert peak(server) - before < GROWTH


def test_pixels_that_a_resize_would_make_count() -> None:
    """1 x 100 becomes 8 x 800; what is no picture counts nothing, as decoding it says more."""
    narrow = encoded(Image.new("L", (100, 1)))
    count_pixels({"x": pictures.FILES}, {"x": objects(narrow, b"no picture")}, 6400)
    with pytest.raises(AttarError, match="have 6,400 pixels, decoded or resized; 6,399 a request are allowed"):
        count_pixels({"x": pictures.FILES}, {"x": objects(narrow)}, 6399)


def test_pixels_of_arrays_are_counted_before_their_content_is_read(points_bundle: Path, tmp_path: Path) -> None:
    """A request that has too many was read whole before, so its content was refused first."""
    steps = [Resize(height=8, width=8), ChannelsFirst(), Scale(by=1 / 255)]
    raw = np.random.default_rng(0).integers(0, 256, (16, 9, 9, 3), np.uint8)
    bundle = pictures.bundle_of(points_bundle, tmp_path / "points", raw, steps)
    about = {"name": "x", "datatype": "UINT8", "shape": [2, 400, 500, 3]}
    tensor = service_pb2.ModelInferRequest.InferInputTensor(**about)
    message = service_pb2.ModelInferRequest(model_name="points-raw", inputs=[tensor])
    with running(bundle, grpc_port=0, max_pixels=399_999) as server:
        path = "/v2/models/points-raw/infer"
        status, told, _ = server.ask("POST", path, {"inputs": [about | {"data": ["no number"]}]})
        assert (status, "have 400,000 pixels" in told["error"]) == (413, True)
        with pytest.raises(grpc.RpcError, match="have 400,000 pixels") as caught:
            ask_grpc(server, message)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        values = raw[:2].ravel().tolist()
        taken = {"inputs": [about | {"shape": [2, 9, 9, 3], "data": values}]}
        assert server.ask("POST", path, taken)[0] == 200


def test_pixels_that_a_resize_would_make_of_arrays_count() -> None:
    """24 pictures of 1 x 600, 43 kB in all, had become 724 million pixels."""
    steps: dict[str, list[Step]] = {"x": [Resize(shorter=224)], "text": [Scale(by=2)]}
    raw: dict[str, Array] = {"x": np.zeros((24, 1, 600, 3), np.uint8), "text": np.zeros((1, 1, 1, 1))}
    with pytest.raises(AttarError, match="have 722,534,400 pixels, decoded or resized; 50,000,000 a request are allowed"):
        count_pixels(steps, raw, 50_000_000)
    count_pixels(steps, raw | {"x": raw["x"][:1]}, 30_105_600)
    with pytest.raises(AttarError, match="have 30,155,776 pixels"):
        count_pixels(steps, raw | {"x": stack_images([raw["x"][0], np.zeros((1, 1, 3), np.uint8)])}, 30_105_600)
    for nothing in (np.zeros((1, 0, 600, 3), np.uint8), np.zeros((1, 1, 600, 3)), np.zeros((1, 3), np.uint8)):
        count_pixels(steps, raw | {"x": nothing}, 1)
