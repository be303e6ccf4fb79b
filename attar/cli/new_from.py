"""``attar new --from``: a project for the data that it finds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from attar.pipeline.core.errors import RecipeError

if TYPE_CHECKING:
    from attar.models.scans.findings import Constant, Findings

Kind = Literal["images", "table", "texts"]
PIECES = (
    "Texts are read in lower case and without accents, by a vocabulary that is made of those to "
    "train on, so texts that differ in nothing else are copies; a teacher of your own brings its "
    "own tokenizer.json."
)
KINDS: tuple[Kind, ...] = get_args(Kind)
STARTER = Path(__file__).parents[1] / "starter"
OWN_FILES = ("task.py", "nets.py", "recipe.toml")
VOCABULARY = 4000
"""At most: a vocabulary of few texts is smaller."""


def scan_data(kind: Kind, data: Path, label: str | None, group: str | None) -> Findings:
    """Look at all of the data. Raises RecipeError for those that cannot be learned from, and
    StageError for a file that cannot be read."""
    from attar.models.scans.files import scan_images, scan_text_files
    from attar.models.scans.tables import scan_table, scan_text_table

    if not data.exists():
        raise RecipeError(f"there is no {data}; name the folder or the table that holds the data")
    is_table = kind == "table" or (kind == "texts" and not holds_folders(data))
    if not is_table and (label or group):
        raise RecipeError(
            f"{data} is read as folders, which have no columns; leave out --label and --group"
        )
    if kind == "table":
        return scan_table(data, label, group)
    if kind == "images":
        return scan_images(data)
    found = scan_text_table(data, label, group) if is_table else scan_text_files(data)
    return replace(found, assumptions=[*found.assumptions, PIECES])


def holds_folders(data: Path) -> bool:
    return data.is_dir() and any(each.is_dir() for each in data.glob("[!.]*"))


def fill_project(project: Path, kind: Kind, findings: Findings, shared: Mapping[str, str]) -> None:
    """Write the project's files. ``shared`` are those of the starter project, by their names
    there."""
    from attar.models.splits.dealing import write_split_list

    for source, name in shared.items():
        shutil.copyfile(STARTER / source, project / name)
    constants = dict(findings.constants)
    if kind == "texts":
        constants["VOCABULARY"] = make_vocabulary(project / "tokenizer.json", findings)
    for name in OWN_FILES:
        text = (STARTER / kind / name).read_text(encoding="utf-8")
        (project / name).write_text(fill_constants(text, constants), encoding="utf-8")
    test = (project / "test_project.py").read_text(encoding="utf-8")
    (project / "test_project.py").write_text(test.replace('"fault"', '"label"'), encoding="utf-8")
    write_split_list(project / "splits.csv", findings.samples, findings.splits)
    page = (STARTER / "found/README.md").read_text(encoding="utf-8")
    lines = "".join(f"- {line}\n" for line in findings.assumptions)
    (project / "README.md").write_text(page + lines, encoding="utf-8", errors="replace")


def make_vocabulary(file: Path, findings: Findings) -> int:
    """Make a vocabulary of the texts that are trained on, and return its size."""
    from attar.models.preprocess.text import read_tokenizer
    from attar.models.tasks.snapshot import train_tokenizer

    train_tokenizer(file, findings.learned_texts, VOCABULARY)
    return int(read_tokenizer(file, "tokenize").get_vocab_size())


def fill_constants(text: str, constants: Mapping[str, Constant]) -> str:
    """Replace the values of constants at the beginning of lines; comments behind them stay."""
    for name, value in constants.items():
        written = f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)
        line = f"{name} = {written}".replace("\\", r"\\")  # re.sub reads backslashes
        text = re.sub(rf"^{name} = .*?(?=  #|$)", line, text, flags=re.MULTILINE)
    return text
