"""The places of bundles, by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.bundle.verified import read_manifest
from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.serving.core.errors import NotFoundError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""The name of a model, which cannot be a path to another folder."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleSources:
    """The places of bundles: folders of one bundle by its name, several for several versions, and
    folders full of bundles."""

    named: Mapping[str, Sequence[Path]]
    roots: Sequence[Path] = ()

    def list_names(self) -> list[str]:
        inside = [path.name for root in self.roots for path in list_bundles(root)]
        return list(dict.fromkeys([*self.named, *inside]))

    def find_paths(self, name: str) -> list[Path]:
        """Return the bundles of a name, the default one last. Raises NotFoundError."""
        found: list[Path] = []
        if NAME.fullmatch(name):  # before any path is made of it
            found = [
                *self.named.get(name, ()),
                *(root / name for root in self.roots if is_bundle(root / name)),
            ]
        if not found:
            raise NotFoundError(
                f"the repository has no bundle {name[:80]!r}; "
                f"{suggest_name(name[:80], self.list_names())}"
            )
        return found


def is_bundle(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def list_bundles(root: Path) -> list[Path]:
    """Return the bundles in a folder, by their names; none while it cannot be read."""
    try:
        inside = sorted(root.iterdir())
    except OSError as error:
        log.debug("%s cannot be read: %s", root, error)
        return []
    return [path for path in inside if NAME.fullmatch(path.name) and is_bundle(path)]


def parse_sources(arguments: Sequence[str]) -> BundleSources:
    """Read ``BUNDLE`` or ``NAME=BUNDLE``, a bundle's folder or one that holds bundles under their
    names.

    Raises InvalidBundleError for what is no bundle, and RecipeError for a name that cannot be one.
    """
    named: dict[str, list[Path]] = {}
    roots: list[Path] = []
    for argument in arguments:
        called, _, folder = (
            argument.rpartition("=") if not Path(argument).exists() else ("", "", argument)
        )
        path = Path(folder)
        if (
            not called
            and path.is_dir()
            and not is_bundle(path)
            and any(is_bundle(each) for each in path.iterdir())
        ):
            roots.append(path)
            continue
        name = called or read_manifest(path).name
        if not NAME.fullmatch(name):
            raise RecipeError(
                f"{name!r} is no name for a model: letters, digits, '.', '_' and '-'; write "
                f"NAME={folder}"
            )
        named.setdefault(name, []).append(path)
    return BundleSources(named, roots)
