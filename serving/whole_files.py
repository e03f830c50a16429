"""Files that others read while they are written: they find what was there before or all that is new."""

from __future__ import annotations

import os
from pathlib import Path


def replace_whole(path: Path, content: bytes, *, synced: bool = False) -> None:
    """Put new content into a file's place, by way of a draft beside it.

    Args:
        path: no two processes may replace one file at once.
        content: all of it.
        synced: wait for the disk, so that a machine which loses its power leaves no empty file.

    Raises:
        OSError: it could not be written; what was there before stays.
    """
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(content)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
