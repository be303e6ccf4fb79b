"""Doctor: what this machine can build and run, without importing anything heavy."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attar.engines import cpu
from attar.pipeline.keys import machine

if TYPE_CHECKING:
    from attar.engines.runtimes.runtime import BuildSpec, Runtime

MISSING = "not installed"
CONFLICT = "onnxruntime and onnxruntime-gpu shadow each other: uninstall one"
PARTS = {
    "train": ("torch", "accelerate", "onnx", "onnxscript", "matplotlib", "jinja2"),
    "core": ("onnxruntime", "numpy", "safetensors", "pydantic", "click", "rich", "filelock"),
}
OTHERS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino")}
OTHERS |= {name: (f"{name}-cu13", f"{name}-cu12") for name in ("tensorrt", "tensorrt-rtx")}
"""Packages that contain a runtime besides the one of its name."""
TESTED = {
    "tensorrt-rtx": "built without a GPU, never run",
    "tensorrt": "never built nor run",
}
"""How far attar's own tests went with a runtime whose engines they did not run."""


def describe_abilities(runtimes: Mapping[str, Runtime], asked: type[BuildSpec]) -> dict[str, Any]:
    """Return the machine, the installed versions by extra, the abilities of each runtime, and the
    commands that can run."""
    versions = {
        extra: {name: find_version(name) for name in names} for extra, names in PARTS.items()
    }
    missing = [name for name, found in versions["train"].items() if found == MISSING]
    can_train = f"no: install attar[train] for {', '.join(missing)}" if missing else "yes"
    has_both = MISSING not in map(find_version, ("onnxruntime", "onnxruntime-gpu"))
    return {
        "machine": machine.describe_machine() | {"flags": format_cpu_flags()},
        **versions,
        "runtimes": {
            name: describe_runtime(name, runtime, asked) for name, runtime in runtimes.items()
        },
        "train and export": can_train,
        "conflict": CONFLICT if has_both else "none",
    }


def format_cpu_flags() -> str:
    """Return the CPU's features by which kernels are chosen; the key has a digest of all."""
    return ", ".join(cpu.describe_machine()["flags"]) or "none"


def describe_runtime(name: str, runtime: Runtime, asked: type[BuildSpec]) -> dict[str, str]:
    """Return a runtime's version, or how to install it, and the precisions that it can build and
    run here, with reasons for the others.

    A runtime, its package and attar's extra have one name. ONNX Runtime is no extra and has several
    packages.
    """
    version = find_runtime_version(name)
    tested = {"tested": TESTED[name]} if name in TESTED else {}
    if version == MISSING:
        package = "onnxruntime" if name == "onnxruntime" else f"'attar[{name}]'"
        return {"version": f"{MISSING}: pip install {package}", **tested}
    specs = {precision: asked(precision) for precision in sorted(runtime.precisions)}
    return {
        "version": version,
        "builds": format_precisions(specs, runtime.explain_unbuildable),
        "runs": format_precisions(specs, runtime.explain_unrunnable),
        **tested,
    }


def format_precisions(
    specs: Mapping[str, BuildSpec], explain: Callable[[BuildSpec], str | None]
) -> str:
    """Return ``fp32, int8; not bf16: REASON``."""
    able: list[str] = []
    lacking: dict[str, list[str]] = {}
    for precision, spec in specs.items():
        reason = explain(spec)
        (lacking.setdefault(reason, []) if reason else able).append(precision)
    if not able and len(lacking) == 1:
        return f"none: {next(iter(lacking))}"
    reasons = [f"not {', '.join(names)}: {reason}" for reason, names in lacking.items()]
    return "; ".join([", ".join(able) or "none", *reasons])


def find_runtime_version(name: str) -> str:
    """Return the version of a runtime, and its package if that has another name."""
    for package in (name, *OTHERS.get(name, ())):
        version = find_version(package)
        if version != MISSING:
            return version if package == name else f"{version} ({package})"
    return MISSING


def find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING
