"""Headers that say no more than where the pixels lie and what they mean."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import FileMetaDataset

from ctmr.errors import DataError, SafetyError
from ctmr.io.dicom.recognise import find_dicom, is_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import Derivation, write_series
from support.dicom_series import edit, edit_all, make, one

ABOUT = Derivation("ab" * 32, "ct-to-mr", "0.1.0", "t1")
LEAN = (
    *("SOPClassUID", "FrameOfReferenceUID", "SliceThickness", "ImageType", "Manufacturer"),
    *("InstanceNumber", "RescaleType", "PositionReferenceIndicator", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "PatientName", "PatientID"),
    *("PatientBirthDate", "PatientSex", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
)


def drop(*keywords):
    def change(image):
        for keyword in keywords:
            if keyword in image:
                del image[keyword]

    return change


def bare(folder, implicit, meta=False, preamble=False):
    """Rewrite the files of a folder without preamble or file meta."""
    for path in find_dicom(folder):
        image = dcmread(path)
        if not meta:
            image.file_meta = FileMetaDataset()
        if not preamble:
            image.preamble = None
        dcmwrite(path, image, implicit_vr=implicit, little_endian=True)


def validity(paths):
    """The lines of dciodvfy that say Error."""
    said = ""
    for path in paths:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said += done.stderr + done.stdout
    # Its dictionary is older than SyntheticData (0008,001C).
    errors = [line for line in said.splitlines() if line.startswith("Error")]
    return [line for line in errors if "(0x0008,0x001c)" not in line]


@pytest.mark.parametrize(
    ("keyword", "note"),
    [
        ("SOPClassUID", "no SOPClassUID (0008,0016)"),
        ("SOPInstanceUID", "no SOPInstanceUID (0008,0018)"),
        ("StudyInstanceUID", "no StudyInstanceUID (0020,000D)"),
        ("SeriesInstanceUID", "no SeriesInstanceUID (0020,000E)"),
        ("FrameOfReferenceUID", "no FrameOfReferenceUID (0020,0052)"),
        ("PatientID", "no PatientID (0010,0020)"),
        ("SliceThickness", "no SliceThickness (0018,0050)"),
        ("RescaleType", "no RescaleType (0028,1054)"),
        ("Modality", "no Modality (0008,0060)"),
    ],
)
def test_what_is_not_needed_may_be_missing_or_blank_with_one_note(tmp_path, keyword, note):
    volume = make(tmp_path)
    edit_all(tmp_path, drop(keyword))
    series = read_series(tmp_path)
    assert series.notes == (note,)
    assert np.array_equal(series.volume.array, volume.array)
    edit_all(tmp_path, **{keyword: ""})
    assert read_series(tmp_path).notes == (note,)


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"])
def test_value_that_some_files_lack_is_that_of_the_others(tmp_path, keyword):
    make(tmp_path)
    edit(find_dicom(tmp_path)[2], drop(keyword))
    series = read_series(tmp_path)
    assert re.fullmatch(rf"no {keyword} \(.*\) in 1 of 6 files", series.notes[0])
    expected = str(dcmread(one(tmp_path))[keyword].value)
    paths = write_series(tmp_path / "out", series.volume, series, ABOUT)
    assert len({str(dcmread(path)[keyword].value) for path in paths}) == 1
    if keyword != "SeriesInstanceUID":
        assert str(dcmread(paths[2])[keyword].value) == expected


@pytest.mark.parametrize(
    "keywords",
    [
        ("SeriesInstanceUID",),
        ("StudyInstanceUID",),
        ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"),
    ],
)
def test_uids_new_for_each_file_are_no_series_of_their_own(tmp_path, keywords):
    volume = make(tmp_path)
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, **{word: f"2.25.{n}{k}" for n, word in enumerate(keywords, start=1)})
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    assert len(series.notes) == len(set(keywords) - {"SOPInstanceUID"})
    assert all("6 different" in note for note in series.notes)
    paths = write_series(tmp_path / "out", series.volume, series, ABOUT)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({dcmread(path)[keyword].value for path in paths}) == 1
    assert len({dcmread(path).SOPInstanceUID for path in paths}) == 6


def test_files_of_several_patients_with_uids_of_their_own_stay_apart(tmp_path):
    make(tmp_path)
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, SeriesInstanceUID=f"2.25.1{k}", PatientID=f"P{k % 2}")
    with pytest.raises(DataError, match="expected one series: found 2"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("implicit", "meta", "preamble"),
    [(True, False, False), (False, False, False), (True, False, True), (False, True, False)],
)
def test_data_set_without_preamble_or_file_meta_is_read(tmp_path, implicit, meta, preamble):
    volume = make(tmp_path)
    bare(tmp_path, implicit, meta, preamble)
    assert preamble or one(tmp_path).read_bytes()[128:132] != b"DICM"
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    assert np.allclose(series.volume.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x00",
        b"\x08\x00" * 200,
        b"\x02\x00\x00\x00UL\x04\x00" + b"x" * 300,
        b"\x08\x00\x05\x00CS\xff\xff" + b"x" * 300,
        b"\x7fELF\x02\x01\x01" + bytes(300),
        b"PK\x03\x04" + bytes(range(250)),
    ],
)
def test_other_bytes_are_no_data_set(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")


def test_data_set_without_preamble_that_is_cut_is_refused(tmp_path):
    make(tmp_path)
    bare(tmp_path, True)
    path = one(tmp_path)
    content = path.read_bytes()
    for size in range(200, len(content) - 1, 40):
        path.write_bytes(content[:size])
        with pytest.raises((DataError, SafetyError), match="expected"):
            read_series(tmp_path)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("spoil", ["lean", "bare", "copies"])
def test_result_of_a_lean_source_is_valid(tmp_path, modality, spoil):
    make(tmp_path / "in", modality)
    if spoil == "lean":
        edit_all(tmp_path / "in", drop(*LEAN))
    elif spoil == "bare":
        edit_all(tmp_path / "in", drop("SOPClassUID", "StudyInstanceUID"))
        bare(tmp_path / "in", True)
    else:
        edit_all(tmp_path / "in", SOPInstanceUID="2.25.7")
    series = read_series(tmp_path / "in")
    to = "ct-to-mr" if modality == "ct" else "mr-to-ct"
    about = Derivation("ab" * 32, to, "0.1.0", "")
    paths = write_series(tmp_path / "out", series.volume, series, about)
    assert validity(paths) == []
    assert len({dcmread(path).SOPInstanceUID for path in paths}) == len(paths)
    again = write_series(tmp_path / "again", series.volume, read_series(tmp_path / "in"), about)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert np.allclose(read_series(tmp_path / "out").volume.affine, series.volume.affine, atol=1e-6)


def test_two_lean_series_get_uids_of_their_own(tmp_path):
    uids = set()
    for name, modality in (("a", "ct"), ("b", "mr")):
        make(tmp_path / name, modality)
        edit_all(tmp_path / name, drop(*LEAN))
        series = read_series(tmp_path / name)
        paths = write_series(tmp_path / "out" / name, series.volume, series, ABOUT)
        uids |= {str(dcmread(path).SeriesInstanceUID) for path in paths}
    assert len(uids) == 2


def test_image_without_a_uid_is_not_referred_to(tmp_path):
    make(tmp_path / "in")
    edit_all(tmp_path / "in", drop("SOPInstanceUID"))
    series = read_series(tmp_path / "in")
    first, *_ = write_series(tmp_path / "out", series.volume, series, ABOUT)
    assert "SourceImageSequence" not in dcmread(first)


def test_text_in_the_place_of_an_optional_number_is_no_fault(tmp_path):
    make(tmp_path)
    spoilt = {"SliceThickness": b"thin", "SpacingBetweenSlices": b"2,5 ", "EchoTime": b"?"}

    def change(image):
        for keyword, value in spoilt.items():
            image.add_new(keyword, "LO", value.decode())

    for path in find_dicom(tmp_path):
        content = dcmread(path)
        change(content)
        content.save_as(path)
    assert read_series(tmp_path).even


def test_class_of_a_capture_is_a_slice_where_the_whole_series_has_it(tmp_path, caplog):
    volume = make(tmp_path)
    edit_all(tmp_path, SOPClassUID=uid.SecondaryCaptureImageStorage)
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array)
    assert "Modality (0008,0060) is believed" in caplog.text
