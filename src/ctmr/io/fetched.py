"""Is the content of a scan here: a link that leads nowhere or a pointer file of a partly fetched data set is no scan."""

from pathlib import Path

from ctmr.errors import DataError

MAX_POINTER_BYTES = 4096
# How the text begins that stands in place of a file: unlocked and locked git-annex, git LFS.
POINTERS = (b"/annex/objects/", b".git/annex/", b"version https://git-lfs.")
FETCH = "fetch it (`datalad get`, `git annex get` or `git lfs pull`), or leave it out"


def require_fetched(path: Path) -> None:
    """Refuse what stands for a file that was not fetched; other faults are left to the reader.

    Raises:
        DataError: If it is a link that leads nowhere, or a pointer file.
    """
    if is_dangling(path):
        raise DataError("expected a file: found a link that leads nowhere", file=path, fix=FETCH)
    try:
        if path.is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
            with path.open("rb") as stream:
                start = stream.read(MAX_POINTER_BYTES)
        else:
            return
    except OSError:
        return
    while start.startswith(b"../"):
        start = start.removeprefix(b"../")
    if start.startswith(POINTERS):
        what = "expected a scan: found the pointer file of a data set that was partly fetched"
        raise DataError(what, file=path, fix=FETCH)


def is_dangling(path: Path) -> bool:
    """Whether it is a link that leads nowhere; one that leads round in a circle is none."""
    if not path.is_symlink():
        return False
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
