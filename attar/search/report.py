"""The report of a search: one page, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from attar.pipeline.core.disk import explain_disk_errors
from attar.proof.ledger.ledger_json import to_json
from attar.proof.report.formats.html import TEMPLATES, make_environment
from attar.search.figure import draw_panel
from attar.search.result import SearchResult

OWN_TEMPLATES = Path(__file__).parent / "templates"


def write_search_report(result: SearchResult, folder: Path) -> Path:
    """Write ``search.html`` and ``search.json``, and return the page. Raises StoreError if the disk
    does not take them."""
    with explain_disk_errors(folder, "-o"):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_json(result), indent=1)
        (folder / "search.json").write_text(text, encoding="utf-8")
        page = folder / "search.html"
        page.write_text(render_search(result), encoding="utf-8")
    return page


def render_search(result: SearchResult) -> str:
    panel = draw_panel(result)
    return (
        make_environment(OWN_TEMPLATES)
        .get_template("search.html")
        .render(
            result=result,
            winner=result.get_winner(),
            closest=result.list_closest(),
            figures=[panel] if panel else [],
            css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        )
    )
