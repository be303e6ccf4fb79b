"""Package lists with Italian translations, small: sources in every split, siblings that share text."""

from __future__ import annotations

import hashlib
from pathlib import Path

from attar.models.tasks.translate import FOLDER
from tests.support.datasets.debian_lists import HOST, paragraph

NAMES = ("chess", "sound", "image", "network", "letter", "window", "number", "paper")


def translate_paragraph(english: str, italian: str, package: str) -> str:
    """Return the paragraph of Translation-it for a description."""
    digest = hashlib.md5(english.encode(), usedforsecurity=False).hexdigest()
    short, _, long = italian.partition("\n")
    lines = "".join(f" {line}\n" for line in long.splitlines())
    return f"Package: {package}\nDescription-md5: {digest}\nDescription-it: {short}\n{lines}"


def write_lists(folder: Path, entries: list[tuple[str, str, str, str]]) -> Path:
    """Write lists of packages: (name, source, English description, Italian description)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[str]] = {"binary-amd64_Packages": [], "i18n_Translation-en": [], "i18n_Translation-it": []}
    for name, source, english, italian in entries:
        package, translation = paragraph(name, "misc", english, source)
        for column, text in zip(columns, (package, translation, translate_paragraph(english, italian, name)), strict=True):
            columns[column].append(text)
    for column, texts in columns.items():
        (folder / f"{HOST}_main_{column}").write_text("\n".join(texts), encoding="utf-8")
    return folder


def write_release(root: Path, sources: int = 600) -> Path:
    """Write lists of so many sources where a task looks for them below ``root``. Return their folder."""
    entries = []
    for number in range(sources):
        topic = NAMES[number % len(NAMES)] + "ab"[number // len(NAMES) % 2] * (number // (2 * len(NAMES)) + 1)
        english = [f"small tool for {topic} files", f"It reads each {topic} file slowly. It writes {topic} again."]
        italian = [f"piccolo strumento per file {topic}", f"Legge lentamente ogni file {topic}. Scrive di nuovo {topic}."]
        english += [".", f" * more {topic} things"]
        italian += [".", f" * altre cose {topic};"]
        entries.append((f"tool-{number}", f"source-{number}", "\n".join(english), "\n".join(italian)))
    return write_lists(root / FOLDER / "lists", entries)
