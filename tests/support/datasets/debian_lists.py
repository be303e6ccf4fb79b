"""Package lists as apt-get writes them, small: every section of the topics, sources with several packages, texts that repeat."""

from __future__ import annotations

import hashlib
from pathlib import Path

from attar.models.tasks.topics import Topics

HOST = "deb.example.org_debian_dists_stable"


def paragraph(name: str, section: str, description: str, source: str = "") -> tuple[str, str]:
    """Of Packages and of Translation-en. ``description``: the first line, then the long one's."""
    digest = hashlib.md5(description.encode(), usedforsecurity=False).hexdigest()
    short, _, long = description.partition("\n")
    of = f"Source: {source}\n" if source else ""
    package = f"Package: {name}\n{of}Version: 1.0-1\nSection: {section}\nDescription: {short}\nDescription-md5: {digest}\n"
    lines = "".join(f" {line}\n" for line in long.splitlines())
    return package, f"Package: {name}\nDescription-md5: {digest}\nDescription-en: {short}\n{lines}"


def write(folder: Path, paragraphs: list[tuple[str, str]], host: str = HOST) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in (("binary-amd64_Packages", 0), ("i18n_Translation-en", 1)):
        (folder / f"{host}_main_{name}").write_text("\n".join(each[column] for each in paragraphs))
    return folder


def release(folder: Path, sources: int = 30) -> Path:
    """So many sources a section, two packages each."""
    made = []
    for section in Topics.classes:
        for number in range(sources):
            source = f"{section}-{number}"
            long = f"\nThis is number {number} of {section}.\n.\nIt goes on with {section} {number}."
            made.append(paragraph(source, f"contrib/{section}", f"thing {number} for {section}{long}"))
            made.append(paragraph(f"{source}-data", section, f"files of thing {number} for {section}{long}", f"{source} (1.0-1)"))
    made.append(paragraph("libthing", "libs", "library of things\nOf no topic."))
    return write(folder, made)
