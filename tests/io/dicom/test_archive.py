"""A `.zip` of a series: the same scan as its folder, nothing left behind, and nothing unpacked that should not be."""

import io
import stat
import struct
import tempfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from ctmr import read_scan
from ctmr.errors import DataError, OutputError, SafetyError, UsageError
from ctmr.io.dicom.archive import MAX_MEMBERS
from ctmr.io.dicom.grouping import list_series
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.reading import Reading
from ctmr.io.scan import content_hash, kind_of, stem_of
from support.dicom_series import SHAPE, edit, edit_all, enhanced, make, one, put


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder that must be empty at the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def zipped(path, folder, below="study/series/", more=(), compression=zipfile.ZIP_DEFLATED):
    """An archive of the files of a folder, and of more members as (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, below + file.name)
        for name, content in more:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("below", ["", "study/series/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_is_read_as_its_folder(below, compression, tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series", below, compression=compression)
    series, expected = read_series(path), read_series(tmp_path / "series")
    assert np.array_equal(series.volume.array, expected.volume.array)
    assert np.array_equal(series.volume.affine, expected.volume.affine)
    assert series.headers == expected.headers
    assert np.array_equal(read_scan(path).array, expected.volume.array)
    assert (kind_of(path), stem_of(path), find_dicom(path)) == ("series", "a", [path])


def test_each_of_several_series_in_an_archive_is_read(tmp_path):
    (tmp_path / "both").mkdir()
    volumes = {"3": put(tmp_path / "both", 3), "4": put(tmp_path / "both", 4, mm=(9, 9, 9))}
    path = zipped(tmp_path / "a.zip", tmp_path / "both")
    series, left_out = list_series(path)
    assert left_out == {}
    assert len({content_hash(path, "series", one_series) for one_series in series}) == 2
    for one_series in series:
        assert (one_series.folder, one_series.files[0].parent) == (path, path)
        found = read_series(one_series).volume
        assert np.array_equal(found.array, volumes[one_series.name].array)
        chosen = read_scan(path, reading=Reading(series=(one_series.name,)))
        assert np.array_equal(chosen.array, found.array)
    with pytest.raises(UsageError, match="expected one series: found 2 of 2"):
        read_scan(path)


def test_options_hold_for_an_archive(tmp_path):
    volume = make(tmp_path / "series")
    edit_all(tmp_path / "series", RescaleIntercept=None)
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    with pytest.raises(SafetyError, match="give --ct-values hu"):
        read_scan(path)
    stored = read_scan(path, reading=Reading(ct_values="hu"))
    assert np.array_equal(stored.array, volume.array)
    one(tmp_path / "series").with_name("slice_0003.dcm").unlink()
    path = zipped(tmp_path / "b.zip", tmp_path / "series")
    with pytest.raises(SafetyError, match="--irregular"):
        read_scan(path, reading=Reading(ct_values="hu"))
    read_scan(path, reading=Reading(ct_values="hu", irregular=True))


def test_warning_names_the_archive(tmp_path, caplog):
    make(tmp_path / "series", "mr")
    edit_all(tmp_path / "series", SpacingBetweenSlices=7)
    read_series(zipped(tmp_path / "a.zip", tmp_path / "series"))
    assert [message.split(":")[0] for message in caplog.messages] == ["a.zip"]


def test_archive_of_an_enhanced_object_is_read(tmp_path):
    volume = make(tmp_path / "single")
    enhanced(tmp_path / "single", tmp_path / "multi")
    found = read_series(zipped(tmp_path / "a.zip", tmp_path / "multi"))
    assert np.array_equal(found.volume.array, volume.array)


def test_hash_of_an_archive_is_that_of_its_content(tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    before = content_hash(path, "series")
    assert content_hash(path.rename(tmp_path / "a2.zip").rename(path), "series") == before
    zipped(path, tmp_path / "series", "other/")
    assert content_hash(path, "series") != before


def test_other_files_are_left_out_as_in_a_folder(tmp_path):
    make(tmp_path / "series")
    more = [("study/report.pdf", b"%PDF" + bytes(10**6)), ("__MACOSX/._slice_0001.dcm", b"\0\5")]
    path = zipped(tmp_path / "a.zip", tmp_path / "series", more=more)
    assert read_series(path).notes == ("1 files that are not DICOM left out",)


def test_files_of_one_name_in_several_folders_are_all_read(tmp_path):
    volume = make(tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n, file in enumerate(find_dicom(tmp_path / "series")):
            archive.write(file, f"{n}/image.dcm")
    assert np.array_equal(read_series(tmp_path / "a.zip").volume.array, volume.array)


def test_error_names_the_archive_and_the_member_and_no_temporary_folder(tmp_path, temporary):
    make(tmp_path / "series")
    edit(one(tmp_path / "series"), Rows=None)
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    with pytest.raises(DataError) as caught:
        read_series(path)
    assert caught.value.file == str(path / "slice_0001.dcm")
    assert str(temporary) not in str(caught.value)


def test_archive_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="found no DICOM among 1 files"):
        read_series(zipped(tmp_path / "a.zip", tmp_path / "notes"))


@pytest.mark.parametrize("name", ["../a.dcm", "/a.dcm", "x/../../a.dcm", "..\\a.dcm", "C:\\a.dcm"])
def test_path_that_leads_out_is_refused_and_nothing_is_written(name, tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series", more=[(name, b"x")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"leads out of it \(file 7\)"):
        read_series(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_link_or_device_is_refused(kind, tmp_path):
    make(tmp_path / "series")
    member = zipfile.ZipInfo("a.dcm")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    path = zipped(tmp_path / "a.zip", tmp_path / "series", more=[(member, b"/etc/hostname")])
    with pytest.raises(DataError, match="found a link or a device"):
        read_series(path)


def test_archive_in_the_archive_is_refused(tmp_path):
    make(tmp_path / "series")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.dcm", b"x")
    path = zipped(tmp_path / "a.zip", tmp_path / "series", more=[("b.ZIP", inner.getvalue())])
    with pytest.raises(DataError, match="an archive in the archive") as caught:
        read_series(path)
    assert "unpack it yourself" in caught.value.fix


def test_encrypted_member_is_refused(tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="found an encrypted one"):
        read_series(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression, tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series", compression=compression)
    with pytest.raises(DataError, match="another compression"):
        read_series(path)


def test_zeros_that_are_no_dicom_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(2**28))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_series(tmp_path / "a.zip")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def listed(path, **fields):
    """The archive with numbers of its list of members changed: `size` of the first member, `count`, `length`."""
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    first = content.index(b"PK\1\2")
    places = {"size": (first + 24, "<L"), "count": (end + 10, "<H"), "length": (end + 12, "<L")}
    for name, value in fields.items():
        at, form = places[name]
        struct.pack_into(form, content, at, value)
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"size": 2**31}, "found 2147"),
        ({"count": 2 * MAX_MEMBERS + 1}, "found 40001 in"),
        ({"length": 2**25}, "in 33554432"),
    ],
)
def test_limits_are_kept_before_a_member_is_read(fields, found, tmp_path):
    make(tmp_path / "series")
    path = listed(zipped(tmp_path / "a.zip", tmp_path / "series"), **fields)
    with pytest.raises(DataError, match=found):
        read_series(path)


def test_too_many_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n in range(MAX_MEMBERS + 1):
            archive.writestr(str(n), b"")
    with pytest.raises(DataError, match=f"at most {MAX_MEMBERS} files: found {MAX_MEMBERS + 1}"):
        read_series(tmp_path / "a.zip")


def test_member_that_says_less_than_it_holds_is_refused(tmp_path):
    make(tmp_path / "series")
    path = listed(zipped(tmp_path / "a.zip", tmp_path / "series"), size=400)
    with pytest.raises(DataError, match="intact"):
        read_series(path)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_truncated_archive_is_refused(share, tmp_path):
    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"expected an intact \.zip archive"):
        read_series(path)


def test_want_of_space_is_told_before_anything_is_unpacked(tmp_path, monkeypatch):
    import shutil

    make(tmp_path / "series")
    path = zipped(tmp_path / "a.zip", tmp_path / "series")
    few = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    with pytest.raises(OutputError, match="free space"):
        read_series(path)


def test_shape_is_that_of_the_series(tmp_path):
    make(tmp_path / "series")
    assert read_scan(zipped(tmp_path / "a.zip", tmp_path / "series")).array.shape == SHAPE
