"""One Python file as data: its definitions, what each uses, and a digest of each that
ignores comments.

Files are parsed, never imported. A use is written ``module:name.attribute``, resolved as far as the
file itself allows; ``fingerprint`` follows it from there. A name that is bound several times (an
import in ``try``, another in ``except``) counts with all its meanings. Invisible are modules
imported by a computed name, and files that a definition opens.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypedDict

STATEMENTS = ""
"""The pseudo-definition of statements at module level that are neither definitions nor imports."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Mapping[str, list[str]]


class Definition(TypedDict):
    digest: str
    uses: list[str]
    decorators: list[str]
    """What its decorators use, and their names that the file alone does not resolve."""
    bases: list[str]
    """The classes that a class is derived from, and its metaclass."""
    hears_of_subclasses: bool
    """Whether it has ``__init_subclass__``, or is a metaclass."""
    parameters: list[str]
    """Names that a call may use; ``**`` if it takes any, or if the file alone does not tell."""


class ParsedFile(TypedDict):
    definitions: dict[str, Definition]
    exports: dict[str, list[str]]
    """Names that the file imports, with their origins, for ``from this import name``."""
    assigned: list[str]
    """Other names at module level; the statements that assign them count as a whole."""


@lru_cache(maxsize=1024)
def parse_source(text: str, module: str, *, is_package: bool) -> ParsedFile:
    """Parse a file; a process that opens several stores does so once. Raises SyntaxError as
    ``ast.parse`` does."""
    tree = WithoutDocstrings().visit(ast.parse(text))
    package = module if is_package else module.rpartition(".")[0]
    level = list(_module_level(tree.body))
    exports = _gathered(_bindings(level, package))
    own: dict[str, list[ast.AST]] = defaultdict(list)
    for node in level:
        if isinstance(node, Function | ast.ClassDef):
            own[node.name].append(node)
    loose = [
        node
        for node in tree.body
        if not isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom)
    ]
    scope = {
        name: [*exports.get(name, []), *([f"{module}:{name}"] if name in own else [])]
        for name in {*exports, *own}
    }
    definitions = {name: _definition(nodes, scope, module, package) for name, nodes in own.items()}
    statements = ast.Module(body=loose, type_ignores=[])
    definitions[STATEMENTS] = _definition([statements], scope, module, package)
    stores = (name for node in loose for name in ast.walk(node) if isinstance(name, ast.Name))
    assigned = sorted({name.id for name in stores if isinstance(name.ctx, ast.Store)})
    return {"definitions": definitions, "exports": exports, "assigned": assigned}


class WithoutDocstrings(ast.NodeTransformer):
    """Removes every statement that is only a string: docstrings of modules, classes, functions and
    fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else node


def _module_level(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the statements that run when the module is imported, also inside ``if``, ``try`` and
    loops."""
    for node in body:
        yield node
        if not isinstance(node, Function | ast.ClassDef):
            yield from _module_level(
                child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)
            )


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    gathered: dict[str, list[str]] = defaultdict(list)
    for name, target in pairs:
        gathered[name].append(target)
    return dict(gathered)


def _bindings(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, str]]:
    """Yield what each import binds: local name -> ``module:`` or ``module:name``; a star import
    binds ``*module``. ``import a.b`` binds ``a``, and runs ``a.b`` too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.split(".")[0]
                for module in dict.fromkeys((bound, alias.name)):
                    yield alias.asname or bound, f"{module}:"
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                if alias.name == "*":
                    yield f"*{module}", f"{module}:"
                else:
                    yield alias.asname or alias.name, f"{module}:{alias.name}"


def _absolute(node: ast.ImportFrom, package: str) -> str:
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _definition(nodes: list[ast.AST], scope: Scope, module: str, package: str) -> Definition:
    inside = _gathered(_bindings((child for node in nodes for child in ast.walk(node)), package))
    local = {name: [*scope.get(name, []), *inside.get(name, [])] for name in {*scope, *inside}}
    stars = {
        target for name, targets in local.items() if name.startswith("*") for target in targets
    }
    if not isinstance(nodes[0], ast.Module):
        stars |= _unread_imports(nodes, inside)
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    decorated = [node for node in nodes if isinstance(node, Function | ast.ClassDef)]
    decorators = [decorator for node in decorated for decorator in node.decorator_list]
    dump = "".join(ast.dump(node) for node in nodes)
    return {
        "digest": hashlib.sha256(dump.encode()).hexdigest()[:32],
        "uses": sorted(_targets(nodes, local) | stars),
        "decorators": sorted(_targets(decorators, local) | _unresolved(decorators, local, module)),
        "bases": sorted(_targets([base for node in classes for base in _list_bases(node)], local)),
        "hears_of_subclasses": any(map(_hears_of_subclasses, classes)),
        "parameters": _parameters(nodes[0]) if len(nodes) == 1 else ["**"],
    }


def _unread_imports(nodes: list[ast.AST], inside: Scope) -> set[str]:
    """Return what the nodes import and never read: it is imported for what this does."""
    read = {chain[0] for node in nodes for chain in _chains(node)}
    return {target for name in inside.keys() - read for target in inside[name]}


def _targets(nodes: Iterable[ast.AST], local: Scope) -> set[str]:
    chains = (chain for node in nodes for chain in _chains(node) if chain[0] in local)
    return {
        ".".join([base, *chain[1:]]).replace(":.", ":")
        for chain in chains
        for base in local[chain[0]]
    }


def _unresolved(nodes: Iterable[ast.AST], local: Scope, module: str) -> set[str]:
    """Return the other names that are read, as names of this module."""
    names = {chain[0] for node in nodes for chain in _chains(node)}
    return {f"{module}:{name}" for name in names - local.keys() if not hasattr(builtins, name)}


def _list_bases(node: ast.ClassDef) -> list[ast.expr]:
    return [*node.bases, *(keyword.value for keyword in node.keywords)]


def _hears_of_subclasses(node: ast.ClassDef) -> bool:
    """Whether code of a class runs when another is derived from it, which may register that."""
    is_metaclass = any(isinstance(base, ast.Name) and base.id == "type" for base in node.bases)
    methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
    return is_metaclass or "__init_subclass__" in methods


def _chains(node: ast.AST) -> Iterator[list[str]]:
    """Yield every name that is read, with its attributes: ``a.b.c`` gives ``["a", "b", "c"]``."""
    if isinstance(node, ast.Attribute):
        chain: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield [inner.id, *chain]
            return
    if isinstance(node, ast.Name):
        yield [node.id]
    for child in ast.iter_child_nodes(node):
        yield from _chains(child)


def _parameters(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef):
        inits = [
            item
            for item in node.body
            if isinstance(item, ast.FunctionDef) and item.name == "__init__"
        ]
        return [name for name in _parameters(inits[0]) if name != "self"] if inits else ["**"]
    if not isinstance(node, Function):
        return ["**"]
    names = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
    return [*names, "**"] if node.args.kwarg else names
