"""What is in the code's digest changes it; what is not does not."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.keys import files
from attar.pipeline.keys.fingerprint import Code, Fingerprint

NETS = '''
"""Networks."""
import torch
from helpers import block

SCALE = 2

class Teacher(torch.nn.Module):
    """The big one."""
    def __init__(self, width=8):
        super().__init__()
        self.width = width * SCALE  # wide

def teacher(width=8):
    return Teacher(width)

def student(width=4, *, depth=1):
    from deeper import trick
    return trick(block(width), depth)
'''
HELPERS = """
def block(width):
    return width + inner()

def inner():
    return 1

def unused():
    return 2
"""
DEEPER = """
import helpers
def trick(x, depth):
    return helpers.inner() + x
"""


def project(root: Path, **changed: str) -> Fingerprint:
    for name, text in {"nets": NETS, "helpers": HELPERS, "deeper": DEEPER}.items():
        (root / f"{name}.py").write_text(dedent(changed.get(name, text)))
    return Fingerprint(root)


def of(root: Path, name: str, **changed: str) -> Code:
    return project(root, **changed).of([name])


def test_a_definition_brings_what_it_uses_and_nothing_else(tmp_path: Path) -> None:
    code = of(tmp_path, "nets:student")
    assert set(code.definitions) == {
        "nets:", "nets:student", "helpers:", "helpers:block", "helpers:inner", "deeper:", "deeper:trick",
    }  # fmt: skip  # a set reads better on one line
    assert code.packages == {}
    assert list(of(tmp_path, "nets:teacher").packages) == ["torch"]


def test_a_file_s_name_is_its_module_s(tmp_path: Path) -> None:
    assert of(tmp_path, "nets.py:student") == of(tmp_path, "nets:student")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "small.py").write_text("def f(): ...\n")
    assert "deep.small:f" in Fingerprint(tmp_path).of(["deep/small.py:f"]).definitions


def test_editing_the_student_leaves_the_teacher_alone_though_both_live_in_one_file(tmp_path: Path) -> None:
    teacher, student = of(tmp_path, "nets:teacher"), of(tmp_path, "nets:student")
    edited = NETS.replace("depth=1", "depth=2")
    assert of(tmp_path, "nets:teacher", nets=edited) == teacher
    assert of(tmp_path, "nets:student", nets=edited) != student


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# wide", "# very wide"),
        ('"""The big one."""', '"""Another text."""'),
        ('"""Networks."""', ""),
        ("SCALE = 2", "SCALE  =  2"),
        ("\n\ndef", "\n\n\n\ndef"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path, old: str, new: str) -> None:
    before = of(tmp_path, "nets:teacher")
    assert old in NETS
    assert of(tmp_path, "nets:teacher", nets=NETS.replace(old, new)) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [
        ("nets", "SCALE = 2", "SCALE = 3", "nets:teacher"),
        ("nets", "width * SCALE", "width + SCALE", "nets:teacher"),
        ("helpers", "return 1", "return 7", "nets:student"),
        ("deeper", "+ x", "- x", "nets:student"),
    ],
)
def test_a_line_that_is_used_counts_however_far_away_it_is(tmp_path: Path, file: str, old: str, new: str, name: str) -> None:
    before = of(tmp_path, name)
    text = {"nets": NETS, "helpers": HELPERS, "deeper": DEEPER}[file]
    assert of(tmp_path, name, **{file: text.replace(old, new)}) != before


def test_what_nobody_uses_does_not_count(tmp_path: Path) -> None:
    before = of(tmp_path, "nets:student")
    assert of(tmp_path, "nets:student", helpers=HELPERS.replace("return 2", "return 9")) == before


def test_a_package_of_the_user_is_followed_through_reexports_relative_imports_and_stars(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import thing\nfrom .stars import *\n")
    (package / "inner.py").write_text("from . import base\ndef thing():\n    return base.one()\n")
    (package / "base.py").write_text("def one():\n    return 1\n")
    (package / "stars.py").write_text("def star():\n    return 5\n")
    (tmp_path / "use.py").write_text("from mine import thing\ndef f():\n    return thing()\n")
    code = Fingerprint(tmp_path).of(["use:f"])
    assert {"mine.inner:thing", "mine.base:one"} <= set(code.definitions)


def test_an_import_inside_a_function_counts_although_nothing_reads_it(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("HOOK = 1\n")
    (tmp_path / "use.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import numpy, plugin\n    return 1\ndef g():\n    return 2\n"
    )
    code = Fingerprint(tmp_path).of(["use:f"])
    assert "plugin:" in code.definitions
    assert code.packages.keys() == {"numpy"}
    assert not Fingerprint(tmp_path).of(["use:g"]).packages


REGISTRY = """
R = {}
def register(f):
    R[f.__name__] = f
    return f
@register
def small(): return 1
def f(): return R['small']()
"""
EITHER = """
try:
    from helpers import block
except ImportError:
    from deeper import trick as block
def f(): return block(1)
"""
TWICE = "def f(): return 1\nif True:\n    def f(): return 2\n"
PATCHED = "import patches\ndef f(): return 1\n"
DOTTED = "import mine.patch\ndef f(): return 1\n"
DOTTED_INSIDE = "def f():\n    import mine.patch\n    return 1\n"
SUBCLASSES = """
R = {}
class Base:
    def __init_subclass__(cls): R[cls.__name__] = cls
class Middle(Base): ...
class Small(Middle): width = 1
def f(): return R['Small']()
"""
METACLASS = """
R = {}
class Noted(type):
    def __init__(cls, *given): R[cls.__name__] = cls
class Small(metaclass=Noted): width = 1
def f(): return R['Small']()
"""
INSTALLED_REGISTRY = """
import click
@click.command()
def small(): return 1
def f(): return click.get_current_context().command
"""
OBJECT_REGISTRY = """
from helpers import Registry
R = Registry()
@R.add
def small(): return 1
def f(): return R['small']()
"""
INDIRECT = {
    "a dotted import": (DOTTED, "mine/patch", "inner = 1", "inner = 2"),
    "a dotted import in a function": (DOTTED_INSIDE, "mine/patch", "inner = 1", "inner = 2"),
    "a registry of subclasses": (SUBCLASSES, "use", "width = 1", "width = 2"),
    "a registry by a metaclass": (METACLASS, "use", "width = 1", "width = 2"),
    "a registry of an installed package": (INSTALLED_REGISTRY, "use", "return 1", "return 2"),
    "a registry that is an object": (OBJECT_REGISTRY, "use", "return 1", "return 2"),
    "a registry": (REGISTRY, "use", "return 1", "return 2"),
    "one of two imports": (EITHER, "helpers", "return 1", "return 5"),
    "a second definition": (TWICE, "use", "return 1", "return 3"),
    "a patch": (PATCHED, "patches", "inner = 1", "inner = 2"),
}


@pytest.mark.parametrize("how", INDIRECT)
def test_what_a_name_may_be_and_what_importing_it_does_count(tmp_path: Path, how: str) -> None:
    text, edited, old, new = INDIRECT[how]
    project(tmp_path)
    (tmp_path / "mine").mkdir()
    for patch in ("patches", "mine/patch"):
        (tmp_path / f"{patch}.py").write_text("import helpers\nhelpers.inner = 1\n")
    (tmp_path / "use.py").write_text(text)
    before = Fingerprint(tmp_path).of(["use:f"])
    path = tmp_path / f"{edited}.py"
    path.write_text(path.read_text().replace(old, new))
    assert Fingerprint(tmp_path).of(["use:f"]) != before


PLAIN = """
import functools, torch
class Teacher(torch.nn.Module): width = 1
@functools.cache
def small(): return 1
def f(): return 1
"""


@pytest.mark.parametrize(("old", "new"), [("width = 1", "width = 2"), ("small(): return 1", "small(): return 2")])
def test_what_nothing_can_have_registered_does_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert old in PLAIN
    before = of(tmp_path, "nets:f", nets=PLAIN)
    assert of(tmp_path, "nets:f", nets=PLAIN.replace(old, new)) == before


def test_a_package_without_init_counts_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, parts = tmp_path / "home", [tmp_path / "one" / "ourlib", tmp_path / "two" / "ourlib"]
    for part, name in zip([*parts, home], ("blocks", "more", "nets"), strict=True):
        part.mkdir(parents=True)
        (part / f"{name}.py").write_text("from ourlib import more\ndef f(): return more.f()\n")
        monkeypatch.syspath_prepend(str(part.parent))
    (parts[1] / "more.py").write_text("def f(): return 1\n")
    more = {"ourlib.more:", "ourlib.more:f"}
    assert set(Fingerprint(home).of(["nets:f"]).definitions) == {"nets:", "nets:f", *more}
    assert set(Fingerprint(home).of(["ourlib.blocks:f"]).definitions) == {"ourlib.blocks:", "ourlib.blocks:f", *more}


def test_a_file_that_was_edited_since_it_was_read_is_named(tmp_path: Path) -> None:
    code = project(tmp_path)
    definitions = code.of(["nets:student"]).definitions
    assert code.edited(definitions) == []
    (tmp_path / "helpers.py").write_text(HELPERS + "# more\n")
    assert code.edited(definitions) == []  # a comment is no code
    for text in (HELPERS.replace("return 1", "return 2"), "def f(:\n"):
        (tmp_path / "helpers.py").write_text(text)
        assert code.edited(definitions) == [str(tmp_path / "helpers.py")]
    (tmp_path / "helpers.py").unlink()
    assert code.edited(definitions) == [str(tmp_path / "helpers.py")]


def test_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')\ndef f(): ...\n")
    assert "loud:f" in Fingerprint(tmp_path).of(["loud:f"]).definitions


def test_attar_s_own_code_is_followed_and_the_engine_is_not(tmp_path: Path) -> None:
    names = set(Fingerprint(tmp_path).of(["attar.models.epoch:Epoch"]).definitions)
    assert "attar.models.preprocess.step:apply" in names
    assert not any(name.startswith("attar.pipeline") for name in names)


def test_a_name_that_is_not_there_gets_a_guess(tmp_path: Path) -> None:
    code = project(tmp_path)
    with pytest.raises(RecipeError, match=r"'studnet'.*'student'\?"):
        code.require("nets:studnet")
    with pytest.raises(RecipeError, match="'nots'"):
        code.require("nots:student")
    with pytest.raises(RecipeError, match=r"'widht'.*'width'\?"):
        code.require("nets:student", ["widht"])
    code.require("nets:student", ["width", "depth"])
    code.require("nets:Teacher", ["width"])
    code.require("nets:SCALE", ["anything"])


def test_broken_python_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(RecipeError, match=r"bad\.py line 2"):
        Fingerprint(tmp_path).of(["bad:f"])


def test_the_cache_gives_the_same_answer_and_sees_an_edit(tmp_path: Path) -> None:
    cache = tmp_path / "code.json"
    project(tmp_path)
    first = Fingerprint(tmp_path, cache)
    code = first.of(["nets:student"])
    first.remember()
    assert Fingerprint(tmp_path, cache).of(["nets:student"]) == code
    (tmp_path / "helpers.py").write_text(HELPERS.replace("return 1", "return 11"))
    assert Fingerprint(tmp_path, cache).of(["nets:student"]) != code


def test_a_file_moved_over_one_of_the_same_size_and_mtime_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``cp -p``, ``tar`` and ``rsync -t`` leave it."""
    monkeypatch.setattr(files, "SETTLED_NANOSECONDS", 0)
    made = []
    for number in (1, 2):
        (tmp_path / "other.py").write_text(f"def f(): return {number}\n")
        os.utime(tmp_path / "other.py", (1e9, 1e9))
        (tmp_path / "other.py").replace(tmp_path / "nets.py")
        code = Fingerprint(tmp_path, tmp_path / "code.json")
        made.append(code.of(["nets:f"]))
        code.remember()
    assert made[0] != made[1]


def test_a_file_that_was_just_written_is_parsed_again(tmp_path: Path) -> None:
    """A second edit within one tick of the file system's clock leaves the stamp as it is."""
    code = project(tmp_path)
    definitions = code.of(["nets:student"]).definitions
    assert code.edited(definitions) == []
    code.sources["helpers"] = None  # as if the edit had come after the first look
    assert code.edited(definitions) == [str(tmp_path / "helpers.py")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    comments=st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=20), max_size=6),
    number=st.integers(0, 10**6),
)
def test_any_comment_changes_nothing_and_any_other_number_changes_it(tmp_path: Path, comments: list[str], number: int) -> None:
    lines = HELPERS.splitlines()
    for place, comment in enumerate(comments):
        lines.insert(min(place, len(lines)), f"# {comment}")
    before = of(tmp_path, "helpers:block")
    assert of(tmp_path, "helpers:block", helpers="\n".join(lines)) == before
    edited = of(tmp_path, "helpers:block", helpers=HELPERS.replace("return 1", f"return {number}"))
    assert (edited == before) == (number == 1)
