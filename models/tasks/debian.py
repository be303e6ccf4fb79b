"""Debian's package lists: the files of ``apt-get update``, read without its libraries and without
root.

``Packages`` holds a paragraph for each package, ``Translation-en`` its full description; the two
are joined on ``Description-md5`` (Debian policy, chapter 5: control files and their fields).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from attar.pipeline.core.errors import StageError

PACKAGES, TRANSLATIONS = "*_Packages", "*_Translation-en"
LISTS_COMMAND = (
    "sh -c 'mkdir -p /lists/partial; apt-get update -o Dir::State::lists=/lists -o "
    "Acquire::Languages=en -o Acquire::GzipIndexes=false'"
)
"""Gets the lists into ``/lists``. Sets the language, because containers and many machines are
configured to get no descriptions."""


class Package(NamedTuple):
    """A binary package. Packages that are built from one source share much of their
    descriptions."""

    name: str
    source: str
    section: str
    """Such as ``games``, without the component before it (``contrib/games``)."""
    short: str
    """The first line of the description."""
    long: str
    """The paragraphs below it, in one line; may be empty."""


def update_lists(folder: Path) -> None:
    """Get the lists of this machine's sources into ``folder``, apart from the system's own. Raises
    StageError with the output of apt-get."""
    if shutil.which("apt-get") is None:
        raise StageError(
            "Debian's package lists come from `apt-get update`, and there is no apt-get here; get "
            "them in a container, `docker run --rm -v $PWD/data/debian-topics/lists:/lists "
            f"debian:12 {LISTS_COMMAND}`, and fetch again here; or copy the two files of a "
            "snapshot from a machine that has them"
        )
    (folder / "partial").mkdir(parents=True, exist_ok=True)  # which apt-get does not make itself
    options = {
        "Dir::State::lists": folder,
        "Dir::Cache": folder,
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",
    }
    settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    done = subprocess.run(["apt-get", "update", "-qq", *settings], capture_output=True, text=True)
    if done.returncode != 0 or not has_lists(folder):
        message = (
            " ".join((done.stderr or done.stdout).split())
            or f"exit code {done.returncode}, no {PACKAGES} or {TRANSLATIONS}"
        )
        raise StageError(
            f"`apt-get update` did not get the package lists: {message}; look at /etc/apt and the "
            "network"
        )


def has_lists(folder: Path) -> bool:
    """Whether the folder has package lists and full descriptions."""
    return any(folder.glob(PACKAGES)) and any(folder.glob(TRANSLATIONS))


def read_packages(folder: Path) -> list[Package]:
    """Return the packages of all lists in ``folder``, sorted by name. If a package is listed twice,
    the first list counts."""
    translations = sorted(folder.glob(TRANSLATIONS))
    full = {
        fields["Description-md5"]: fields["Description-en"]
        for path in translations
        for fields in parse_paragraphs(path)
    }
    packages: dict[str, Package] = {}
    for path in sorted(folder.glob(PACKAGES)):
        for fields in parse_paragraphs(path):
            description = full.get(fields.get("Description-md5", ""), fields.get("Description", ""))
            if description and "Section" in fields:
                packages.setdefault(fields["Package"], parse_package(fields, description))
    return [packages[name] for name in sorted(packages)]


def parse_package(fields: dict[str, str], description: str) -> Package:
    source = fields.get("Source", fields["Package"]).split(" ")[
        0
    ]  # "gcc-12 (12.2.0-14)": without the version
    short, _, long = description.partition("\n")
    return Package(
        fields["Package"],
        source,
        fields["Section"].rpartition("/")[2],
        join_lines(short),
        join_lines(long),
    )


def join_lines(text: str) -> str:
    """Return the text in one line, with one space between words and without the dots that stand for
    empty lines."""
    return " ".join(re.sub(r"^ \.$", "", text, flags=re.MULTILINE).split())


def parse_paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph by name. Further lines of a value keep the space at their
    beginning."""
    for block in path.read_text("utf-8").split("\n\n"):
        fields = dict(re.findall(r"^([^\s:]+): *(.*(?:\n[ \t].*)*)", block, flags=re.MULTILINE))
        if fields:
            yield fields
