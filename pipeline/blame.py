"""Where code that is the user's own broke: the line that a message has to name."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
PACKAGES = {"site-packages", "dist-packages"}
"""Folders of packages, those of a user's site and of the system among them."""


def where(error: BaseException) -> str:
    """``" (task.py:12, in Birds.split)"``: the last line that is neither attar's nor an installed package's; "" for none."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if own(frame)]
    if not frames:
        return ""
    frame, line = frames[-1]
    return f" ({Path(frame.f_code.co_filename).name}:{line}, in {frame.f_code.co_qualname})"


def own(frame: FrameType) -> bool:
    """The tasks and networks that come with attar count as a user's: he reads them as examples."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] == "attar":
        return module.startswith(("attar.models.tasks.", "attar.models.networks."))
    file = frame.f_code.co_filename
    if not PACKAGES.isdisjoint(Path(file).parts):
        return False
    return not file.startswith((*INSTALLED, "<"))
