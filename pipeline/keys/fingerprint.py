"""Fingerprint: the code that decides what an object does. It is parsed, never imported.

From a name such as ``attar.stages.teach.stage:Teach`` every definition that it uses is followed,
through attar and through the user's files. Of installed packages the version counts.
``attar.pipeline`` and the artifact classes are not followed where code only names them; the class
of an artifact that is read counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attar.pipeline.core import names
from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.keys.source import STATEMENTS, ParsedFile, parse_source

FORMAT = [4, *sys.version_info[:2]]
"""Version of the cache: the fields of ``ParsedFile``, and Python's own syntax tree."""
NOTHING = "<statements>"
"""A name that no definition has: following it counts the statements of a module alone."""
ARTIFACTS = "attar.stages.artifacts"
STOP = ("attar.pipeline", ARTIFACTS)
"""Modules that are not followed from other code."""
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


@dataclass(frozen=True)
class Code:
    """Definitions with their digests, and installed packages with their versions."""

    definitions: Mapping[str, str]
    packages: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.definitions, sort_keys=True).encode()).hexdigest()


class Fingerprint:
    """Reads the code below ``home`` (the recipe's folder, first on the import path), attar, and
    other packages that are not installed.

    ``cache`` is a file that remembers parsed files by size and mtime, so that each is parsed once.
    """

    def __init__(self, home: Path, cache: Path | None = None) -> None:
        self.home, self.cache = home, cache
        self.remembered: dict[str, tuple[int, int, ParsedFile]] = {}
        if cache and cache.exists():
            with contextlib.suppress(ValueError):  # a damaged memory is no memory
                note = json.loads(cache.read_text(encoding="utf-8"))
                self.remembered = note["files"] if note["format"] == FORMAT else {}
        self.changed = False
        self.stamps: dict[str, tuple[int, int]] = {}
        self.sources: dict[str, ParsedFile | None] = {}
        self.paths: dict[str, Path | None] = {}
        self.roots: dict[str, Path | None] = {}

    def of(self, roots: Iterable[str], artifacts: Iterable[str] = ()) -> Code:
        """Follow these names: ``module:object`` or ``file.py:object``; ``module:`` is the whole
        module.

        ``artifacts`` are the classes of artifacts that are read, followed with all that they use.
        """
        seen: dict[str, str] = {}
        packages: dict[str, str] = {}
        todo = [
            (root if root.endswith(":") else ":".join(names.split_name(root)), False)
            for root in roots
        ]
        todo += [(artifact, True) for artifact in artifacts]
        visited: set[tuple[str, bool]] = set()
        while todo:
            target, of_artifact = todo.pop()
            if (target, of_artifact) in visited:
                continue
            visited.add((target, of_artifact))
            module, name = self._resolve(target)
            is_followed = not module.startswith(STOP) or (
                of_artifact and module.startswith(ARTIFACTS)
            )
            source = self.source(module) if is_followed else None
            if source is None:
                packages |= _version(module.split(".")[0])
                continue
            of_artifact = of_artifact and module.startswith(ARTIFACTS)
            todo.extend((used, of_artifact) for used in self._visit(module, name, source, seen))
        return Code(dict(sorted(seen.items())), dict(sorted(packages.items())))

    def _visit(self, module: str, name: str, source: ParsedFile, seen: dict[str, str]) -> list[str]:
        """Count one definition (or the whole module if ``name`` is empty) and return the names to
        follow from it."""
        definitions, exports = source["definitions"], source["exports"]
        wanted = definitions if not name else [name] if name in definitions else []
        todo = list(exports.get(name, []))
        for part in {STATEMENTS, *wanted}:
            seen[f"{module}:{part}"] = definitions[part]["digest"]
            todo.extend(definitions[part]["uses"])
        return todo if module.startswith("attar.") else [*todo, *self._effects(module, source)]

    def _effects(self, module: str, source: ParsedFile) -> list[str]:
        """Return what importing the user's module runs besides the requested definitions.

        These are statements of its packages and of the modules that it imports, and definitions
        that a decorator of the user may register. (attar's own modules do nothing on import.)
        """
        parents = module.split(".")[:-1]
        packages = [".".join(parents[: depth + 1]) for depth in range(len(parents))]
        imported = {
            self._resolve(target)[0] for targets in source["exports"].values() for target in targets
        }
        registered = [
            f"{module}:{name}"
            for name, definition in source["definitions"].items()
            if any(self.path(self._resolve(target)[0]) for target in definition["decorators"])
        ]
        return [
            *(f"{name}:{NOTHING}" for name in {*packages, *imported} if self.path(name)),
            *registered,
        ]

    def _resolve(self, target: str) -> tuple[str, str]:
        """Return the module and the object of a name. In ``a:b.c`` the object is ``b`` of module
        ``a`` or, if ``a.b`` is a module, ``c`` of that."""
        module, _, rest = target.partition(":")
        attributes = rest.split(".") if rest else []
        while attributes and self._is_module(module, attributes[0]):
            module = f"{module}.{attributes.pop(0)}"
        return module, attributes[0] if attributes else ""

    def _is_module(self, package: str, name: str) -> bool:
        """Whether a name is a module of a package. Looks at no file where it cannot be one."""
        path = self.path(package)
        if path is not None and path.name != "__init__.py":
            return False
        return self.path(f"{package}.{name}") is not None

    def source(self, module: str) -> ParsedFile | None:
        """Return the parsed file of a module, or None if the module is installed."""
        if module not in self.sources:
            path = self.path(module)
            self.sources[module] = self._parsed(module, path) if path else None
        return self.sources[module]

    def _parsed(self, module: str, path: Path) -> ParsedFile:
        stat = path.stat()
        self.stamps[module] = (stat.st_size, stat.st_mtime_ns)
        known = self.remembered.get(f"{module} {path}")
        if known and (known[0], known[1]) == (stat.st_size, stat.st_mtime_ns):
            return known[2]
        try:
            with tokenize.open(path) as file:  # in the encoding that the file declares
                source = parse_source(file.read(), module, is_package=path.name == "__init__.py")
        except SyntaxError as error:
            raise RecipeError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
        self.remembered[f"{module} {path}"] = (stat.st_size, stat.st_mtime_ns, source)
        self.changed = True
        return source

    def path(self, module: str) -> Path | None:
        """Return the file of a module whose code counts, without importing it."""
        if module not in self.paths:
            top, *rest = module.split(".")
            if top not in self.roots:
                self.roots[top] = self._root(top)
            root = self.roots[top]
            self.paths[module] = _file(root.joinpath(*rest)) if root else None
        return self.paths[module]

    def _root(self, top: str) -> Path | None:
        """Return the folder (or the file without ``.py``) of a top-level package, or None if it is
        installed or built in."""
        if top == "attar":
            # Not resolved: attar/pipeline is a link in a checkout.
            return Path(__file__).absolute().parents[2]
        if _file(self.home / top):
            return self.home / top
        if top in sys.stdlib_module_names:
            return None
        spec = importlib.util.find_spec(top)
        origin = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
        if (spec is None or spec.origin is None) and (self.home / top).is_dir():
            return self.home / top  # a folder without __init__.py is a package too
        if origin is None or {"site-packages", "dist-packages"} & set(origin.parts):
            return None
        return origin.parent if origin.name == "__init__.py" else origin.with_suffix("")

    def require(self, name: str, options: Iterable[str] | None = None) -> None:
        """Raises RecipeError if a named object is not in its file, or is a function that does not
        take ``options``."""
        module, wanted = names.split_name(name)
        source = self.source(module)
        if source is None:
            if importlib.util.find_spec(module.split(".")[0]) is None:
                raise RecipeError(
                    f"{name!r}: there is no module {module!r} beside the recipe ({self.home}) or "
                    "installed"
                )
            return
        definitions = source["definitions"]
        if wanted not in {*definitions, *source["exports"], *source["assigned"]}:
            raise RecipeError(
                f"{name!r}: {module} defines no {wanted!r}; "
                f"{suggest_name(wanted, [d for d in definitions if d])}"
            )
        takes = definitions[wanted]["parameters"] if wanted in definitions else ["**"]
        for option in options or ():
            if "**" not in takes and option not in takes:
                raise RecipeError(
                    f"{name!r} takes no option {option!r}; {suggest_name(option, takes)}"
                )

    def edited(self, definitions: Iterable[str]) -> list[str]:
        """Return the files of these definitions that changed since they were read."""
        changed = []
        for module in sorted({definition.partition(":")[0] for definition in definitions}):
            path = self.path(module)
            stat = path.stat() if path and path.is_file() else None
            if stat is None or (stat.st_size, stat.st_mtime_ns) != self.stamps[module]:
                changed.append(str(path))
        return changed

    def remember(self) -> None:
        """Write the cache, if there is one and it has changed."""
        if self.cache and self.changed:
            with contextlib.suppress(
                OSError
            ):  # it only saves time, so a store that cannot be written may go without
                temporary = self.cache.with_suffix(f".{os.getpid()}")
                temporary.write_text(
                    json.dumps({"format": FORMAT, "files": self.remembered}), encoding="utf-8"
                )
                temporary.replace(self.cache)


def _file(root: Path) -> Path | None:
    for path in (root / "__init__.py", root.with_name(root.name + ".py")):
        if path.is_file():
            return path
    return None


@cache
def _version(package: str) -> Mapping[str, str]:
    if package in NEUTRAL or package in sys.stdlib_module_names:
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
