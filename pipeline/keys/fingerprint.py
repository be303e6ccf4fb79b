"""Fingerprint: the code that decides what an object does. It is parsed, never imported.

From a name such as ``attar.stages.teach.stage:Teach`` every definition that it uses is followed,
through attar and through the user's files. Of installed packages the version counts.
``attar.pipeline`` and the artifact classes are not followed where code only names them; the class
of an artifact that is read counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import time
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.pipeline.core import names
from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.import_path import ModuleVersion
from attar.pipeline.keys.files import Stamp, make_stamp, settle_stamp
from attar.pipeline.keys.modules import ModulePaths, find_version, is_of_python
from attar.pipeline.keys.source import STATEMENTS, Definition, ParsedFile, parse_source

FORMAT = [5, *sys.version_info[:2]]
"""Version of the cache: the fields of ``ParsedFile``, and Python's own syntax tree."""
NOTHING = "<statements>"
"""A name that no definition has: following it counts the statements of a module alone."""
ARTIFACTS = "attar.stages.artifacts"
STOP = ("attar.pipeline", ARTIFACTS)
"""Modules that are not followed from other code."""


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

    ``cache`` is a file that remembers parsed files by their stamps, so that each is parsed once.
    """

    def __init__(self, home: Path, cache: Path | None = None) -> None:
        self.home, self.cache = home, cache
        self.remembered: dict[str, tuple[Sequence[int], ParsedFile]] = {}
        if cache and cache.exists():
            with contextlib.suppress(ValueError):  # a damaged memory is no memory
                note = json.loads(cache.read_text(encoding="utf-8"))
                self.remembered = note["files"] if note["format"] == FORMAT else {}
        self.changed, self.opened = False, time.time_ns()
        self.stamps: dict[str, Stamp] = {}
        self.codes: dict[tuple[frozenset[str], frozenset[str]], Code] = {}
        self.sources: dict[str, ParsedFile | None] = {}
        self.modules = ModulePaths(home)

    def of(self, roots: Iterable[str], artifacts: Iterable[str] = ()) -> Code:
        """Follow these names: ``module:object`` or ``file.py:object``; ``module:`` is the whole
        module.

        ``artifacts`` are the classes of artifacts that are read, followed with all that they use.
        """
        asked = frozenset(roots), frozenset(artifacts)
        if asked not in self.codes:
            self.codes[asked] = self._follow(*asked)
        return self.codes[asked]

    def _follow(self, roots: Iterable[str], artifacts: Iterable[str]) -> Code:
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
                packages |= find_version(module.split(".")[0])
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
        that may be registered somewhere. (attar's own modules do nothing on import.)
        """
        parents = module.split(".")[:-1]
        packages = [".".join(parents[: depth + 1]) for depth in range(len(parents))]
        imported = self._list_imported(source)
        registered = [
            f"{module}:{name}"
            for name, definition in source["definitions"].items()
            if self._may_be_registered(definition)
        ]
        return [
            *(f"{name}:{NOTHING}" for name in {*packages, *imported} if self.path(name)),
            *registered,
        ]

    def _may_be_registered(self, definition: Definition) -> bool:
        """Whether others may find it without its name: a decorator, of any package but Python's
        own, or a class that it is derived from may have noted it."""
        places = {self._resolve(target)[0] for target in definition["decorators"]}
        if any(self.path(each) or not is_of_python(each) for each in places):
            return True
        return any(self._hears_of_subclasses(base, set()) for base in definition["bases"])

    def _hears_of_subclasses(self, target: str, seen: set[str]) -> bool:
        """Whether a class of the user, or one that it is derived from, runs code of its own for
        each class that is derived from it."""
        module, name = self._resolve(target)
        source = None if module.startswith("attar.") or target in seen else self.source(module)
        if source is None:
            return False
        seen.add(target)
        definition = source["definitions"].get(name)
        if definition is None:
            origins = source["exports"].get(name, [])
        elif definition["hears_of_subclasses"]:
            return True
        else:
            origins = definition["bases"]
        return any(self._hears_of_subclasses(origin, seen) for origin in origins)

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
        now, stamp = time.time_ns(), make_stamp(path.stat())
        self.stamps[module] = settle_stamp(stamp, now)
        known = self.remembered.get(f"{module} {path}")
        if known and tuple(known[0]) == stamp:
            return known[1]
        source = _read_source(module, path)
        self.remembered[f"{module} {path}"] = (self.stamps[module], source)
        self.changed = True
        return source

    def path(self, module: str) -> Path | None:
        """Return the file of a module whose code counts, without importing it."""
        return self.modules.find(module)

    @property
    def paths(self) -> Mapping[str, Path | None]:
        """The files of the modules that were looked for so far; None for an installed one."""
        return self.modules.found

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
        """Return the files of these definitions whose code changed since they were read."""
        modules = sorted({definition.partition(":")[0] for definition in definitions})
        return [str(self.path(module)) for module in modules if self._is_edited(module)]

    def _is_edited(self, module: str) -> bool:
        """Whether the code of a module changed. A file with another stamp is read."""
        path = self.path(module)
        if path is None or not path.is_file():
            return True
        if make_stamp(path.stat()) == self.stamps[module]:
            return False
        try:
            return _read_source(module, path) != self.sources[module]
        except RecipeError:  # it is no Python now
            return True

    def list_versions(self) -> dict[str, ModuleVersion]:
        """Return the version of each file of the user that was read, by its module. The same file
        has another one in the next fingerprint if it had not settled."""
        versions = {}
        for module, stamp in self.stamps.items():
            source = self.sources.get(module)
            if source is not None and module.partition(".")[0] != "attar":
                changed = stamp[2] or self.opened
                imports = frozenset(self._list_imported(source))
                versions[module] = ModuleVersion(str(self.path(module)), stamp, changed, imports)
        return versions

    def _list_imported(self, source: ParsedFile) -> set[str]:
        origins = (target for targets in source["exports"].values() for target in targets)
        return {self._resolve(target)[0] for target in origins}

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


def _read_source(module: str, path: Path) -> ParsedFile:
    try:
        with tokenize.open(path) as file:  # in the encoding that the file declares
            return parse_source(file.read(), module, is_package=path.name == "__init__.py")
    except SyntaxError as error:
        raise RecipeError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
