"""What not every file system has: syncing files and folders to disk, and locks between processes."""

import errno
import functools
import logging
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
NO_FOLDERS = (errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR)  # network shares, of folders

logger = logging.getLogger(__name__)


def sync(path: Path) -> None:
    """Force a file or a folder to disk; a warning says once where the file system cannot.

    Raises:
        OSError: If it can, and fails.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED and not (folder and error.errno in NO_FOLDERS):
            raise
        _warn("folders" if folder else "files", str(error.strerror))


@functools.cache
def _warn(what: str, why: str) -> None:
    logger.warning(
        "the file system does not sync %s (%s): a power cut can undo what was written last",
        what,
        why,
    )


def lock(descriptor: int, *, wait: bool) -> str | None:
    """Hold an open file against other processes until it is closed.

    Returns:
        None if it is held; else why there are no locks here.

    Raises:
        BlockingIOError: If another process holds it, without `wait`.
        OSError: If it cannot be locked.
    """
    if fcntl is None:
        return "this system has none"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return str(error.strerror)
    return None
