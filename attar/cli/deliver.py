"""Deliver: what a run leaves outside the store, for people and for whatever ships it. The report,
and a copy of each bundle."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attar.pipeline.core.disk import (
    check_writable,
    explain_disk_errors,
    lock_folder,
    read_json,
    replace_file,
)
from attar.pipeline.core.errors import AttarError, RecipeError, StageError
from attar.pipeline.run import Record
from attar.pipeline.store.store import NOT_PAYLOAD, Store
from attar.proof.artifacts import Bundle, Evidence, Verdict
from attar.proof.report.formats.files import FILES

if TYPE_CHECKING:
    from attar.recipes.workspace import Workspace

NOTE = ".attar.json"
"""In the folder: of which artifacts its content is, and which of its folders are bundles that were
put there."""


def check_places(workspace: Workspace, slots: Sequence[str], folder: Path) -> None:
    """Check, before anything is made, that the bundles of these slots can be put into ``folder``.

    Raises RecipeError if the bundle in production would be replaced, or if something else stands
    in the place of a bundle, and StoreError if nothing can be written there.
    """
    if folder != workspace.output:  # which is in the store, and that says itself what it lacks
        check_writable(folder, "-o")
    for bundle, _ in workspace.list_production(slots):
        if bundle.resolve().is_relative_to(folder.resolve()):
            raise RecipeError(
                f"--against {bundle} is in {folder}, where this command puts its own bundle or "
                "takes a failed one away; copy it elsewhere first, or choose another -o"
            )
    bound = workspace.recipe.pipeline.slots
    made = [slot for slot in slots if bound[slot].stage.makes() is Bundle]
    with explain_disk_errors(folder, name_option(folder, workspace.store)):
        check_own(folder / slot.partition(".")[0] for slot in made)


def check_own(places: Iterable[Path]) -> None:
    """Raises RecipeError if something is in the place of a bundle that was not put there."""
    for there in places:
        if there.exists() and there not in list_own(there.parent):
            raise RecipeError(
                f"{there} is in the way of that target's bundle and was not put there by attar; "
                "choose another -o"
            )


def list_own(folder: Path) -> set[Path]:
    """Return the places of the bundles that were put into ``folder``."""
    return {folder / name for name in read_note(folder).get("bundles", ())}


def find_unmade(records: Sequence[Record]) -> set[str]:
    """Return the targets that have no bundle although no verdict refuses it: it may be made yet."""
    refusing = {
        record.slot
        for record in records
        if record.makes is Verdict and record.facts.get("verdict") in ("failed", "undecided")
    }
    return {
        record.target
        for record in records
        if record.makes is Bundle
        and not record.path
        and refusing.isdisjoint(record.inputs.values())
    }


def deliver_results(
    records: Sequence[Record], folder: Path, title: str, store: Store, keep: Collection[str] = ()
) -> Path:
    """Fill ``folder`` unless it holds these very artifacts; returns the report's path.

    ``folder/TARGET`` is the bundle of a target that has one: plain files, to be copied anywhere. A
    target without one keeps no old copy, unless ``keep`` names it. Raises RecipeError when
    something else stands in its place, StoreError when the disk does not take it.
    """
    bundles = {
        folder / record.target: record.path
        for record in records
        if record.makes is Bundle and record.target not in keep
    }
    now = {record.slot: record.key or record.error or record.reason for record in records}
    report = folder / FILES[0]
    if is_delivered(folder, now, bundles):
        return report
    for record in records:
        if record.key and record.makes in (Bundle, Evidence):  # whose files are read below
            store.fetch(record.key)
    with explain_disk_errors(folder, name_option(folder, store)):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder, alone=True, wait=True):
            check_own(bundles)
            names = sorted(there.name for there in {*list_own(folder), *bundles})
            missing = bundles
            if read_note(folder).get("of") == now:  # what is there may be signed
                missing = dict(filter(is_missing, bundles.items()))
            else:
                write_note(folder, {"bundles": names})
            for there, bundle in missing.items():
                replace_bundle(there, bundle)
            write_report(records, folder, title)
            write_note(folder, {"of": now, "bundles": names})
    return report


def name_option(folder: Path, store: Store) -> str:
    """Return the option that chooses a folder: in the store are those that no other option names,
    such as that of the recipe which a search found."""
    return "--store" if folder.is_relative_to(store.root) else "-o"


@contextmanager
def postpone_errors() -> Iterator[list[AttarError]]:
    """Collect why results cannot be delivered, since what was found is shown all the same."""
    errors: list[AttarError] = []
    try:
        yield errors
    except AttarError as error:
        errors.append(error)


def end_command(code: int, undelivered: Sequence[AttarError]) -> NoReturn:
    """End with the exit code of the results. All that kept them from being delivered is told, and
    has its own exit code only where theirs is 0: a failed gate is no less failed on a full disk."""
    if not undelivered:
        sys.exit(code)
    first = undelivered[0]
    error = type(first)("\n".join(dict.fromkeys(map(str, undelivered))))
    error.exit_code = code or first.exit_code
    raise error from first


def is_delivered(folder: Path, now: Mapping[str, str], bundles: Mapping[Path, Path | None]) -> bool:
    """Whether the folder holds the report of these artifacts, and their bundles."""
    whole = all((folder / name).is_file() for name in FILES)
    return (
        whole and not any(map(is_missing, bundles.items())) and read_note(folder).get("of") == now
    )


def is_missing(bundle: tuple[Path, Path | None]) -> bool:
    """Whether there is a bundle, which is the second path, and no folder in its place."""
    there, made = bundle
    return made is not None and not there.is_dir()


def write_report(records: Sequence[Record], folder: Path, title: str) -> None:
    from attar.proof.report.formats.files import write_report

    try:
        write_report(records, folder, title)
    except ModuleNotFoundError as error:
        raise StageError(
            f"the report cannot be written: {error}; `pip install 'attar[train]'` brings what it "
            "needs"
        ) from error


def read_note(folder: Path) -> dict[str, Any]:
    note = read_json(folder / NOTE)
    return note if isinstance(note, dict) else {}


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    replace_file(folder / NOTE, json.dumps(note).encode())


def replace_bundle(there: Path, bundle: Path | None) -> None:
    """Replace the copy of a bundle's payload, whole or not at all. A target without a bundle keeps
    no old copy."""
    partial, old = (there.with_name(f".{there.name}.{what}") for what in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if bundle is not None:
        shutil.copytree(bundle, partial, ignore=shutil.ignore_patterns(*NOT_PAYLOAD))
    if there.exists():
        there.rename(old)
    if bundle is not None:
        partial.rename(there)
    shutil.rmtree(old, ignore_errors=True)
