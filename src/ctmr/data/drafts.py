"""Where a store is half written: one process at a time, and the next goes on with what is finished."""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctmr.errors import DataError
from ctmr.system.disks import lock
from ctmr.system.files import make_folder

logger = logging.getLogger(__name__)


@contextmanager
def draft_of(place: Path, fingerprint: str) -> Iterator[Path]:
    """A folder beside `place` for what is half written; one process at a time has it, and others wait.

    It stays where a process is killed or stopped after it has finished a shard, and the next one goes on with it.

    Raises:
        OSError: If it cannot be made.
    """
    make_folder(place.parent)
    draft = _draft(place, fingerprint)
    with _turn(draft.with_suffix(".lock")) as alone:
        if not alone or _is_of_others(draft):  # no locks here: a draft that nobody else can have
            draft = draft.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
        try:
            yield draft
        except BaseException as error:
            if isinstance(error, DataError) or not any(draft.glob("*.marks")):
                _remove(draft)
            raise
        _remove(draft)


def clear_draft(place: Path, fingerprint: str) -> None:
    """Remove what a process left that was killed between the end of a store and the end of its draft."""
    draft = _draft(place, fingerprint)
    if draft.exists() or draft.with_suffix(".lock").exists():
        # A store may lie where nobody may write.
        with suppress(OSError), draft_of(place, fingerprint):
            pass


def _draft(place: Path, fingerprint: str) -> Path:
    return place.with_name(f".{place.name}.{fingerprint[:16]}.partial")


def _remove(draft: Path) -> None:
    """Remove a draft, its `plan` last: by it the rest is known as a draft if this process is killed meanwhile."""
    with suppress(OSError):
        for path in draft.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "plan":
                path.unlink()
    shutil.rmtree(draft, ignore_errors=True)


def _is_of_others(draft: Path) -> bool:
    """Whether something is there that no draft is: each has a `plan`."""
    if draft.is_dir() and not draft.is_symlink():
        return not (draft / "plan").is_file() and any(draft.iterdir())
    return draft.exists()


@contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Hold a file, made for it, against other processes; whether that is possible here."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            held = _locked(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        except FileNotFoundError:  # the process before removed it
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield held
    finally:
        if os.fstat(descriptor).st_size == 0:  # what was written into is a file of others
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        return lock(descriptor, wait=False) is None
    except BlockingIOError:
        logger.warning("another process prepares the same data: waiting for it")
        return lock(descriptor, wait=True) is None
