"""What ``candidates = "all"`` offers on this machine and on others, found without loading a runtime."""

from __future__ import annotations

import pytest

from attar.stages.choose import offers

PRECISIONS = ("fp32", "int8", "int8-dynamic", "int8-weights")
CPU = [{"runtime": "onnxruntime", "precision": precision} for precision in PRECISIONS]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU without bf16 and without a GPU, where nothing but ONNX Runtime is installed."""
    monkeypatch.setattr(offers, "list_gpus", list)
    monkeypatch.setattr(offers, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr(offers, "find_spec", lambda module: None)
    monkeypatch.setattr(offers, "is_installed", lambda package: False)
    monkeypatch.setattr(offers, "RUNTIMES", dict.fromkeys(("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"), ""))
    return monkeypatch


def test_onnx_runtime_is_always_offered(machine: pytest.MonkeyPatch) -> None:
    assert offers.list_runnable_candidates() == CPU


def test_openvino_is_offered_where_it_is_installed_and_bf16_where_the_cpu_has_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(offers, "find_spec", lambda module: module == "openvino" or None)
    assert [each["precision"] for each in offers.list_runnable_candidates()[len(CPU) :]] == ["fp32", "int8"]
    for flags, native in (({"avx512_bf16"}, ["bf16"]), ({"bf16", "asimdhp"}, ["bf16", "fp16"])):  # x86, Arm
        machine.setattr(offers, "cpu_flags", lambda flags=flags: flags)
        found = [each["precision"] for each in offers.list_runnable_candidates()[len(CPU) :]]
        assert found == ["fp32", *native, "int8"]
    machine.setattr(offers, "RUNTIMES", {"onnxruntime": ""})
    assert offers.list_runnable_candidates() == CPU


def test_a_gpu_is_offered_with_what_is_installed_for_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(offers, "find_spec", lambda module: module == "tensorrt_rtx" or None)
    assert offers.list_runnable_candidates() == CPU
    machine.setattr(offers, "list_gpus", lambda: ["a GPU"])
    machine.setattr(offers, "is_installed", lambda package: package == "onnxruntime-gpu")
    assert offers.list_runnable_candidates()[len(CPU) :] == [
        {"runtime": "onnxruntime", "precision": "fp32", "provider": offers.CUDA},
        {"runtime": "onnxruntime", "precision": "fp16", "provider": offers.CUDA},
        {"runtime": "tensorrt-rtx", "precision": "fp16"},
        {"runtime": "tensorrt-rtx", "precision": "int8"},
    ]


def test_packages_are_looked_up_by_their_name() -> None:
    assert offers.is_installed("numpy")
    assert not offers.is_installed("attar-has-no-such-package")
