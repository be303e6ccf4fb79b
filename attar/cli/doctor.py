"""Doctor: what this machine can do, found out without importing anything heavy."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attar.pipeline.keys import machine

if TYPE_CHECKING:
    from attar.engines.runtimes.runtime import BuildSpec, Runtime

PARTS = {
    "train": ("torch", "accelerate", "onnx", "onnxscript", "matplotlib", "jinja2"),
    "core": ("onnxruntime", "numpy", "safetensors", "pydantic", "click", "rich", "filelock"),
}
OTHERS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino")}
"""Packages that bring a runtime as well as the one of its name."""
UNTESTED = {
    "tensorrt-rtx": "its engines are built and checked on machines without a GPU; none was run yet",
    "tensorrt": "untested: neither built nor run on any machine yet",
}
"""What attar's own tests have not seen of a runtime."""


def describe_abilities(runtimes: Mapping[str, Runtime], asked: type[BuildSpec]) -> dict[str, Any]:
    """The machine, installed versions by extra, what each runtime can do here, and which commands
    can run."""
    versions = {
        extra: {name: find_version(name) for name in names} for extra, names in PARTS.items()
    }
    missing = [name for name, found in versions["train"].items() if found == "not installed"]
    can_train = f"no: install attar[train] for {', '.join(missing)}" if missing else "yes"
    both = (
        find_version("onnxruntime") != "not installed"
        and find_version("onnxruntime-gpu") != "not installed"
    )
    return {
        "machine": machine.describe_machine(),
        **versions,
        "runtimes": {
            name: describe_runtime(name, runtime, asked) for name, runtime in runtimes.items()
        },
        "train and export": can_train,
        "conflict": "onnxruntime and onnxruntime-gpu shadow each other: uninstall one"
        if both
        else "none",
    }


def describe_runtime(name: str, runtime: Runtime, asked: type[BuildSpec]) -> dict[str, str]:
    """Its version, or what installs it; the precisions that it can build and run here, and what is
    missing for the others.

    A runtime, its package and attar's extra have one name; ONNX Runtime is no extra, and there are
    other packages of it.
    """
    found = find_runtime_version(name)
    told = {"untested here": UNTESTED[name]} if name in UNTESTED else {}
    if found == "not installed":
        brings = "onnxruntime" if name == "onnxruntime" else f"'attar[{name}]'"
        return {"version": f"not installed: pip install {brings}", **told}
    precisions = sorted(runtime.precisions)
    unbuilt = {
        each: why for each in precisions if (why := runtime.explain_unbuildable(asked(each)))
    }
    unrun = {each: why for each in precisions if (why := runtime.explain_unrunnable(asked(each)))}
    return {
        "version": found,
        "builds": format_precisions(precisions, unbuilt),
        "runs": format_precisions(precisions, unrun),
        **told,
    }


def format_precisions(precisions: list[str], lacking: Mapping[str, str]) -> str:
    """``fp32, int8; not bf16: REASON``"""
    able = ", ".join(each for each in precisions if each not in lacking) or "none"
    reasons = {
        why: ", ".join(each for each in lacking if lacking[each] == why) for why in lacking.values()
    }
    if len(lacking) == len(precisions) and len(reasons) == 1:
        return f"none: {next(iter(reasons))}"
    return "; ".join([able, *(f"not {names}: {why}" for why, names in reasons.items())])


def find_runtime_version(name: str) -> str:
    """The version of a runtime, with the package that it is in where that has another name."""
    others = {each: find_version(each) for each in OTHERS.get(name, ())}
    found = [f"{number} ({each})" for each, number in others.items() if number != "not installed"]
    return found[0] if found and find_version(name) == "not installed" else find_version(name)


def find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
