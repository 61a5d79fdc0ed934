from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import DataError, DiskFullError
from compression.disk import full_disk_named


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_what_says_so_itself(raised: Exception, tmp_path: Path) -> None:
    said = f"no room left on the disk of {tmp_path}; free some"
    with pytest.raises(DiskFullError, match=said), full_disk_named(tmp_path):
        raise raised


def test_whatever_fails_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy and torch do not quote the system."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(DiskFullError), full_disk_named(tmp_path):
        raise OSError("1000000 requested and 76768 written")
    with pytest.raises(DiskFullError), full_disk_named(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    with pytest.raises(DataError), full_disk_named(tmp_path):
        raise DataError("known errors stay what they are")


def test_what_fails_with_room_left_is_not_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), full_disk_named(tmp_path, tmp_path / "absent"):
        raise RuntimeError("a bug")
