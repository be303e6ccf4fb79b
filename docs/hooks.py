"""Hooks: what the site has besides ``docs/*.md``. Pages made of the code, pages from elsewhere in
the repository, figures.

Pages link to files of the repository, so that the links work where the repository is read as well.
In the site a link to a file leads to the page that is made of it, or else to the file's own text.
"""

from __future__ import annotations

import posixpath
import re
from html import unescape
from pathlib import Path
from xml.sax.saxutils import quoteattr

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs import drawing, reference

ROOT = Path(__file__).parents[1]
INCLUDED = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE.txt",
    "benchmarks/RESULTS.md": "measured.md",
}
"""Files of the repository, and their places in the site."""
MADE_OF = {
    "attar/__init__.py": "reference/python.md",
    "attar/cli/main.py": "reference/commands.md",
    "attar/recipes/digits.toml": "reference/recipes.md",
    "pipeline/recipe/schema.py": "reference/recipe.md",
}
"""Code, and the pages that are made of it."""
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]+)")
IMAGE = re.compile(r'<img alt="([^"]*)" src="([^"]*figures/[^"]*\.svg)"[^>]*>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, text in reference.render_pages().items():
        files.append(File.generated(config, place, content=text))
    for source in (*INCLUDED, *list_cited()):
        files.append(
            File.generated(config, find_page(source) or source, abs_src_path=str(ROOT / source))
        )
    return files


def list_cited() -> list[str]:
    """Return the files that the pages link to and that have no page."""
    pages = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / name for name in INCLUDED if name.endswith(".md")),
    ]
    found = {
        resolve_link(page.relative_to(ROOT).as_posix(), link)
        for page in pages
        for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    return sorted(source for source in found if (find_page(source) or "").startswith("source/"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    place = page.file.src_uri
    origins = {place: source for source, place in INCLUDED.items()}
    return (
        markdown
        if place in MADE_OF.values()
        else rewrite_links(markdown, origins.get(place, f"docs/{place}"), place)
    )


def rewrite_links(markdown: str, source: str, place: str) -> str:
    """Turn links between files of the repository into links between pages. One that leads nowhere
    stays, and is refused as broken."""

    def rewrite_link(found: re.Match[str]) -> str:
        page = find_page(resolve_link(source, found[1]))
        return posixpath.relpath(page, posixpath.dirname(place) or ".") if page else found[1]

    return LINK.sub(rewrite_link, markdown)


def resolve_link(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def find_page(source: str) -> str | None:
    """Return where in the site a file of the repository is; None where there is no such file."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    if not (ROOT / source).is_file():
        return None
    shown = f"source/{source}" if source.endswith(PICTURES) else f"source/{source}.txt"
    return (INCLUDED | MADE_OF).get(source, shown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make figures part of their page, so that they follow its light and its dark."""
    return IMAGE.sub(
        lambda found: inline_figure(
            Path(config.docs_dir, "figures", Path(found[2]).name), found[1]
        ),
        html,
    )


def inline_figure(file: Path, words: str) -> str:
    drawn = file.read_text(encoding="utf-8").replace(drawing.STYLE, drawing.SITE_STYLE)
    return drawn.replace("<svg", f'<svg role="img" aria-label={quoteattr(unescape(words))}', 1)
