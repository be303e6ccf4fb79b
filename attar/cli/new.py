"""``attar new``: a starter project, with the files of ``starter/``, that runs as it is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from attar.cli.options import VERBOSE
from attar.pipeline.core.errors import RecipeError

STARTER = Path(__file__).parents[1] / "starter"
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


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@VERBOSE
def new(folder: Path) -> None:
    """Create a starter project with a recipe, a task and networks.

    DIR is created; if it exists, it must be empty. The project has a test and a CI script too.
    """
    write_project(folder)
    click.echo(f"{folder}: {', '.join(FILES.values())}")
    click.echo(
        "It runs as it stands, on made-up data, in half a minute; README.md says what to replace. "
        "Next, in that folder:"
    )
    click.echo("  attar run recipe.toml")


def write_project(folder: Path) -> None:
    """Write all files or none: they are written beside ``folder`` and renamed. Raises RecipeError
    if that fails."""
    try:
        check_folder(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".attar-new-", dir=folder.parent) as beside:
            project = Path(beside) / "project"
            project.mkdir()
            for source, name in FILES.items():
                shutil.copyfile(STARTER / source, project / name)
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
            f"{folder} would be replaced under your feet; name a new folder, such as "
            f"{folder / 'project'}"
        )
