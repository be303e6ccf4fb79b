from __future__ import annotations

import importlib.metadata
import sys

import pytest

from attar.cli import doctor
from attar.engines import cpu
from attar.engines.runtimes import openvino
from attar.engines.runtimes.onnxruntime import OnnxRuntime
from attar.engines.runtimes.openvino import OpenVino
from attar.engines.runtimes.runtime import RUNTIMES, BuildSpec, load_runtime


def test_every_runtime_is_listed_and_none_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = doctor.describe_abilities({name: load_runtime(name) for name in RUNTIMES}, BuildSpec)["runtimes"]
    assert found.keys() == RUNTIMES.keys()
    assert found["onnxruntime"] == {
        "version": importlib.metadata.version("onnxruntime"),
        "builds": "fp16, fp32, int8, int8-dynamic, int8-weights",
        "runs": "fp16, fp32, int8, int8-dynamic, int8-weights",
    }


@pytest.mark.parametrize(
    ("flags", "told"), [({"avx2", "fma", "rdtscp", "avx512_vnni"}, "avx2, avx512_vnni, fma"), (set(), "none")]
)
def test_the_features_that_kernels_are_chosen_by_are_named(flags: set[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    assert doctor.describe_abilities({}, BuildSpec)["machine"]["flags"] == told


def test_what_the_hardware_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(doctor, "find_version", lambda name: "1.2")
    found = doctor.describe_runtime("openvino", OpenVino(), BuildSpec)
    assert found["version"] == "1.2"
    assert found["runs"] == "bf16, fp32, int8; not fp16: this CPU has no fp16 arithmetic (amx_fp16 or asimdhp or avx512_fp16)"


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ({}, "bf16, fp32"),
        ({"bf16": "no GPU", "fp32": "no GPU"}, "none: no GPU"),
        ({"bf16": "a", "fp32": "b"}, "none; not bf16: a; not fp32: b"),
    ],
)
def test_reasons(lacking: dict[str, str], told: str) -> None:
    specs = {precision: BuildSpec(precision) for precision in ("bf16", "fp32")}
    assert doctor.format_precisions(specs, lambda spec: lacking.get(spec.precision)) == told


def test_onnx_runtime_in_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_version", lambda name: "1.32.0" if name == "onnxruntime-gpu" else "not installed")
    assert doctor.describe_runtime("onnxruntime", OnnxRuntime(), BuildSpec)["version"] == "1.32.0 (onnxruntime-gpu)"
    monkeypatch.setattr(doctor, "find_version", lambda name: "not installed")
    assert doctor.describe_runtime("onnxruntime", OnnxRuntime(), BuildSpec)["version"].endswith("pip install onnxruntime")


@pytest.mark.parametrize("name", ["openvino", "tensorrt"])
def test_what_is_not_installed_says_how_and_what_is_untested_says_so(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(doctor, "find_version", lambda name: "not installed")
    found = doctor.describe_runtime(name, OnnxRuntime(), BuildSpec)
    assert found["version"].endswith(f"pip install 'attar[{name}]'")
    assert found.get("tested") == {"openvino": None, "tensorrt": "never built nor run"}[name]
