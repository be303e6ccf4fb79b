"""The documentation: complete, true to the code, and readable without a network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mkdocs.config import load_config

import attar
from attar.cli.main import main
from attar.pipeline.recipe.schema import build_schema, describe_section
from attar.pipeline.recipe.search_space import ClusterResources, SearchSpace
from attar.stages.slots import SLOTS
from docs import drawing, figures, hooks, recipe_reference, reference

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.render_pages()


def part(text: str, anchor: str) -> str:
    """From the heading with this anchor to the next."""
    found = re.search(rf"^#+ [^\n]*\{{#{anchor}\}}\n(.*?)(?=^#)", text + "\n#", flags=re.DOTALL | re.MULTILINE)
    assert found, anchor
    return found[1]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each setting, by its name."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize(
    "slot",
    [*(slot for slot in SLOTS if not slot.per_target), *recipe_reference.list_target_slots()],
    ids=lambda slot: str(slot.name),
)
def test_every_setting_of_every_slot_is_in_the_reference(slot: Any, pages: dict[str, str]) -> None:
    anchor = f"target-{slot.name}" if slot.per_target else slot.name
    found = rows(part(pages["reference/recipe.md"], anchor))
    assert found.keys() == describe_section(slot, {})["properties"].keys()


@pytest.mark.parametrize(
    ("anchor", "fields"), [("search", SearchSpace.model_fields), ("search-resources", ClusterResources.model_fields)]
)
def test_every_setting_of_a_search_is_in_the_reference(anchor: str, fields: dict[str, Any], pages: dict[str, str]) -> None:
    assert rows(part(pages["reference/recipe.md"], anchor)).keys() == fields.keys() - {"dimensions"}


def described(whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every setting of the schema but ``kind``, which only tells one loss from another."""
    for name, group in [*whole["properties"].items(), *whole["$defs"].items()]:
        for setting, field in group.get("properties", {}).items():
            if setting != "kind":
                yield f"{name}.{setting}", field
    for setting, field in whole["properties"]["targets"]["additionalProperties"]["properties"].items():
        yield f"targets.{setting}", field


def test_every_setting_says_in_a_docstring_what_it_is() -> None:
    assert [place for place, field in described(build_schema(SLOTS)) if not field.get("description")] == []


def test_no_setting_sends_its_reader_into_the_code() -> None:
    """An editor and the reference show these words to somebody who has a recipe and the pages."""
    rooms = "|".join(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists())
    inside = re.compile(rf"\b({rooms})(\.[a-z_]+)+")
    descriptions = {place: field["description"] for place, field in described(build_schema(SLOTS))}
    assert {place for place, text in descriptions.items() if inside.search(text)} == set()


def test_types_and_defaults_are_words_and_toml(pages: dict[str, str]) -> None:
    student = rows(part(pages["reference/recipe.md"], "student"))
    assert student["epochs"] == ["`epochs`", "integer, ≥\u00a01", "`10`", "Passes over the training split."]
    assert student["lambda_kd"][1:3] == ["number, 0\u00a0to\u00a01", "`0.9`"]
    assert student["schedule"][1:3] == ['`"one-cycle"` or `"cosine"`', '`"one-cycle"`']
    assert student["network"][2] == "**required**"
    assert student["losses"][1] == "list of [losses](#losses)"
    assert student["losses"][2] == '`[{ weight = 1.0, warmup = 0.0, kind = "kd", temperature = 4.0, standardize = false }]`'
    assert student["distiller"][1:3] == ["[table](#distiller)", ""]
    assert rows(part(pages["reference/recipe.md"], "control"))["network"][2] == "as in `[student]`"
    assert not re.search(r"annotated|typing\.|FieldInfo|None", pages["reference/recipe.md"], flags=re.IGNORECASE)


def test_every_loss_has_its_settings(pages: dict[str, str]) -> None:
    definitions = build_schema(SLOTS)["$defs"]
    kinds = {group["properties"]["kind"]["const"]: group for group in definitions.values() if "kind" in group["properties"]}
    assert "kd" in kinds
    for kind, group in kinds.items():
        assert {*rows(part(pages["reference/recipe.md"], f"loss-{kind}")), "kind"} == {*group["properties"]}


def test_every_command_has_its_options(pages: dict[str, str]) -> None:
    text = pages["reference/commands.md"]
    for name, command in main.commands.items():
        own = text[text.index(f"## attar {name}\n") :].split("\n## ")[0]
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
        assert [option for option in options if not re.search(rf"`[^`]*{option}\b", own)] == []
    assert "Sentinel" not in text


def test_every_public_name_is_in_the_python_reference(pages: dict[str, str]) -> None:
    assert [name for name in attar.__all__ if f"heading: attar.{name}\n" not in pages["reference/python.md"]] == []


def test_every_page_is_in_the_navigation_or_left_out_on_purpose(pages: dict[str, str]) -> None:
    config = load_config(str(ROOT / "mkdocs.yml"))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    there |= {*pages, *(place for place in hooks.INCLUDED.values() if place.endswith(".md"))}
    listed = set(leaves(config.nav))
    left_out = set(config.not_in_nav.match_files(there)) if config.not_in_nav else set()
    assert there - left_out == listed
    assert not left_out & listed


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for each in nav.values() if isinstance(nav, dict) else nav:
        yield from leaves(each)


def test_links_lead_to_files_where_the_repository_is_read() -> None:
    sources = [*DOCS.glob("*.md"), *(ROOT / name for name in hooks.INCLUDED if name.endswith(".md"))]
    broken = [
        f"{source.name}: {link}"
        for source in sources
        for link in hooks.LINK.findall(re.sub(r"```.*?```", "", source.read_text(), flags=re.DOTALL))
        if not (source.parent / link).exists()
    ]
    assert broken == []


def test_what_pages_import_of_attar_is_there() -> None:
    found = []
    for page in (*DOCS.rglob("*.md"), ROOT / "README.md"):
        found += re.findall(r"^\s*from (attar[\w.]*) import ([\w, ]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    for module, listed in found:
        for name in listed.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), (module, name)


def test_the_page_of_measurements_begins_with_all_its_sections() -> None:
    listed, _, rest = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8").partition("\n## ")
    headings = re.findall(r"^## (.+)", "## " + rest, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", listed)) == anchors


@pytest.mark.parametrize(
    ("source", "place", "link", "leads"),
    [
        ("docs/ci.md", "ci.md", "../README.md#installing", "overview.md#installing"),
        ("docs/gates.md", "gates.md", "learning.md", "learning.md"),
        ("docs/ideas.md", "ideas.md", "../pipeline/recipe/schema.py", "reference/recipe.md"),
        ("README.md", "overview.md", "docs/report.png", "report.png"),
        ("benchmarks/RESULTS.md", "measured.md", "../docs/gates.md", "gates.md"),
        ("docs/gates.md", "gates.md", "../stages/judge.py", "source/stages/judge.py.txt"),
        ("docs/learning.md", "learning.md", "../benchmarks/distillation.svg", "source/benchmarks/distillation.svg"),
        ("docs/ci.md", "ci.md", "../nowhere.md", "../nowhere.md"),
        ("docs/ci.md", "ci.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("docs/ci.md", "ci.md", "#exit-codes", "#exit-codes"),
    ],
)
def test_links_between_files_become_links_between_pages(source: str, place: str, link: str, leads: str) -> None:
    assert hooks.rewrite_links(f"[words]({link})", source, place) == f"[words]({leads})"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_figures_are_those_that_the_code_draws(name: str) -> None:
    drawn = (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == figures.FIGURES[name](), "python -m docs.figures draws them again"
    used = set(re.findall(r"var\(--(\w+)\)", drawn))
    assert used <= drawing.LIGHT.keys() == drawing.DARK.keys()


def test_the_figure_of_the_slots_has_every_slot_and_what_a_plan_says() -> None:
    drawn = figures.draw_slots()
    assert [slot.name for slot in SLOTS if slot.scope != "choice" and f">{slot.name}</text>" not in drawn] == []
    found = figures.list_actions("student")
    assert [name for name, action in found.items() if action == "run"] == ["student"]
    assert {name for name, action in found.items() if action == "reuse"} == {
        "teacher",
        "reference",
        "answers",
        "control",
        "production",
    }


def test_the_figure_of_the_candidates_has_every_slot_that_only_they_have() -> None:
    drawn = figures.draw_candidates()
    names = [slot.name for slot in SLOTS if slot.scope == "choice" and slot in recipe_reference.list_target_slots()]
    assert names == ["trials", "choice"]
    assert [name for name in names if f">{name}</text>" not in drawn] == []


@pytest.mark.parametrize(("low", "high", "verdict"), [(0, 0.02, "passed"), (0.01, 0.03, "undecided"), (0.021, 0.03, "failed")])
def test_the_figure_of_the_gates_judges_as_a_gate_does(low: float, high: float, verdict: str) -> None:
    assert figures.judge_bounds(low, high) == verdict


class Loaded(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name in ("src", "srcset", "data", "poster") if (value := given.get(name))]
        if tag == "link":
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_is_built_strictly_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::SyntaxWarning", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    html = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"index.html", "tutorial.html", "ideas.html", "measured.html", "reference/recipe.html"} <= html.keys()
    fetched = [link for text in html.values() for link in Loaded(text).found]
    assert fetched
    assert [link for link in fetched if re.match(r"(https?:)?//", link)] == []
    styles = [path.read_text() for path in tmp_path.rglob("*.css")]
    assert [url for text in styles for url in re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)]*)", text)] == []
    assert html["ideas.html"].count("<svg role=") == 3
    assert "python -m benchmarks.gates" in html["measured.html"]


def test_what_pages_cite_and_has_no_page_is_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "judge.py").write_text("")
    for name in hooks.INCLUDED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[a stage](stages/judge.py)" if name == "README.md" else "")
    (tmp_path / "docs" / "a.md").write_text(
        "[a stage](../stages/judge.py), [a page](b.md), [none](../none.py), [read me](../README.md)"
    )
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks.list_cited() == ["stages/judge.py"]
