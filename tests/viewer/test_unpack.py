"""Archives that strangers made: what is unpacked has names of ours, and nothing grows beyond its bounds."""

import io
import stat
import struct
import time
import zipfile
from pathlib import Path

import pytest

from ctmr.errors import DataError
from ctmr.viewer.unpack import unpack

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def packed(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(tmp_path: Path, archive: Path) -> DataError:
    (tmp_path / "scan").mkdir(exist_ok=True)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path / "scan", 1)
    assert time.monotonic() - started < 2
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "../../outside.png",
        "/outside.png",
        "C:\\outside.png",
        "a\\..\\..\\outside.png",
        "<img src=x onerror=alert(1)>.png",
        "\u202egnp.exe",
        "a" * 255 + ".png",
        "line\nbreak.png",
    ],
)
def test_member_gets_a_name_of_ours(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "deep" / "scan"
    inner.mkdir(parents=True)
    archive = packed(tmp_path / "a.zip", {name: PNG, "notes.txt": b"text"})
    assert unpack(archive, inner, 7) == 1
    assert [path.name for path in inner.iterdir()] == ["0007.png"]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a.zip", "0007.png"}


def test_bomb_is_stopped_while_it_inflates(tmp_path: Path) -> None:
    error = refused(tmp_path, packed(tmp_path / "a.zip", {"a.png": PNG + bytes(2**26)}))
    assert (error.code, "200 bytes" in error.what) == ("E300", True)
    assert list((tmp_path / "scan").iterdir()) == []


def test_ten_thousand_members_are_refused_by_their_number(tmp_path: Path) -> None:
    members = {f"{n}.png": b"" for n in range(10_000)}
    assert "5000 files: found 10000" in refused(tmp_path, packed(tmp_path / "a.zip", members)).what


def test_a_million_members_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(
        b"PK\3\4"
        + bytes(60)
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 46 * 10**6, 64, 0)
    )
    assert "found 65535 or more" in refused(tmp_path, tmp_path / "a.zip").what


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": PNG * 10, "b.png": PNG * 10}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    second = content.rindex(b"PK\1\2")  # its entry in the list points to the first member now
    struct.pack_into("<L", content, second + 42, 0)
    archive.write_bytes(content)
    assert "overlap" in refused(tmp_path, archive).what


def test_links_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "link" in refused(tmp_path, tmp_path / "a.zip").what


def test_archive_in_an_archive_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", PNG)
    error = refused(tmp_path, packed(tmp_path / "a.zip", {"innocent.dcm": inner.getvalue()}))
    assert "archive in the archive" in error.what


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": PNG})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    assert "encrypted" in refused(tmp_path, archive).what


@pytest.mark.parametrize("cut", [4, 30, 60])
def test_damaged_archive_is_refused(tmp_path: Path, cut: int) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": PNG * 3})
    archive.write_bytes(archive.read_bytes()[:-cut])
    assert refused(tmp_path, archive).code == "E300"


def test_wrong_size_of_a_member_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": PNG * 3}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    struct.pack_into("<L", content, content.rindex(b"PK\1\2") + 24, 10**6)
    archive.write_bytes(content)
    assert refused(tmp_path, archive).code == "E300"


def test_size_beyond_all_bounds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": PNG})
    content = bytearray(archive.read_bytes())
    struct.pack_into("<L", content, content.rindex(b"PK\1\2") + 24, 2**32 - 2)
    archive.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctmr.viewer.unpack.MAX_BYTES", 2**30)
        assert "1073741824 bytes" in refused(tmp_path, archive).what


def test_all_members_together_have_a_bound(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {f"{n}.png": PNG * 100 for n in range(4)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctmr.viewer.unpack.MAX_BYTES", 10_000)
        assert "10000 bytes" in refused(tmp_path, archive).what
