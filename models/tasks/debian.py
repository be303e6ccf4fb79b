"""Debian's package lists: the files of ``apt-get update``, read without its libraries and without
root.

``Packages`` holds a paragraph for each package, ``Translation-en`` its full description, and
``Translation-it`` the Italian one; they are joined on ``Description-md5`` (Debian policy, chapter
5: control files and their fields).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attar.pipeline.core.errors import StageError

PACKAGES = "*_Packages"
ENGLISH = ("en",)
LISTS_COMMAND = (
    "sh -c 'mkdir -p /lists/partial; apt-get update -o Dir::State::lists=/lists -o "
    "Acquire::Languages={languages} -o Acquire::GzipIndexes=false'"
)
"""Gets the lists into ``/lists``. Sets the languages, because containers and many machines are
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


class Description(NamedTuple):
    """A description in two languages, with its lines as they are, and its first package."""

    package: str
    source: str
    english: str
    foreign: str


def update_lists(
    folder: Path, languages: Sequence[str] = ENGLISH, name: str = "debian-topics"
) -> None:
    """Get the lists of this machine's sources into ``folder``, apart from the system's own. Raises
    StageError with the output of apt-get; ``name`` is the data folder in its advice."""
    if shutil.which("apt-get") is None:
        command = LISTS_COMMAND.format(languages=",".join(languages))
        raise StageError(
            "Debian's package lists come from `apt-get update`, and there is no apt-get here; get "
            f"them in a container, `docker run --rm -v $PWD/data/{name}/lists:/lists debian:12 "
            f"{command}`, and fetch again here; or copy the two files of a snapshot from a machine "
            "that has them"
        )
    (folder / "partial").mkdir(parents=True, exist_ok=True)  # which apt-get does not make itself
    options = {
        "Dir::State::lists": folder,
        "Dir::Cache": folder,
        "Acquire::Languages": ",".join(languages),
        "Acquire::GzipIndexes": "false",
    }
    settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    done = subprocess.run(["apt-get", "update", "-qq", *settings], capture_output=True, text=True)
    if done.returncode != 0 or not has_lists(folder, languages):
        lacking = " or ".join([PACKAGES, *map(name_translations, languages)])
        message = (
            " ".join((done.stderr or done.stdout).split())
            or f"exit code {done.returncode}, no {lacking}"
        )
        raise StageError(
            f"`apt-get update` did not get the package lists: {message}; look at /etc/apt and the "
            "network"
        )


def has_lists(folder: Path, languages: Sequence[str] = ENGLISH) -> bool:
    """Whether the folder has package lists, and full descriptions in these languages."""
    patterns = [PACKAGES, *map(name_translations, languages)]
    return all(any(folder.glob(pattern)) for pattern in patterns)


def name_translations(language: str) -> str:
    """Return the pattern of the files with the descriptions in a language."""
    return f"*_Translation-{language}"


def read_translated(folder: Path, language: str) -> list[Description]:
    """Return the descriptions that exist in English and in ``language``, sorted by package."""
    english, foreign = (read_descriptions(folder, name) for name in ("en", language))
    descriptions: dict[str, Description] = {}
    for fields in sorted(read_fields(folder), key=lambda fields: fields["Package"]):
        key = fields.get("Description-md5", "")
        if key in english and key in foreign and key not in descriptions:
            names = fields["Package"], name_source(fields)
            descriptions[key] = Description(*names, english[key], foreign[key])
    return list(descriptions.values())


def read_descriptions(folder: Path, language: str) -> dict[str, str]:
    """Return the descriptions in a language by the MD5 of the English ones."""
    return {
        fields["Description-md5"]: fields[f"Description-{language}"]
        for path in sorted(folder.glob(name_translations(language)))
        for fields in parse_paragraphs(path)
        if fields.get(f"Description-{language}")
    }


def read_fields(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the fields of each package of all lists."""
    for path in sorted(folder.glob(PACKAGES)):
        yield from parse_paragraphs(path)


def read_packages(folder: Path) -> list[Package]:
    """Return the packages of all lists in ``folder``, sorted by name. If a package is listed twice,
    the first list counts."""
    full = read_descriptions(folder, "en")
    packages: dict[str, Package] = {}
    for fields in read_fields(folder):
        description = full.get(fields.get("Description-md5", ""), fields.get("Description", ""))
        if description and "Section" in fields:
            packages.setdefault(fields["Package"], parse_package(fields, description))
    return [packages[name] for name in sorted(packages)]


def parse_package(fields: dict[str, str], description: str) -> Package:
    short, _, long = description.partition("\n")
    return Package(
        fields["Package"],
        name_source(fields),
        fields["Section"].rpartition("/")[2],
        join_lines(short),
        join_lines(long),
    )


def name_source(fields: dict[str, str]) -> str:
    """Return the source package without its version: ``gcc-12`` of ``gcc-12 (12.2.0-14)``."""
    return fields.get("Source", fields["Package"]).split(" ")[0]


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
