"""Modules: the file of one whose code counts, and the version of an installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

NEUTRAL = ("attar", "pydantic", "typing_extensions")
"""Packages that check and carry settings, and compute nothing of an artifact."""
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "yaml": "pyyaml",
}
"""Distributions whose import name differs. Asking the metadata for all of them takes a tenth of a
second."""


class ModulePaths:
    """The files of modules whose code counts. ``home``, the recipe's folder, is first on the import
    path."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.found: dict[str, Path | None] = {}
        self.roots: dict[str, list[Path]] = {}

    def find(self, module: str) -> Path | None:
        """Return the file of a module whose code counts, without importing it."""
        if module not in self.found:
            top, *rest = module.split(".")
            if top not in self.roots:
                self.roots[top] = self._list_roots(top)
            found = (_file(root.joinpath(*rest)) for root in self.roots[top])
            self.found[module] = next((path for path in found if path), None)
        return self.found[module]

    def _list_roots(self, top: str) -> list[Path]:
        """Return the folder (or the file without ``.py``) of a top-level package, none if it is
        installed or built in. A package without ``__init__.py`` may have several folders."""
        own = self.home / top
        if top == "attar":
            # Not resolved: attar/pipeline is a link in a checkout.
            return [Path(__file__).absolute().parents[2]]
        if _file(own):
            return [own]
        if top in sys.stdlib_module_names:
            return []
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            parts = map(Path, (spec and spec.submodule_search_locations) or ())
            others = [part for part in parts if part != own and not _is_installed(part)]
            return [part for part in (own, *others) if part.is_dir()]
        origin = Path(spec.origin)
        if origin.suffix != ".py" or _is_installed(origin):
            return []
        return [origin.parent if origin.name == "__init__.py" else origin.with_suffix("")]


def _is_installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def is_of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _file(root: Path) -> Path | None:
    for path in (root / "__init__.py", root.with_name(root.name + ".py")):
        if path.is_file():
            return path
    return None


@cache
def find_version(package: str) -> Mapping[str, str]:
    """Return the version of an installed package, by its distribution's name; none of one that
    computes nothing."""
    if package in NEUTRAL or is_of_python(package):
        return {}
    name = DISTRIBUTIONS.get(package, package)
    try:
        return {name: importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:
        distributions = importlib.metadata.packages_distributions().get(package, [])
        return (
            {distributions[0]: importlib.metadata.version(distributions[0])}
            if distributions
            else {package: "not installed"}
        )
