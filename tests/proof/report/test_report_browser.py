"""The report in a real browser: no console error, every figure drawn, nothing wider than the window."""

from __future__ import annotations

import html as escaping
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from attar.proof.report.formats.html import render_html
from tests.support.datasets.promised import missing
from tests.support.processes.browser import FLAGS
from tests.support.proof.report_records import broke, run_records, with_candidates

pytestmark = pytest.mark.slow

SHOWING = (
    *FLAGS,
    "--allow-file-access-from-files",  # the probe, a file, looks into the report, another file
    "--enable-logging=stderr",  # console messages appear there
)
PROBE = """<!doctype html><title>probe</title>
<body style="margin:0"><iframe id="report" src="report.html" style="border:0;width:{width}px;height:2000px"></iframe>
<script>
function box(element) {{ const b = element.getBoundingClientRect(); return [b.width, b.height]; }}
document.getElementById("report").addEventListener("load", event => {{
  const page = event.target.contentDocument;
  const inked = "path, use, rect, circle, line, text";
  const figures = [...page.querySelectorAll("figure")].map(figure => ({{
    title: figure.querySelector("h4").textContent,
    box: figure.querySelector("svg") ? box(figure.querySelector("svg")) : null,
    drawn: [...figure.querySelectorAll(inked)].filter(mark => Math.max(...box(mark)) > 0).length,
    unresolved: [...figure.querySelectorAll("use")].filter(use => !page.querySelector(use.href.baseVal)).length,
  }}));
  const marks = [...page.querySelectorAll("td svg.forest circle")].map(mark => {{
    const dot = mark.getBoundingClientRect(), cell = mark.closest("td").getBoundingClientRect();
    return dot.width > 0 && dot.left >= cell.left && dot.right <= cell.right;
  }});
  const width = page.documentElement.scrollWidth, background = getComputedStyle(page.body).backgroundColor;
  const cut = [...page.querySelectorAll(".scroll:has(.ledger)")].map(ledger => ledger.scrollWidth - ledger.clientWidth);
  const seen = {{ figures, marks, width, background, cut }};
  document.body.append(Object.assign(document.createElement("pre"), {{ id: "seen", textContent: JSON.stringify(seen) }}));
}});
</script>"""
"""Shows the report in a frame of some width and writes down what it measures there; the report itself is untouched."""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("chromium", "install it (Debian: apt-get install chromium)")
    return found


def browse(chromium: str, page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's DOM once it has loaded, and what it wrote to the console."""
    command = [chromium, *SHOWING, *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(chromium: str, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """What the probe sees of ``report.html`` in ``folder``."""
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(width=width), encoding="utf-8")
    dom, console = browse(chromium, probe, folder / "profile", "--window-size=1400,2000", *flags)
    assert console == []
    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert seen is not None, f"the report did not load: {dom[:500]}"
    made: dict[str, Any] = json.loads(escaping.unescape(seen[1]))
    return made


@pytest.mark.parametrize("width", [1280, 420])
def test_every_figure_is_drawn_and_fits(chromium: str, tmp_path: Path, width: int) -> None:
    records = run_records(tmp_path / "store", broken=True, undecided=True, production=True)
    records = with_candidates(records, tmp_path / "store")
    (tmp_path / "report.html").write_text(render_html(records, "fashion"), encoding="utf-8")
    seen = look(chromium, tmp_path, width)
    assert len(seen["figures"]) == 14
    for figure in seen["figures"]:
        assert figure["box"] is not None, figure
        assert min(figure["box"]) > 100, figure
        assert figure["box"][0] < width, figure
        assert figure["drawn"] > 10, figure
        assert figure["unresolved"] == 0, figure
    assert seen["width"] <= width, "the page scrolls sideways"
    assert len(seen["marks"]) > 10
    assert all(seen["marks"]), "a dot of a gate lies outside its cell"


def test_the_ledger_is_as_wide_as_the_page(chromium: str, tmp_path: Path) -> None:
    records = run_records(tmp_path / "store", broken=True)
    (tmp_path / "report.html").write_text(render_html(records, "fashion"), encoding="utf-8")
    cut = look(chromium, tmp_path, 1280)["cut"]
    assert cut
    assert max(cut) <= 0, "the last columns are cut off"


def test_failed_run_loads_without_a_console_error(chromium: str, tmp_path: Path) -> None:
    records = broke(run_records(tmp_path / "store"), "student", "loss is NaN <script>throw 1</script>")
    (tmp_path / "report.html").write_text(render_html(records, "<script>throw 2</script>"), encoding="utf-8")
    assert len(look(chromium, tmp_path, 420)["figures"]) == 2


def test_dark_follows_the_browser(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render_html([], "nothing"), encoding="utf-8")
    light = look(chromium, tmp_path, 420, "--blink-settings=preferredColorScheme=1")["background"]
    assert look(chromium, tmp_path, 420, "--blink-settings=preferredColorScheme=0")["background"] != light


def test_the_console_is_really_read(chromium: str, tmp_path: Path) -> None:
    """A page that breaks is noticed: otherwise the checks above would prove nothing."""
    page = tmp_path / "broken.html"
    page.write_text("<script>nothing.here()</script>", encoding="utf-8")
    assert browse(chromium, page, tmp_path / "profile")[1] != []
    blocked = render_html([], "nothing").replace("</main>", "<img src='https://example.invalid/x.png'></main>")
    page.write_text(blocked, encoding="utf-8")
    assert any("Content Security Policy" in line for line in browse(chromium, page, tmp_path / "profile")[1])
