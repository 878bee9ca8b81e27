"""File systems that lack syncing and locks."""

import errno
import os

import pytest

from ctmr.errors import OutputError
from ctmr.system import disks
from ctmr.system.files import write_bytes


@pytest.fixture(autouse=True)
def fresh():
    disks._warn.cache_clear()


def failing(number, *, folders):
    fsync = os.fsync

    def fail(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}") == folders:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF])
def test_files_are_written_where_folders_are_not_synced_and_that_is_said_once(
    tmp_path, monkeypatch, caplog, number
):
    monkeypatch.setattr(os, "fsync", failing(number, folders=True))
    for name in ("a", "b"):
        write_bytes(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert [message for message in caplog.messages if "does not sync folders" in message] == [
        f"the file system does not sync folders ({os.strerror(number)}): a power cut can undo what"
        " was written last"
    ]


@pytest.mark.parametrize(
    ("number", "folders"), [(errno.EIO, True), (errno.EIO, False), (errno.EACCES, False)]
)
def test_sync_that_fails_is_an_error(tmp_path, monkeypatch, number, folders):
    monkeypatch.setattr(os, "fsync", failing(number, folders=folders))
    with pytest.raises(OutputError):
        write_bytes(tmp_path / "a", b"content")


def test_lock_says_why_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "fcntl", None)
    with (tmp_path / "a").open("w") as stream:
        assert disks.lock(stream.fileno(), wait=False) == "this system has none"
