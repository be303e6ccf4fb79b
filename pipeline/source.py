"""Source: one Python file as data. Its definitions, what each uses, and a digest of each that ignores comments.

Nothing is imported here: files are parsed. What a definition uses is written ``module:name.attribute``, resolved as far as
the file itself can tell; ``fingerprint`` follows it from there.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from typing import TypedDict

STATEMENTS = ""
"""The pseudo-definition that holds what stands at module level and is neither a definition nor an import."""


class Definition(TypedDict):
    digest: str
    uses: list[str]
    parameters: list[str]
    """Names that a call of it may use; ``**`` where it takes any, or where the file alone does not tell."""


class Source(TypedDict):
    definitions: dict[str, Definition]
    exports: dict[str, str]
    """Names that the file imports from elsewhere: what ``from this import name`` leads to."""
    assigned: list[str]
    """Other names at module level; the statements that make them count as a whole."""


def parse(text: str, module: str, *, is_package: bool) -> Source:
    """Raises SyntaxError as ``ast.parse`` does."""
    tree = WithoutDocstrings().visit(ast.parse(text))
    package = module if is_package else module.rpartition(".")[0]
    imported = dict(_bindings(_module_level(tree), package))
    own = {
        node.name: node for node in _module_level(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    loose = [node for node in tree.body if not _is_definition_or_import(node)]
    scope = imported | {name: f"{module}:{name}" for name in own}
    definitions = {name: _definition(node, scope, package) for name, node in own.items()}
    definitions[STATEMENTS] = _definition(ast.Module(body=loose, type_ignores=[]), scope, package)
    stores = (name for node in loose for name in ast.walk(node) if isinstance(name, ast.Name))
    assigned = sorted({name.id for name in stores if isinstance(name.ctx, ast.Store)})
    return {"definitions": definitions, "exports": imported, "assigned": assigned}


class WithoutDocstrings(ast.NodeTransformer):
    """Drops every statement that is only a string: docstrings of modules, classes, functions and fields."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements at module level, those inside ``if`` and ``try`` too."""
    todo = list(tree.body)
    while todo:
        node = todo.pop(0)
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            todo.extend(child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node)


def _is_definition_or_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)


def _bindings(nodes: Iterator[ast.stmt] | Iterator[ast.AST], package: str) -> Iterator[tuple[str, str]]:
    """What each import binds: local name -> ``module:`` or ``module:name``; a star import binds ``*module``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname, f"{alias.name}:")
                    if alias.asname
                    else (alias.name.split(".")[0], f"{alias.name.split('.')[0]}:")
                )
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if alias.name == "*":
                    yield f"*{module}", f"{module}:"
                else:
                    yield alias.asname or alias.name, f"{module}:{alias.name}"


def _definition(node: ast.AST, scope: dict[str, str], package: str) -> Definition:
    local = scope | dict(_bindings(ast.walk(node), package))
    used = {_target(local[chain[0]], chain[1:]) for chain in _chains(node) if chain[0] in local}
    stars = {target for name, target in local.items() if name.startswith("*")}
    return {
        "digest": hashlib.sha256(ast.dump(node).encode()).hexdigest()[:32],
        "uses": sorted(used | stars),
        "parameters": _parameters(node),
    }


def _target(base: str, attributes: list[str]) -> str:
    return ".".join([base, *attributes]).replace(":.", ":")


def _chains(node: ast.AST) -> Iterator[list[str]]:
    """Every name that is read, with the attributes that follow it: ``a.b.c`` gives ``["a", "b", "c"]``."""
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
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return [name for name in _parameters(inits[0]) if name != "self"] if inits else ["**"]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ["**"]
    names = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]]
    return [*names, "**"] if node.args.kwarg else names
