"""The folder of a running server: its owner's alone, gone when it ends, and swept by the next one where it was killed."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ctmr.system.disks import lock

PREFIX = "ctmr-view-"
LOCK = "server.lock"


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A new folder (0700) with a lock that is held as long as the process lives; what killed servers left is deleted."""
    parent = Path(tempfile.gettempdir())
    for path in parent.glob(PREFIX + "*"):
        _sweep(path)
    before = os.umask(0o077)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / "draft").open("x") as held:
            lock(held.fileno(), wait=False)
            (folder / "draft").rename(folder / LOCK)  # nobody sees it without its lock
            yield folder
    finally:
        os.umask(before)
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Delete the folder of a server that is no more."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
            return
        with (path / LOCK).open("r+") as held:
            if lock(held.fileno(), wait=False) is None:
                shutil.rmtree(path, ignore_errors=True)
