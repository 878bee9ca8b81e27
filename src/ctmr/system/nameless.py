"""Files that have no name until all is known to be well, and then get one without being copied."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from ctmr.system.disks import lock


def nameless_file(folder: Path) -> BinaryIO:
    """A file on the disk of a folder, gone once it is closed; where the system can, `name_file` may keep it.

    Raises:
        OSError: If it cannot be made.
    """
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
            return open(descriptor, "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0, dir=folder)


def name_file(file: BinaryIO, place: Path) -> bool:
    """Put a `nameless_file` in the place of a draft; False, and nothing is changed, where that is not possible."""
    if os.link not in os.supports_dir_fd:
        return False
    descriptor = file.fileno()
    name = place.with_name(
        f".{secrets.token_hex(8)}.tmp"
    )  # as `ctmr.system.files` calls drafts, and held like them
    try:
        lock(descriptor, wait=True)
        os.fchmod(descriptor, stat.S_IMODE(place.stat().st_mode))
        # Only with some `src_dir_fd` Python follows the link in /proc; that name being absolute, it counts for nothing.
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)
        name.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)
        return False
    return True
