"""Blame: what broke as a message that names the slot, and the line of the user's own code where it
did."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attar.pipeline.core.errors import AttarError, StageError

INSTALLED = tuple(
    sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
PACKAGES = {"site-packages", "dist-packages"}
"""Folders of packages, those of a user's site and of the system among them."""


def locate_user_code(error: BaseException) -> str:
    """``" (task.py:12, in Birds.split)"``: the last line that is neither attar's nor an installed
    package's; "" for none."""
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_user_code(frame)
    ]
    if not frames:
        return ""
    frame, line = frames[-1]
    return f" ({Path(frame.f_code.co_filename).name}:{line}, in {frame.f_code.co_qualname})"


def is_user_code(frame: FrameType) -> bool:
    """The tasks and networks that come with attar count as a user's: he reads them as examples."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] == "attar":
        return module.startswith(("attar.models.tasks.", "attar.models.networks."))
    file = frame.f_code.co_filename
    if not PACKAGES.isdisjoint(Path(file).parts):
        return False
    return not file.startswith((*INSTALLED, "<"))


@contextmanager
def name_slot_in_errors(slot: str) -> Iterator[None]:
    """Whatever breaks inside leaves as an AttarError that names the slot."""
    try:
        yield
    except AttarError as error:
        raise type(error)(f"{slot}: {error}") from error
    except ModuleNotFoundError as error:
        said = f"{slot} broke: {error}{locate_user_code(error)}"
        raise StageError(
            f"{said}; is it installed? Training needs `pip install 'attar[train]'`"
        ) from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise StageError(
            f"{slot}: {error.strerror or error}{place}{locate_user_code(error)}; is the disk full "
            "or the file gone?"
        ) from error
    except (
        Exception,
        SystemExit,
    ) as error:  # user code and libraries may raise anything; it is chained and shown by -v
        raise StageError(
            f"{slot} broke: {type(error).__name__}: {error}{locate_user_code(error)}"
        ) from error
