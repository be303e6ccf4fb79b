"""Error context: messages that name the slot that failed, and the line of the user's code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attar.pipeline.core.errors import AttarError, StageError, UnfitSettingsError

INSTALLED = tuple(
    sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
PACKAGES = {"site-packages", "dist-packages"}
"""Folders of packages, also those of a user's site and of the system."""


def locate_user_code(error: BaseException) -> str:
    """Return ``" (task.py:12, in Birds.split)"``: the last line outside attar and installed
    packages, or ""."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_user_code(frame):
            code = frame.f_code
            place = f" ({Path(code.co_filename).name}:{line}, in {code.co_qualname})"
    return place


def is_user_code(frame: FrameType) -> bool:
    """Whether a frame is the user's. Tasks and networks that attar ships count too: users read them
    as examples."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] == "attar":
        return module.startswith(("attar.models.tasks.", "attar.models.networks."))
    file = frame.f_code.co_filename
    if not PACKAGES.isdisjoint(Path(file).parts):
        return False
    return not file.startswith((*INSTALLED, "<"))


@contextmanager
def name_slot_in_errors(slot: str) -> Iterator[None]:
    """Turn any error into an AttarError that names the slot."""
    try:
        yield
    except UnfitSettingsError:
        raise  # it names a slot of its own
    except AttarError as error:
        raise type(error)(f"{slot}: {error}") from error
    except ModuleNotFoundError as error:
        raise StageError(
            f"{slot} broke: {error}{locate_user_code(error)}; is it installed? Training needs "
            "`pip install 'attar[train]'`"
        ) from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise StageError(
            f"{slot}: {error.strerror or error}{place}{locate_user_code(error)}; is the disk full "
            "or the file gone?"
        ) from error
    except (Exception, SystemExit) as error:  # user code may raise anything; -v shows it
        raise StageError(
            f"{slot} broke: {type(error).__name__}: {error}{locate_user_code(error)}"
        ) from error
