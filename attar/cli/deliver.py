"""Deliver: what a run leaves outside the store, for people and for whatever ships it. The report,
and a copy of each bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from attar.pipeline.core.disk import explain_disk_errors
from attar.pipeline.core.errors import RecipeError, StageError
from attar.pipeline.run import Record
from attar.pipeline.store.store import NOT_PAYLOAD, Store
from attar.proof.artifacts import Bundle, Evidence

NOTE = ".attar.json"
"""In the folder: of which artifacts its content is, and which of its folders are bundles that were
put there."""


def deliver_results(records: Sequence[Record], folder: Path, title: str, store: Store) -> Path:
    """Fill ``folder`` unless it holds these very artifacts; returns the report's path.

    ``folder/TARGET`` is the bundle of a target that has one: plain files, to be copied anywhere.
    Raises RecipeError when something else stands in its place, StoreError when the disk does not
    take it.
    """
    bundles = {folder / record.target: record.path for record in records if record.makes is Bundle}
    now = {"of": {record.slot: record.key or record.error or record.reason for record in records}}
    before = read_note(folder / NOTE)
    report = folder / "report.html"
    whole = report.exists() and all(
        bundle is None or there.is_dir() for there, bundle in bundles.items()
    )
    if whole and before.get("of") == now["of"]:
        return report
    for record in records:
        if record.key and record.makes in (Bundle, Evidence):  # whose files are read below
            store.fetch(record.key)
    ours = {folder / name for name in before.get("bundles", ())}
    for there in bundles:
        if there.exists() and there not in ours:
            raise RecipeError(
                f"{there} is in the way of that target's bundle and was not put there by attar; "
                "choose another -o"
            )
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(there.name for there in {*ours, *bundles})
        (folder / NOTE).write_text(json.dumps({"bundles": names}), encoding="utf-8")
        for there, bundle in bundles.items():
            replace_bundle(there, bundle)
        write_report(records, folder, title)
        (folder / NOTE).write_text(json.dumps({**now, "bundles": names}), encoding="utf-8")
    return report


def write_report(records: Sequence[Record], folder: Path, title: str) -> None:
    from attar.proof.report.formats.files import write_report

    try:
        write_report(records, folder, title)
    except ModuleNotFoundError as error:
        raise StageError(
            f"the report cannot be written: {error}; `pip install 'attar[train]'` brings what it "
            "needs"
        ) from error


def read_note(note: Path) -> dict[str, dict[str, str]]:
    try:
        made: dict[str, dict[str, str]] = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return made


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
