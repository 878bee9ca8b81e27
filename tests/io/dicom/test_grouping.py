"""Which series lie in a folder, what lies beside them, and which one is taken."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image as Pillow
from pydicom import Dataset, dcmread, uid
from pydicom.dataset import FileMetaDataset

from ctmr.errors import DataError, SafetyError, UsageError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.grouping import HEADS, choose_series, list_series, series_rows
from ctmr.io.dicom.header import hashed
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import Derivation, write_series
from support.dicom_series import affine, edit, edit_all, enhanced, make, one, put, turned

ROOT = "1.2.840.10008.5.1.4.1.1."
T1 = {"EchoTime": 3, "RepetitionTime": 9, "ScanningSequence": "GR"}
T2 = {"EchoTime": 100, "RepetitionTime": 4000, "ScanningSequence": "SE"}


def other(path, modality, kind, uid_of_series="2.25.99", rows=0):
    """A DICOM object that is no slice."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID, item.Modality = kind, "2.25.98", modality
    item.PatientID, item.SeriesInstanceUID, item.StudyInstanceUID = "P1", uid_of_series, "2.25.97"
    if rows:
        item.Rows = item.Columns = rows
        item.NumberOfFrames = 3
    item.file_meta = FileMetaDataset()
    item.file_meta.MediaStorageSOPClassUID, item.file_meta.MediaStorageSOPInstanceUID = (
        kind,
        "2.25.98",
    )
    item.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    item.save_as(path, enforce_file_format=True)


# Beside slices


def test_other_objects_and_files_are_left_out_and_counted(tmp_path):
    volume = make(tmp_path)
    other(tmp_path / "RS.dcm", "RTSTRUCT", ROOT + "481.3")
    other(tmp_path / "RP.dcm", "RTPLAN", ROOT + "481.5")
    other(tmp_path / "RD.dcm", "RTDOSE", ROOT + "481.2", rows=4)
    other(tmp_path / "SR.dcm", "SR", ROOT + "88.67")
    other(tmp_path / "PR.dcm", "PR", ROOT + "11.1")
    other(tmp_path / "SC.dcm", "OT", uid.SecondaryCaptureImageStorage, rows=4)
    other(tmp_path / "PT.dcm", "PT", ROOT + "128", rows=4)
    Pillow.new("L", (4, 4)).save(tmp_path / "preview.jpg")
    (tmp_path / "notes.txt").touch()
    series, left_out = list_series(tmp_path)
    assert {why: [path.name for path in paths] for why, paths in left_out.items()} == {
        "files that are not DICOM": ["notes.txt", "preview.jpg"],
        "presentation states": ["PR.dcm"],
        "DICOM objects that are neither CT nor MR": ["PT.dcm"],
        "radiotherapy objects": ["RD.dcm", "RP.dcm", "RS.dcm"],
        "secondary captures": ["SC.dcm"],
        "reports": ["SR.dcm"],
    }
    assert len(series) == 1
    found = read_series(tmp_path)
    assert np.array_equal(found.volume.array, volume.array)
    assert "3 radiotherapy objects left out" in found.notes


def test_object_whose_texts_are_odd_is_left_out_too(tmp_path):
    make(tmp_path)
    other(tmp_path / "RS.dcm", "RTSTRUCT", ROOT + "481.3")
    edit(tmp_path / "RS.dcm", lambda item: item.add_new("PatientID", "UT", "x" * 5000))
    assert read_series(tmp_path).notes == ("1 radiotherapy objects left out",)


def test_capture_in_the_series_of_slices_is_left_out(tmp_path):
    make(tmp_path)
    known = dcmread(one(tmp_path)).SeriesInstanceUID
    other(tmp_path / "SC.dcm", "CT", uid.SecondaryCaptureImageStorage, known, rows=4)
    assert read_series(tmp_path).notes == ("1 secondary captures left out",)


def test_folder_of_other_objects_only_says_what_they_are(tmp_path):
    other(tmp_path / "RS.dcm", "RTSTRUCT", ROOT + "481.3")
    with pytest.raises(DataError, match="found no image but 1 radiotherapy objects"):
        read_series(tmp_path)
    assert list_series(tmp_path).series == ()


# Several series


def test_series_of_a_folder_are_listed_and_each_is_read(tmp_path):
    thick = put(tmp_path, 3)
    thin = put(tmp_path, 1, mm=(8, 8, 9), shape=(20, 20, 20))
    mr = put(tmp_path, 7, modality="mr", **T1)
    found = list_series(tmp_path).series
    assert series_rows(found) == [
        ("1", "CT", "-", "axial", "20 x 20", "8 x 8 x 9", "20", "scan"),
        ("3", "CT", "-", "axial", "20 x 20", "10 x 10 x 15", "10", "scan"),
        ("7", "MR", "t1", "axial", "20 x 20", "10 x 10 x 15", "10", "scan"),
    ]
    assert len(HEADS) == 8
    for one_series, volume in zip(found, (thin, thick, mr), strict=True):
        series = read_series(one_series)
        assert np.array_equal(series.volume.array, volume.array)
        assert series.notes == ()
        assert one_series.patient == series.patient
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(
            str(tmp_path), f"2.25.{one_series.number}"
        )
        assert sorted(names) == sorted(map(str, one_series.files))
    with pytest.raises(DataError, match=r"found 3: 1 CT .*--series NUMBER"):
        read_series(tmp_path)


def test_multi_frame_object_is_described_by_its_frames(tmp_path):
    (tmp_path / "a").mkdir()
    put(tmp_path / "a", 3, mm=(8, 9, 15))
    enhanced(tmp_path / "a", tmp_path / "b", order=[1, 0, *range(2, 10)])
    rows = [series_rows(list_series(tmp_path / name).series) for name in "ab"]
    assert rows[0] == rows[1]
    (found,) = list_series(tmp_path / "b" / "enhanced.dcm").series
    assert found.whole_head
    assert found.files == (tmp_path / "b" / "enhanced.dcm",)


def test_multi_frame_object_of_several_volumes_is_refused_only_if_it_is_chosen(tmp_path):
    volume = put(tmp_path, 3)
    other_series = tmp_path / "other"
    other_series.mkdir()
    put(other_series, 4)

    def stacks(image):
        for k, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            group.FrameContentSequence[0].StackID = str(k % 2)

    enhanced(other_series, tmp_path, change=stacks)
    good, bad = list_series(tmp_path).series
    assert (good.name, bad.name, bad.slices) == ("3", "4", 10)
    assert choose_series([good, bad], (), "mr") == [good]
    assert np.array_equal(read_series(good).volume.array, volume.array)
    with pytest.raises(DataError, match="expected the frames of one volume"):
        read_series(bad)


def test_no_uid_is_shown(tmp_path):
    put(tmp_path, 3)
    (found,) = list_series(tmp_path).series
    assert "2.25.3" not in repr(found)
    assert found.uid == "2.25.3"
    assert found.frame is not None
    assert len(found.frame) == len(found.study or "") == 16


@pytest.mark.parametrize(
    ("plane", "rotation"),
    [
        ("axial", turned(0)),
        ("axial", turned(25)),
        ("coronal", turned(90)),
        ("sagittal", turned(90, 90)),
        ("oblique", turned(45)),
    ],
)
def test_plane_is_told_by_the_normal(tmp_path, plane, rotation):
    make(tmp_path, "mr", affine(rotation))
    assert list_series(tmp_path).series[0].plane == plane


def test_series_without_a_number_goes_by_a_hash(tmp_path):
    put(tmp_path, 3)
    put(tmp_path, 4)
    edit_all(tmp_path, SeriesNumber=None)
    found = list_series(tmp_path).series
    names = [row[0] for row in series_rows(found)]
    assert sorted(names) == sorted(hashed(f"2.25.{n}")[:8] for n in (3, 4))
    assert choose_series(found, (names[0],), None) == [found[0]]


# Which is taken


def choose(folder, *wanted, to):
    series = list_series(folder).series
    return [one_series.number for one_series in choose_series(series, wanted, to)]


def test_thinnest_whole_head_is_taken_of_equals_the_lowest_number(tmp_path):
    put(tmp_path, 2, mm=(10, 10, 15))
    put(tmp_path, 6, mm=(10, 10, 13))
    put(tmp_path, 5, mm=(10, 10, 13))
    put(tmp_path, 1, mm=(10, 10, 3))  # 30 mm, no whole head
    put(tmp_path, 3, mm=(3, 3, 13))  # 60 mm in plane
    put(tmp_path, 4, modality="mr", mm=(10, 10, 13), **T1)
    assert choose(tmp_path, to="mr") == [5]
    assert choose(tmp_path, to="ct") == [4]
    assert choose(tmp_path, to=None) == [1, 2, 3, 4, 5, 6]


def test_t1_is_taken_before_what_is_thinner(tmp_path):
    put(tmp_path, 1, modality="mr", mm=(10, 10, 12), **T2)
    put(tmp_path, 2, modality="mr", mm=(10, 10, 15), **T1)
    put(tmp_path, 3, modality="mr", mm=(10, 10, 12), EchoTime=None, RepetitionTime=None)
    assert choose(tmp_path, to="ct") == [2]


def test_localizers_derived_and_synthetic_series_are_not_taken(tmp_path):
    put(tmp_path, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    put(tmp_path, 2, ImageType=["DERIVED", "SECONDARY", "MPR", "AVERAGE"])
    put(tmp_path, 3, ImageType=["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"])
    put(tmp_path, 4)
    assert [found.kind for found in list_series(tmp_path).series] == [
        *("localizer", "derived", "synthetic", "scan")
    ]
    assert choose(tmp_path, to="mr") == [4]
    assert choose(tmp_path, "all", to="mr") == [2, 4]
    assert read_series(tmp_path).notes == tuple(
        f"10 {kind} images left out" for kind in ("localizer", "derived", "synthetic")
    )


def test_series_of_three_planes_is_a_localizer(tmp_path):
    put(tmp_path, 1, shape=(20, 20, 3))
    for path, turn in zip(find_dicom(tmp_path), (0, 90, 90), strict=True):
        rotation = turned(turn)
        edit(path, ImageOrientationPatient=[*rotation[:, 0], *rotation[:, 1]])
    assert list_series(tmp_path).series[0].kind == "localizer"


def test_result_of_ctmr_beside_its_source_is_told_from_it(tmp_path):
    put(tmp_path, 1)
    source = read_series(tmp_path)
    write_series(
        tmp_path / "out", source.volume, source, Derivation("ab" * 32, "ct-to-mr", "1", "")
    )
    for path in find_dicom(tmp_path / "out"):
        shutil.copy(path, tmp_path / f"result_{path.name}")
    assert [found.kind for found in list_series(tmp_path).series] == ["scan", "synthetic"]
    assert choose(tmp_path, to="mr") == [1]
    assert choose(tmp_path, "9001", to="mr") == [9001]


def test_several_patients_or_all_take_every_series_of_the_source(tmp_path):
    put(tmp_path, 1)
    put(tmp_path, 2)
    put(tmp_path, 3, modality="mr")
    assert choose(tmp_path, "all", to="mr") == [1, 2]
    assert choose(tmp_path, "all", to=None) == [1, 2, 3]
    for path in tmp_path.glob("2_*"):
        edit(path, PatientID="P2")
    assert choose(tmp_path, to="mr") == [1, 2]


def test_named_series_are_taken_by_number_or_uid(tmp_path):
    put(tmp_path, 1)
    put(tmp_path, 2)
    put(tmp_path, 3)
    assert choose(tmp_path, "3", "2.25.1", to="mr") == [1, 3]
    with pytest.raises(UsageError, match=r"one of 3 series: found '4'; there are 1 CT .* 3 CT"):
        choose(tmp_path, "4", to="mr")


def test_where_only_the_target_is_there_it_is_left_to_the_check_of_modality(tmp_path):
    put(tmp_path, 1, modality="mr")
    assert choose(tmp_path, to="mr") == [1]
    assert choose_series((), (), "mr") == []


def test_several_patients_within_a_series_are_refused(tmp_path):
    make(tmp_path)
    edit(one(tmp_path), PatientID="other")
    (found,) = list_series(tmp_path).series
    with pytest.raises(SafetyError, match=r"one PatientID \(0010,0020\) in a series: found 2"):
        read_series(found)


def test_an_empty_folder_has_no_series(tmp_path):
    assert list_series(tmp_path) == ((), {})
    with pytest.raises(DataError, match="expected a folder"):
        list_series(Path(tmp_path, "none"))


def test_volume_of_two_thicknesses_is_read_slice_by_slice(tmp_path):
    volume = make(tmp_path, shape=(8, 8, 20))
    for path in find_dicom(tmp_path)[11::2]:
        path.unlink()
    with pytest.raises(SafetyError, match="spacing must be regular") as caught:
        read_series(tmp_path)
    assert caught.value.fix == "add the missing files, or give --irregular"
    series = read_series(tmp_path, irregular=True)
    assert not series.even
    kept = [*range(11), *range(12, 20, 2)]
    assert isinstance(series.volume, Volume)
    assert np.array_equal(series.volume.array, volume.array[:, :, kept])
