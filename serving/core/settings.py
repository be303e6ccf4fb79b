"""The settings of a server."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """The options of `attar serve`, whose ``--help`` describes each of them.

    The comments here add what --help leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    http_port: int = Field(8000, ge=0, le=65535)
    grpc_port: int | None = Field(8001, ge=0, le=65535)
    """None: HTTP only."""

    allowed_host: tuple[str, ...] = ()
    """Further names of the server for HTTP without tokens and TLS: a page that calls it by another
    name belongs to another site. Health is answered under any name."""
    token_file: Path | None = None
    """Read again when it changes and on SIGHUP. None: every client may ask for everything."""
    model_control: bool = False
    control_token_file: Path | None = None
    """Its tokens open everything else, too. None: every client may control the models, which is
    allowed only on loopback and without ``token_file``."""
    tls_cert: Path | None = None
    """The certificate with its chain. With it only TLS 1.2 or later is spoken. Read again on SIGHUP
    for HTTP."""
    tls_key: Path | None = None
    """None: it is in the file of the certificate."""

    trusted: Path | None = None
    """Read again whenever a bundle is loaded. None: bundles need no signature."""
    allow_native: bool = False
    """Load native code from bundles that no trusted key signed; see ``Runtime.native_content``."""

    max_batch: int = Field(32, ge=1)
    """Never more than the bundle promises."""
    preferred: tuple[int, ...] = ()
    """Nothing waits for a batch of such a size."""
    instances: int | None = Field(None, ge=1, le=1024)
    """Calls of a model's engine at a time, each in a thread. None: one on a GPU, else as many as
    the cores have room for; an engine that needs less than ``inline_below`` runs on the event
    loop."""
    threads: int | None = Field(None, ge=1, le=1024)
    inline_below: float = Field(1e-3, ge=0)
    """Seconds for a full batch below which a thread costs more than it frees; 20 times as many on
    a single core, where a thread computes nothing beside the event loop."""
    queue: int = Field(1024, ge=1)
    deadline: float = Field(30.0, gt=0)
    """A request's parameter ``timeout`` (microseconds) may ask for less."""

    max_body: int | None = Field(None, ge=1)
    """Maximum bytes of a request's body, and of a message of gRPC, decompressed too. None: the
    size of the model's largest request, in JSON or in protobuf."""
    max_bodies: int | None = Field(None, ge=1)
    """Maximum bytes of the bodies, tensors and pictures of all unanswered requests, and of those
    that wait for the shadow. Replies that clients do not take in count, too."""
    max_header: int = Field(16 * 2**10, ge=1)
    """The limit on the metadata of gRPC, too."""
    max_tensors: int = Field(64, ge=1)
    max_elements: int = Field(2**24, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)
    """Maximum pixels of all pictures of a request, decoded or resized: a thousand bytes may ask for
    as many."""
    max_connections: int = Field(4096, ge=1)
    """Maximum open connections, over HTTP and over gRPC each, and calls of gRPC at a time.
    Beyond it the HTTP connection whose client is silent longest is closed, and the newest one of
    gRPC. `attar serve` takes fewer if the process may not open as many files."""

    idle: float = Field(75.0, gt=0)
    slow: float = Field(20.0, gt=0)
    drain: float = Field(30.0, ge=0)
    watch: float = Field(0.0, ge=0)
    """0: changes in the folders of bundles are not noticed."""
    allow_ungated: bool = False
    """The metadata of such a model says so."""

    page: bool = True
    access_log: bool = False
    """Refused requests are always logged."""
    shadow: str | None = None
    """``fp32`` for the bundle's fp32 student, or an ONNX file with the graph's inputs and outputs,
    such as the teacher."""
    shadow_rate: float = Field(0.01, gt=0, le=1)
    shadow_queue: int = Field(64, ge=1)
    """Further requests are dropped and counted."""
    shadow_window: int = Field(1000, ge=2)
    """Number of samples behind the rolling numbers."""
    shadow_seed: int | None = None
    ready_correlation: float | None = Field(None, gt=0, lt=1)
    """A model is not ready below it, and ready again a quarter of the way from there to 1."""
    ready_samples: int = Field(200, ge=2)
    """Number of samples before readiness depends on them; at most a full window."""

    @field_validator("allowed_host")
    @classmethod
    def _is_a_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
                raise ValueError(
                    f"{name!r} is no name of a host; give --allowed-host a name alone, such "
                    "as models.example.org"
                )
        return names

    @model_validator(mode="after")
    def _can_be_told(self) -> Settings:
        if self.ready_correlation is not None and self.shadow is None:
            raise ValueError(
                "ready_correlation needs a shadow to correlate with; give --shadow fp32 or a "
                "teacher's ONNX file"
            )
        return self
