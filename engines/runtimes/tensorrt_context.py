"""What runs an engine of TensorRT: its execution context, and how that is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SessionOptions:
    """How an engine is run."""

    hosted: bool = False
    """Whether it brings code for the host with it."""
    cuda_graphs: bool = False
    """Whether its kernels are recorded and started together."""
    runtime_cache: bool = False
    """Whether the kernels that are compiled for it are kept."""


DEFAULT_OPTIONS = SessionOptions()


def configure_runtime(trt: Any, engine: Any, options: SessionOptions) -> Any:
    """Return the runtime configuration of an engine; None where TensorRT has none.

    TensorRT-RTX compiles kernels for a new shape in the background and answers by slower ones until
    then, so what is timed and proven would not be what answers later. Here a call waits for them.
    It records CUDA graphs by itself.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return None
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    if options.cuda_graphs:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config


def create_context(engine: Any, config: Any) -> Any:
    """Create what runs an engine; None if TensorRT cannot."""
    given = () if config is None else (config,)
    return engine.create_execution_context(*given)
