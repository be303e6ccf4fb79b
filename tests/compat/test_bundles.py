"""Bundles that earlier versions packaged are checked, opened and served by today's code."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient import http

import attar
from attar.bundle import golden
from attar.bundle.opening import check_bundle
from attar.bundle.verified import read_manifest
from attar.cli.main import main
from attar.engines.cpu import X86
from attar.pipeline.core.errors import InvalidBundleError
from tests.support.bundles.compat_parts import PUBLIC_KEY, describe_making_machine, unpack
from tests.support.bundles.packaging import edit_manifest
from tests.support.serving.serving_parts import running, triton_client
from tests.support.tasks.smoke import floats

pytestmark = pytest.mark.skipif(platform.machine() not in X86, reason="the engines were built for x86")
KINDS = ["image", "text", "embedding", "signed"]


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = unpack(request.param, tmp_path)
    describe_making_machine(monkeypatch, folder)
    return folder


def test_it_passes_every_check(bundle: Path) -> None:
    facts = check_bundle(bundle)
    assert (facts["bundle"], facts["verdict"], facts["machine"]) == ("recipe-cpu", "passed", "fits")
    assert facts["golden"]["requests"] == 16


def test_it_opens_and_answers_its_golden_requests(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    tensors = golden.read_golden(bundle, manifest)
    with attar.open(bundle) as model:
        outputs = model(model.preprocess({name: tensors[f"raw.{name}"] for name in manifest.inputs}))
    for name in manifest.outputs:
        np.testing.assert_allclose(floats(outputs[name]), floats(tensors[f"engine.{name}"]), rtol=1e-4, atol=1e-4)


def test_it_is_served(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    tensors = golden.read_golden(bundle, manifest)
    inputs = []
    with attar.open(bundle) as model:
        arrays = model.preprocess({name: tensors[f"raw.{name}"] for name in manifest.inputs})
    for name, array in arrays.items():
        sent = http.InferInput(name, list(array.shape), {"float32": "FP32", "int64": "INT64"}[str(array.dtype)])
        sent.set_data_from_numpy(array)
        inputs.append(sent)
    with running(bundle) as server, triton_client(server.url) as client:
        found = client.infer("recipe-cpu", inputs)
        for name in manifest.outputs:
            np.testing.assert_allclose(found.as_numpy(name), floats(tensors[f"engine.{name}"]), rtol=1e-4, atol=1e-4)


def test_a_signed_one_is_trusted_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = unpack("signed", tmp_path)
    describe_making_machine(monkeypatch, bundle)
    done = CliRunner().invoke(main, ["check", str(bundle), "--trusted", str(PUBLIC_KEY), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["signature"] == "valid"
    with running(bundle, trusted=PUBLIC_KEY) as server:
        assert server.ask("GET", "/v2/models/recipe-cpu/ready")[0] == 200


def test_an_unsigned_one_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = unpack("image", tmp_path)
    describe_making_machine(monkeypatch, bundle)
    with pytest.raises(InvalidBundleError, match="sign"):
        check_bundle(bundle, PUBLIC_KEY)


def test_a_newer_format_is_named_with_what_to_do(tmp_path: Path) -> None:
    bundle = unpack("image", tmp_path)
    edit_manifest(bundle, lambda manifest: manifest.update(format="attar bundle 3", colour="of a later time"))
    with pytest.raises(InvalidBundleError, match=r"manifest\.json .*'attar bundle 3'.* version 2:"):
        check_bundle(bundle)
    assert CliRunner().invoke(main, ["check", str(bundle)]).exit_code == InvalidBundleError.exit_code


@pytest.mark.parametrize("written", ["attar bundle 0", "attar bundle", "bundle 2", 2, None])
def test_another_format_is_refused_as_not_readable(tmp_path: Path, written: object) -> None:
    bundle = unpack("image", tmp_path)
    edit_manifest(bundle, lambda manifest: manifest.update(format=written))
    with pytest.raises(InvalidBundleError, match="reads: format"):
        check_bundle(bundle)
