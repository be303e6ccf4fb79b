"""What an engine needs: its runtime, the machine that it was built for, and, where it is native
code, somebody's trust."""

from __future__ import annotations

from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import EngineRequirements
from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import BuildSpec
from attar.pipeline.core.errors import InvalidBundleError

INDIFFERENT = {"cores"}
"""What the runtime records about a machine and an engine does without."""


def check_machine(needs: EngineRequirements) -> None:
    """Raises InvalidBundleError when the engine was built for another runtime or machine than is
    here."""
    with blame_bundle(f"the engine needs {needs.runtime} {needs.version}"):
        environment = runtimes.load_runtime(needs.runtime).describe_environment()
    version, here = environment.version, environment.machine
    if version.split(".")[:2] != (needs.version or "").split(".")[:2]:
        raise InvalidBundleError(
            f"the engine was built by {needs.runtime} {needs.version}, here is {version}; install "
            "that, or build it here"
        )
    other = [
        f"{name} {needs.machine.get(name)}, here {here[name]}"
        for name in here
        if name not in INDIFFERENT and needs.machine.get(name) != here[name]
    ]
    if other:
        raise InvalidBundleError(
            f"the engine was built on another machine: {'; '.join(other)}. Build it on this one"
        )


def check_runnable(needs: EngineRequirements) -> None:
    """Raises InvalidBundleError where this machine lacks what the engine runs on; nothing is
    loaded."""
    runtime, asked = runtimes.load_runtime(needs.runtime), make_build_spec(needs)
    problem = f"the engine of {runtime.title} cannot run here"
    with blame_bundle(problem):
        runtime.check_available(asked)
    if missing := runtime.explain_unrunnable(asked):
        raise InvalidBundleError(f"{problem}: {missing}")


def explain_native_refusal(needs: EngineRequirements) -> str | None:
    """Why an engine is loaded only for who trusts it, and how to say so; None for one that is data
    alone."""
    runtime = runtimes.load_runtime(needs.runtime)
    if (content := runtime.native_content(make_build_spec(needs))) is None:
        return None
    return (
        f"it is native code, which can do what you can do ({runtime.title}: {content}); give "
        "--trusted FILE, the public keys of who signed it, or --allow-native for what you built "
        "yourself (in Python `trusted=` and `allow_native=True`)"
    )


def make_build_spec(needs: EngineRequirements, threads: int | None = None) -> BuildSpec:
    return BuildSpec(
        needs.precision, threads or needs.threads, needs.provider, needs.profile, needs.options
    )
