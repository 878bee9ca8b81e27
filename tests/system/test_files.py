import errno
import json
import os
from pathlib import Path

import pytest

from ctmr.errors import OutputError
from ctmr.system import files
from ctmr.system.files import (
    recover,
    replacing,
    replacing_folder,
    require_empty,
    require_writable,
    set_aside,
    sync,
    write_bytes,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_as_utf8_and_its_folder_is_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "Ähre\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "Ähre\n".encode()
    assert names(tmp_path / "a" / "b") == ["c.txt"]


def test_text_takes_the_place_of_an_older_one(tmp_path):
    write_text(tmp_path / "a.txt", "old and longer")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_bytes_are_written_as_they_are(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\xff\x00\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\xff\x00\n"


def test_json_is_ascii_so_that_any_file_name_fits(tmp_path):
    value = {"name": b"\xff.png".decode(errors="surrogateescape"), "values": ["ä", 2.5, None]}
    write_json(tmp_path / "a.json", value)
    content = (tmp_path / "a.json").read_bytes()
    assert content.isascii()
    assert content.endswith(b"}\n")
    assert json.loads(content) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path, value):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"psnr": value})
    assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_failure_to_sync_is_an_output_error_and_the_old_file_stays(tmp_path, monkeypatch, number):
    def fail(_):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=os.strerror(number)):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_folder_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/a\.txt: cannot write it .*Fix: check free space"):
        write_text(tmp_path / "file" / "a.txt", "new")


def test_place_that_is_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="cannot write it"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]


def test_file_is_synced_before_it_takes_its_place_and_the_folder_after(tmp_path, monkeypatch):
    """The order that a power cut cannot undo (faults.md, R4)."""
    events = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        events.append(
            f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).suffix or 'folder'}"
        )
        fsync(descriptor)

    def noted_replace(old, new):
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_text(tmp_path / "a.txt", "new")
    assert events == ["fsync .tmp", "replace", "fsync folder"]


def test_sync_of_a_file_that_is_not_there_fails(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "a.txt")


def test_new_or_empty_folder_may_be_written(tmp_path):
    require_empty(tmp_path / "new")
    require_empty(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["full", "full/file"])
def test_folder_that_holds_something_and_a_file_are_refused(tmp_path, place):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"expected a new or empty folder\. Fix: choose another OUT"
    ):
        require_empty(tmp_path / place)


def test_folder_is_replaced_whole_or_stays_as_it_was(tmp_path):
    place = tmp_path / "a"
    with replacing_folder(place) as new:
        (new / "one").write_text("1")
        assert not place.exists()
    with replacing_folder(place) as new:
        (new / "two").write_text("2")
        assert [path.name for path in place.iterdir()] == ["one"]
    assert [path.name for path in place.iterdir()] == ["two"]
    with (
        pytest.raises(OutputError, match=r"cannot write it \(No space left on device; "),
        replacing_folder(place) as new,
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in place.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_fault_that_passes_is_tried_again(tmp_path, monkeypatch, number):
    calls = []
    fsync = os.fsync

    def fail_twice(descriptor):
        calls.append(descriptor)
        if len(calls) < 3:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_twice)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert len(calls) == 4  # two that failed, the file, its folder
    assert names(tmp_path) == ["a.txt"]


def test_fault_that_stays_is_tried_four_times_with_growing_pauses(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(files, "PAUSES", (0.1, 0.4, 1.6))
    monkeypatch.setattr("time.sleep", pauses.append)

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"No space left on device; [\d,]+ bytes are free"):
        write_text(tmp_path / "a.txt", "new")
    assert pauses == [0.1, 0.4, 1.6]


def test_fault_that_cannot_pass_is_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited"))
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="cannot write it"):
        write_text(tmp_path / "a.txt", "new")


def test_error_says_how_many_bytes_are_needed(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match=r"cannot write its 12,345 bytes \(No space left"):
        write_bytes(tmp_path / "a.bin", bytes(12_345))


def folder_with(place, name):
    with replacing_folder(place) as new:
        (new / name).write_text(name)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folders_are_exchanged_and_renamed_where_the_file_system_cannot(
    tmp_path, monkeypatch, can_exchange
):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for name in ("one", "two"):
        folder_with(tmp_path / "a", name)
        assert names(tmp_path / "a") == [name]
        assert names(tmp_path) == ["a"]


def test_folder_that_is_replaced_is_there_at_every_moment(tmp_path, monkeypatch):
    """No rename takes it away: the two are exchanged in one call."""
    folder_with(tmp_path / "a", "one")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("renamed"))
    folder_with(tmp_path / "a", "two")
    assert names(tmp_path / "a") == ["two"]


def test_folder_killed_between_two_renames_is_brought_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    place = tmp_path / "a"
    folder_with(place, "one")
    rename = Path.rename

    def killed(self, target):
        if target == place:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        folder_with(place, "two")
    monkeypatch.setattr(Path, "rename", rename)
    assert names(tmp_path) == [".a.old"]
    assert set_aside(place) == tmp_path / ".a.old"
    recover(place)
    assert names(place) == ["one"]
    recover(place)
    folder_with(place, "three")
    assert names(tmp_path) == ["a"]


def test_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    place = tmp_path / "a"
    folder_with(place, "one")
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".new.tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        folder_with(place, "two")
    assert names(place) == ["one"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["", "new", "new/deep", "file"])
def test_place_that_can_be_written_is_tried_without_a_trace(tmp_path, place):
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / place, 1000)
    assert names(tmp_path) == ["file"]


def test_place_below_a_file_or_without_the_space_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/new: cannot write it \(File exists\)"):
        require_writable(tmp_path / "file" / "new", 0)
    with pytest.raises(OutputError, match=r"expected \d+ MB of free space, found \d+ MB"):
        require_writable(tmp_path / "new", 10**18)
