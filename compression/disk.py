"""A full disk, said in one line whoever meets it.

Each library has its own way: numpy counts bytes, safetensors and tokenizers quote the system, torch complains
of positions in its archive.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import BertpressError, DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Whatever fails while less than this is left failed for the want of it.
_NEXT_TO_NOTHING_BYTES = 1 << 20


@contextmanager
def full_disk_named(*folders: Path) -> Iterator[None]:
    """Turn what is raised for want of room in one of the folders into an error that says so.

    Raises:
        DiskFullError: there is no room left.
    """
    try:
        yield
    except BertpressError:
        raise
    except Exception as error:
        folder = next((folder for folder in folders if _is_full(folder, error)), None)
        if folder is None:
            raise
        raise DiskFullError(
            f"no room left on the disk of {folder.resolve()}; free some, and the same command goes on where "
            "it was: nothing that was finished is lost"
        ) from error


def _is_full(folder: Path, error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if "No space left on device" in str(error):
        return True
    return folder.exists() and shutil.disk_usage(folder).free < _NEXT_TO_NOTHING_BYTES
