"""What a task promises of its integers travels in the bundle, and what lies outside never gets to the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

import attar
from attar.bundle.accept import find_outside
from attar.bundle.opening import check_bundle
from attar.models.preprocess import Step
from attar.models.task import InMemory, Split, SplitName, Tensor
from attar.pipeline.core.errors import AttarError
from attar.proof.verdicts.limits import GateLimits
from tests.support.bundles.packaging import edit_manifest, package_bundle
from tests.support.proof import proof_parts
from tests.support.proof.proof_parts import SAMPLES, TEACHER, Matrix, Points
from tests.support.serving.serving_parts import Running, running, triton_grpc_client

HIGH = 8
INFER = "/v2/models/points/infer"


class Ids(Points):
    """A point is two ids."""

    inputs = {"x": Tensor("int64", ("batch", 2), high=HIGH)}
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {}

    def split(self, name: SplitName) -> Split:
        x = np.random.default_rng(0).integers(0, HIGH, (SAMPLES, 2))
        return InMemory({"x": x}, {"label": (x.astype(np.float32) @ TEACHER).argmax(1)})


def write_lookup(path: Path, matrix: Matrix) -> None:
    """``logits = table[x] @ matrix``: an id of HIGH or more is an error, a negative one counts from the table's end."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", matrix.shape[1]])
    held = {"table": np.arange(HIGH, dtype=np.float32), "matrix": matrix}
    nodes = [helper.make_node("Gather", ["table", "x"], ["found"]), helper.make_node("MatMul", ["found", "matrix"], ["logits"])]
    graph = helper.make_graph(nodes, "ids", [x], [logits], [numpy_helper.from_array(each, name) for name, each in held.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof_parts, "write_graph", write_lookup)
        gates = GateLimits(score_drop=0.5, correlation=0.5, leak=1.0)
        return package_bundle(tmp_path_factory.mktemp("ids") / "chain", gates, "tests.serving.protocol.test_promised_values:Ids")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with running(bundle, grpc_port=0) as made:
        yield made


def asked(*rows: Sequence[int]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "INT64", "shape": [len(rows), 2], "data": rows}]}


def test_it_travels_in_the_manifest(bundle: Path, points_bundle: Path) -> None:
    highs = [json.loads((each / "manifest.json").read_text())["inputs"]["x"]["high"] for each in (bundle, points_bundle)]
    assert highs == [HIGH, None]


@pytest.mark.parametrize("value", [-1, HIGH, 2**40])
def test_it_is_refused_at_the_door(server: Running, value: int) -> None:
    calls = server.metric("attar_batch_rows_count")
    told = f"'x' has the value {value}, values lie from 0 to 7"
    status, answer, _ = server.ask("POST", INFER, asked([1, 2], [3, value]))
    assert (status, told in answer["error"]) == (400, True)
    with triton_grpc_client(server) as client, pytest.raises(InferenceServerException, match=f"INVALID_ARGUMENT.*{told}"):
        client.infer("points", [triton.InferInput("x", [1, 2], "INT64").set_data_from_numpy(np.array([[0, value]]))])
    assert server.ask("POST", INFER, asked([0, HIGH - 1]))[0] == 200
    assert server.metric("attar_batch_rows_count") == calls + 1


def test_the_description_says_it(server: Running) -> None:
    told = server.ask("GET", "/openapi.json")[1]["paths"][INFER]["post"]["requestBody"]["content"]["application/json"]
    (tensor,) = told["schema"]["properties"]["inputs"]["items"]["oneOf"]
    assert tensor["properties"]["data"]["items"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": HIGH - 1}


def test_who_opens_the_bundle_is_told(bundle: Path) -> None:
    with attar.open(bundle) as predict, pytest.raises(AttarError, match="'x' has the value 8, values lie from 0 to 7"):
        predict({"x": np.array([[0, 8]])})


def test_a_bundle_that_does_not_say_it_is_served_as_before(bundle: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(bundle, older)
    edit_manifest(older, lambda manifest: manifest["inputs"]["x"].pop("high"))
    check_bundle(older)
    with running(older) as server:
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
        status, answer, _ = server.ask("POST", INFER, asked([1, HIGH]))
        assert (status, "does not take these values" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("values", "high", "found"),
    [([0, 7], 8, None), ([3, -2], 8, -2), ([9, 3], 8, 9), ([9], None, None), ([], 8, None), ([255], 2**40, None)],
)
def test_what_lies_outside(values: list[int], high: int | None, found: int | None) -> None:
    assert find_outside(np.array(values, np.int64), high) == found
    if found is None or found > 0:
        assert find_outside(np.array(values, np.uint8), high) == found
