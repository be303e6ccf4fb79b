"""``attar new``: a starter project, with the files of ``starter/``, that runs as it is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from attar.cli import new_from
from attar.cli.new_from import KINDS, Kind
from attar.cli.options import VERBOSE
from attar.pipeline.core.errors import RecipeError

STARTER = new_from.STARTER
FILES = {
    "README.md": "README.md",
    "task.py": "task.py",
    "nets.py": "nets.py",
    "recipe.toml": "recipe.toml",
    "test_project.py": "test_project.py",
    "ci.sh": "ci.sh",
    "gitignore": ".gitignore",
}
"""Name in ``starter/`` to name in the project. A .gitignore there would be this repository's
own."""
SHARED = {name: FILES[name] for name in ("test_project.py", "ci.sh", "gitignore")}
"""Files that every project has as they are."""


@click.command()
@click.option(
    "--from",
    "source",
    type=(click.Choice(KINDS), click.Path(path_type=Path)),
    metavar="images|table|texts DATA",
    help="Write the task for these data: folders named as classes, or a CSV or Parquet file.",
)
@click.option("--label", metavar="COLUMN", help="The column of the classes in a table.")
@click.option("--group", metavar="COLUMN", help="Rows that are equal here stay in one split.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@VERBOSE
def new(
    source: tuple[Kind, Path] | None, label: str | None, group: str | None, folder: Path
) -> None:
    """Create a starter project with a recipe, a task and networks.

    DIR is created; if it exists, it must be empty. The project has a test and a CI script too.
    With --from it is about your own data, which stay where they are, and says what it assumed of
    them.
    """
    if source is not None:
        write_found(*source, label, group, folder)
        return
    if label or group:
        raise RecipeError("--label and --group are for the columns of a table; add --from")
    write_project(folder)
    click.echo(f"{folder}: {', '.join(FILES.values())}")
    click.echo(
        "It runs as it stands, on made-up data, in half a minute; README.md says what to replace. "
        "Next, in that folder:"
    )
    click.echo("  attar run recipe.toml")


def write_found(kind: Kind, data: Path, label: str | None, group: str | None, folder: Path) -> None:
    """Write the project for these data, and print what was assumed of them."""
    from attar.cli.console import open_console

    check_folder(folder)
    with open_console():
        findings = new_from.scan_data(kind, data, label, group)
    fill = partial(new_from.fill_project, kind=kind, findings=findings, shared=SHARED)
    write_project(folder, fill)
    click.echo(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    click.echo("Assumed, as README.md there says too:")
    for line in findings.assumptions:
        click.echo(f"- {line}")
    click.echo("Next, in that folder:\n  attar run recipe.toml")


def copy_starter(project: Path) -> None:
    for source, name in FILES.items():
        shutil.copyfile(STARTER / source, project / name)


def write_project(folder: Path, fill: Callable[[Path], None] = copy_starter) -> None:
    """Write all files or none: ``fill`` writes them beside ``folder``, which is then renamed.
    Raises RecipeError if that fails."""
    try:
        check_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".attar-new-", dir=folder.parent) as beside:
            project = Path(beside) / "project"
            project.mkdir()
            fill(project)
            project.rename(folder)  # takes the place of an empty folder, and of nothing else
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise RecipeError(
            f"cannot make {folder}: {error.strerror or error}{place}; name another folder"
        ) from error


def check_folder(folder: Path) -> None:
    """Raises RecipeError for a file, a folder that is not empty, and a folder that must not be
    replaced."""
    if not (folder.exists() or folder.is_symlink()):
        return
    if not folder.is_dir():
        raise RecipeError(f"{folder} is there and is no folder; name one that is new or empty")
    if any(folder.iterdir()):
        raise RecipeError(
            f"{folder} is not empty, and nothing in it is overwritten; name a folder that is new "
            "or empty"
        )
    if folder.is_symlink() or folder.samefile(Path.cwd()):
        raise RecipeError(
            f"{folder} is the current folder or a link, which cannot be replaced; name a new "
            f"folder, such as {folder / 'project'}"
        )
