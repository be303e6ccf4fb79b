"""Settings: everything about a server that can be set."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every one of this machine."""
    http_port: int = Field(8000, ge=0, le=65535)
    """0 takes any free one; the line that says that the server is ready names it."""
    grpc_port: int | None = Field(8001, ge=0, le=65535)
    """The same for gRPC; None listens for HTTP alone."""

    allowed_host: tuple[str, ...] = ()
    """Names, beside ``host``, localhost and every address, that a server without tokens and TLS
    may be called by over HTTP: a page that has another name for it is one of another site.
    Health is answered under any name."""
    token_file: Path | None = None
    """A file of bearer tokens, one a line, each of 16 characters or more; who sends none of them
    is answered about health alone. Read again when it changes and on SIGHUP. None: everybody who
    reaches the address may ask for everything."""
    model_control: bool = False
    """Whether models are loaded and unloaded by requests at all."""
    control_token_file: Path | None = None
    """A file as ``token_file``, of other tokens: who sends one of them may load and unload
    models, and all else. None: with ``model_control`` everybody may, which is taken on loopback
    and without ``token_file`` alone."""
    tls_cert: Path | None = None
    """The certificate in PEM, with those between it and its root; then HTTP and gRPC speak TLS
    1.2 or later alone. Read again on SIGHUP for HTTP."""
    tls_key: Path | None = None
    """The certificate's private key in PEM; None where it stands in the same file."""

    trusted: Path | None = None
    """A file of Ed25519 public keys in PEM, one after another; each bundle must be signed by one
    of them. Read again whenever a bundle is loaded. None: any bundle that is whole and passed is
    served, whoever made it."""

    allow_native: bool = False
    """Load engines that are native code from bundles that no trusted key signed; see
    ``Runtime.native_content``."""

    max_batch: int = Field(32, ge=1)
    """Rows that requests are joined to at most; never more than the bundle promises."""
    preferred: tuple[int, ...] = ()
    """Batch sizes to cut a longer queue to, where an engine is fastest at some. Nothing ever
    waits for one of them."""
    instances: int | None = Field(None, ge=1, le=1024)
    """Calls of each model's engine that run at the same time, each in a thread. None: as many as
    there are cores for their threads, one on a GPU, and an engine that needs less than
    ``inline_below`` runs between two turns of the event loop instead."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads of each engine; None: as many as the bundle was built for."""
    inline_below: float = Field(1e-3, ge=0)
    """Seconds for a full batch under which handing over to a thread costs more than it frees; 20
    times as many on a single core, where a thread computes nothing beside the event loop."""
    queue: int = Field(1024, ge=1)
    """Requests that wait for one model at most; further ones are refused with 503."""
    deadline: float = Field(30.0, gt=0)
    """Seconds from arrival to answer, unless the request's parameter ``timeout`` (microseconds)
    asks for less."""

    max_body: int | None = Field(None, ge=1)
    """Maximum bytes of a request's body, and of a message of gRPC, decompressed too. None: the
    size of the model's largest request, in JSON or in protobuf."""
    max_bodies: int | None = Field(None, ge=1)
    """Bytes that all requests without an answer and the shadow's queue may take together:
    bodies, tensors and pictures. Beyond it they get 503. None: a quarter of the memory that this
    process may have, 1 GiB at most."""
    max_header: int = Field(16 * 2**10, ge=1)
    """Bytes of a request's line and headers; of its metadata in gRPC."""
    max_tensors: int = Field(64, ge=1)
    """Inputs or outputs that a request may name."""
    max_elements: int = Field(2**24, ge=1)
    """Elements of one tensor."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Pixels of all pictures of a request together, decoded or resized: some thousand bytes can
    ask for as many."""
    max_connections: int = Field(4096, ge=1)
    """Maximum open connections, over HTTP and over gRPC each, and calls of gRPC at a time.
    Beyond it the HTTP connection whose client is silent longest is closed, and the newest one of
    gRPC. `attar serve` takes fewer if the process may not open as many files."""

    idle: float = Field(75.0, gt=0)
    """Seconds that a connection may stay open without a request."""
    slow: float = Field(20.0, gt=0)
    """Seconds that a client may take to send one request, or to take in one answer."""
    drain: float = Field(30.0, ge=0)
    """Seconds that requests have to finish in after SIGTERM."""
    watch: float = Field(0.0, ge=0)
    """Seconds between looks at the bundles' folders for new content; 0 never looks, a call to
    the repository loads anew."""
    allow_ungated: bool = False
    """Serve bundles that never passed their gates; every metadata answer says so."""

    page: bool = True
    """Answer ``GET /`` with a page to try the models on."""
    access_log: bool = False
    """A line of the log for every request. Those that were refused always have one."""
    shadow: str | None = None
    """The model that answers a sample of the traffic again: ``fp32`` for the bundle's fp32 student,
    or an ONNX file with the graph's inputs and outputs, such as the teacher."""
    shadow_rate: float = Field(0.01, gt=0, le=1)
    """The share of requests that is answered again."""
    shadow_queue: int = Field(64, ge=1)
    """Requests that wait to be answered again at most; further ones are dropped and counted."""
    shadow_window: int = Field(1000, ge=2)
    """Samples that the rolling numbers are of."""
    shadow_seed: int | None = None
    """Seed of the choice of requests; None: another one each time."""
    ready_correlation: float | None = Field(None, gt=0, lt=1)
    """The rolling correlation under which a model is no longer ready. It is again at a quarter
    of the way from there to 1."""
    ready_samples: int = Field(200, ge=2)
    """Samples in the window before which readiness does not depend on them; where the window
    holds fewer, a full one."""

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
