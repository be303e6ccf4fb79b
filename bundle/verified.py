"""A bundle whose files are those that were packaged.

It says where to read them, what its manifest says, and who signed it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from attar.bundle import checksums, signatures
from attar.bundle.checksums import Checksums, Stamp
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import FORMAT_VERSION, BatchEngine, Manifest
from attar.bundle.private_copy import PrivateFolder, copy_verified
from attar.bundle.steps import hold_files, locate_output_steps, locate_steps
from attar.engines.runtimes.runtime import load_runtime
from attar.pipeline.core.errors import AttarError, InvalidBundleError
from attar.pipeline.core.version import VERSION


@dataclass(frozen=True)
class VerifiedBundle(AbstractContextManager["VerifiedBundle", None]):
    """Close it, or use it in a ``with`` statement, when nothing of it is read any more."""

    path: Path
    """The bundle's own folder."""
    root: Path
    """The folder to read its files from: ``path``, or a private copy of what a trusted key
    signed."""
    manifest: Manifest
    seal: Checksums
    stamp: Stamp
    """Of the files in ``path`` before they were verified."""
    allow_native: bool = False
    """Whether who opens it trusts its engine to be run, whoever made it."""
    copy: PrivateFolder | None = None

    @property
    def trusts_native(self) -> bool:
        """Whether an engine may be loaded that is native code."""
        return self.allow_native or self.seal.key is not None

    def check_unchanged(self) -> None:
        """Raises InvalidBundleError if another bundle came in its place since it was verified.

        To be called once all is read. A private copy stays as it is.
        """
        if self.copy is None and checksums.read_stamp(self.path) != self.stamp:
            raise InvalidBundleError(
                f"{self.path} was changed while it was opened; open it again when it is whole"
            )

    def close(self) -> None:
        if self.copy is not None:
            self.copy.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if isinstance(error, AttarError):  # a user knows no private copy
            error.args = (str(error).replace(str(self.root), str(self.path)),)


def open_sealed(
    path: Path,
    trusted: Path | None = None,
    checks: Iterable[Callable[[VerifiedBundle], None]] = (),
    *,
    allow_native: bool = False,
) -> VerifiedBundle:
    """Take steps (1) to (3) of ``attar.bundle.opening``, then these checks.

    The bundle is closed if one of them fails. Raises InvalidBundleError.
    """
    if not path.is_dir():
        message = f"{path} is no folder; a bundle is one, written by `attar package`"
        raise InvalidBundleError(message)
    root, copy = path, None
    with ExitStack() as stack:
        with blame_bundle(f"{path} cannot be verified"):
            stamp = checksums.read_stamp(path)
            seal = checksums.read_checksums(path)
            if trusted is None:
                checksums.verify_checksums(path, seal)  # (1)
            else:
                seal = signatures.verify_signature(path, seal, trusted)  # (2)
                copy, root = copy_verified(path, seal)  # (1)
                stack.callback(copy.close)
        manifest = locate_manifest(read_manifest(root), root)  # (3)
        bundle = VerifiedBundle(path, root, manifest, seal, stamp, allow_native, copy)
        stack.push(bundle)
        check_engine_files(bundle)  # (3)
        for check in checks:
            check(bundle)
        stack.pop_all()
    return bundle


def check_engine_files(bundle: VerifiedBundle) -> None:
    """Raises InvalidBundleError if a graph or an engine that the manifest speaks of is not there.

    Checksums that were written anew do not list what was lost.
    """
    manifest, listed = bundle.manifest, bundle.seal.sums
    for part in manifest.parts:
        missing = [name for name in list_engine_files(manifest, part) if name not in listed]
        if missing:
            calls = "" if part.rows == 1 else f" for {part.rows} samples or more"
            raise InvalidBundleError(
                f"{bundle.path} is not whole: {', '.join(missing)} of its engine{calls} is "
                f"missing, and manifest.json says that it is there. {AGAIN}"
            )


def list_engine_files(manifest: Manifest, part: Manifest | BatchEngine) -> list[str]:
    """Return the files of an engine and of its graphs; of an unfinished bundle the graphs alone."""
    files = [f"{part.folder}graphs/{name}.onnx" for name in manifest.graphs]
    if manifest.unfinished:
        return files
    needs = part.engine
    with blame_bundle(f"the engine needs {needs.runtime}"):
        suffix = load_runtime(needs.runtime).suffix
    folder = f"{part.folder}engines/{needs.runtime}"
    return [*files, *(f"{folder}/{name}{suffix}" for name in manifest.graphs)]


def locate_manifest(manifest: Manifest, path: Path) -> Manifest:
    """Return the manifest of a bundle that lies here: its steps find their files."""
    steps = {
        "preprocess": locate_steps(manifest.preprocess, path),
        "postprocess": locate_output_steps(manifest.postprocess, path),
    }
    return manifest.model_copy(update=steps)


def hold_step_files(bundle: VerifiedBundle) -> VerifiedBundle:
    """Return the same bundle, whose steps keep what their files hold now: while it is open, another
    one may come in its place. Raises InvalidBundleError."""
    manifest = bundle.manifest
    with blame_bundle(f"the steps of {bundle.path} do not open"):
        held = {
            "preprocess": hold_files(manifest.preprocess),
            "postprocess": hold_files(manifest.postprocess),
        }
    return replace(bundle, manifest=manifest.model_copy(update=held))


def read_manifest(path: Path) -> Manifest:
    """Return the manifest as it is written.

    Raises InvalidBundleError if there is none, or it is not complete and consistent.
    """
    file = path / "manifest.json"
    if not file.is_file():
        lacking = "has no manifest.json: not a bundle, or not a whole one" if path.is_dir() else ""
        raise InvalidBundleError(
            f"{path} {lacking or 'is no folder'}; bundles are written by `attar package`"
        )
    with blame_bundle(f"{file} cannot be read"):
        content = file.read_bytes()
    check_format(file, content)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidBundleError(
            f"{file} is not one that this version reads: {where}: {reason}. {AGAIN}"
        ) from error


def check_format(file: Path, content: bytes) -> None:
    """Raises InvalidBundleError if a newer attar wrote the manifest.

    Its validation finds everything else that is wrong with it.
    """
    try:
        written = json.loads(content)["format"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return
    newer = re.fullmatch(r"attar bundle (\d{1,9})", written) if isinstance(written, str) else None
    if newer and int(newer[1]) > FORMAT_VERSION:
        raise InvalidBundleError(
            f"{file} has the format {written!r}, and attar {VERSION} reads bundles up to version "
            f"{FORMAT_VERSION}: upgrade attar, or package the bundle with this version"
        )
