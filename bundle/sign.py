"""Sign: says whose a bundle is, to everybody who trusts the key; see
``attar.bundle.signatures``."""

from __future__ import annotations

from errno import EXDEV
from pathlib import Path

from attar.bundle import checksums
from attar.bundle.opening import check_finished_engine, check_gates
from attar.bundle.verified import open_sealed
from attar.pipeline.core import signing_keys
from attar.pipeline.core.errors import RecipeError, StoreError
from attar.pipeline.core.stage import Facts

MOUNTED = "it is a mount point; sign it before it is mounted"


def sign_bundle(path: str | Path, key: str | Path) -> Facts:
    """Write the signature beside the checksums, in place of an older one; its place and the key's
    fingerprint.

    An unfinished bundle may be signed, for `attar finish --trusted`; nothing serves it. Raises
    InvalidBundleError for a bundle that is not
    whole or did not pass its gates, RecipeError for one in a store and for a key that cannot be
    used, MissingDependencyError without the library cryptography. Nothing is written then.
    """
    bundle = Path(path)
    if checksums.is_stored(bundle):
        raise RecipeError(
            f"{bundle} is in a store, which is never changed; sign the copy that "
            f"{checksums.DELIVER} makes"
        )
    private = signing_keys.read_private_key(Path(key), "attar sign BUNDLE --key")
    checked = open_sealed(bundle, checks=[check_gates, check_finished_engine])
    manifest, seal = checked.manifest, checked.seal
    write_signature(bundle, private.sign(seal.content))
    fingerprint = signing_keys.compute_fingerprint(private.public_key())
    return {
        "bundle": manifest.name,
        "files": len(seal.sums),
        "signature": str(bundle / checksums.SIGNATURE),
        "key": fingerprint,
    }


def write_signature(bundle: Path, signature: bytes) -> None:
    """In one step. Half of one beside the bundle spoils nothing; in it, it would be a file that was
    added."""
    place = bundle.resolve()
    partial = place.with_name(f".{place.name}.{checksums.SIGNATURE}.partial")
    try:
        partial.unlink(
            missing_ok=True
        )  # of one that was killed; nor is a link followed that somebody put there
        with partial.open("xb") as file:
            file.write(signature)
        partial.replace(place / checksums.SIGNATURE)
    except OSError as error:
        advice = (
            MOUNTED
            if error.errno == EXDEV
            else "the folder and the one that it is in must be writable"
        )
        said = f"{error.strerror or error}; {advice}"
        raise StoreError(f"cannot sign {bundle}: {said}") from error
    finally:
        partial.unlink(missing_ok=True)
