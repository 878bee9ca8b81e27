"""Reading a DICOM series: which files, in which order, on which grid."""

import hashlib
import logging
import os
import shutil

import numpy as np
import pytest
import SimpleITK

from ctmr.errors import DataError, SafetyError
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from support.dicom_series import SHAPE, affine, edit, edit_all, make, one, turned


def test_series_is_read_as_it_was_written(tmp_path):
    volume = make(tmp_path)
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    assert np.allclose(series.volume.affine, volume.affine, atol=1e-9)
    assert series.volume.modality == "ct"
    assert series.volume.array.dtype == np.float32
    assert series.even
    assert series.notes == ()
    assert len(series.headers) == SHAPE[2]
    assert "PixelData" not in series.headers[0]


def test_first_pixels_lie_where_their_headers_say_by_hand(tmp_path):
    # A 2-by-2-pixel corner: +1 column is PixelSpacing[1] along the first half of the orientation.
    make(tmp_path, "mr")
    edit_all(
        tmp_path, PixelSpacing=[2.0, 0.5], ImageOrientationPatient=[0, 1, 0, 0, 0, -1], Rows=10
    )
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, ImagePositionPatient=[10 - 3.0 * k, 20, 30])
    series = read_series(tmp_path)
    # normal = y x (-z) = -x, so that the order is that of the files; LPS to RAS negates x and y
    assert np.allclose(
        series.volume.affine, [[0, 0, 3, -10], [-0.5, 0, 0, -20], [0, -2, 0, 30], [0, 0, 0, 1]]
    )
    assert series.volume.modality == "mr"


@pytest.mark.parametrize("tilt", [12.0, -18.5])
def test_tilted_gantry_gives_a_sheared_affine(tmp_path, tilt):
    volume = make(tmp_path, matrix=affine(tilt=tilt))
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    assert np.allclose(series.volume.affine, volume.affine, atol=1e-6)
    i, j, k = (series.volume.affine[:3, axis] for axis in range(3))
    normal = np.cross(i, j) / np.linalg.norm(np.cross(i, j))
    assert np.degrees(np.arccos(normal @ k / np.linalg.norm(k))) == pytest.approx(abs(tilt))


def test_oblique_series_keeps_its_affine_and_agrees_with_simpleitk(tmp_path):
    make(tmp_path, "mr", affine(turned(25.0, -14.0)))
    series = read_series(tmp_path)
    names = [os.fspath(path) for path in find_dicom(tmp_path)]
    image = SimpleITK.ReadImage(names)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, series.volume.array)
    for index in [(0, 0, 0), (11, 0, 0), (0, 9, 0), (3, 4, 5)]:
        lps = image.TransformIndexToPhysicalPoint(index)
        ras = series.volume.affine @ [*index, 1]
        assert np.allclose(ras[:3], [-lps[0], -lps[1], lps[2]], atol=1e-4)


def test_order_is_that_of_the_positions_never_of_names_or_numbers(tmp_path):
    make(tmp_path / "a")
    expected = read_series(tmp_path / "a").volume
    order = [3, 0, 5, 1, 4, 2]
    (tmp_path / "b").mkdir()
    for name, k in enumerate(order):
        path = tmp_path / "b" / f"IM{name}"
        shutil.copy(find_dicom(tmp_path / "a")[k], path)
        edit(path, InstanceNumber=7 * name % 5)
    found = read_series(tmp_path / "b").volume
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.affine, expected.affine)


def test_single_slice_takes_its_thickness(tmp_path):
    volume = make(tmp_path, shape=(8, 8, 1))
    assert np.allclose(read_series(tmp_path).volume.affine, volume.affine, atol=1e-9)
    edit(one(tmp_path), SliceThickness=None)
    with pytest.raises(SafetyError, match=r"SliceThickness \(0018,0050\) of a single slice"):
        read_series(tmp_path)


def test_other_files_are_not_dicom_and_are_counted(tmp_path):
    make(tmp_path)
    (tmp_path / "readme.txt").write_text("x" * 300)
    (tmp_path / "LOCKFILE").write_text("x")
    (tmp_path / ".hidden").touch()
    (tmp_path / "sub").mkdir()
    shutil.copy(one(tmp_path), tmp_path / "sub" / "a.dcm")
    assert len(find_dicom(tmp_path)) == SHAPE[2]
    assert read_series(tmp_path).notes == ("2 files that are not DICOM left out",)


@pytest.mark.parametrize("name", ["slice_0006.dcm", "IM0006", "1.2.840.6"])
def test_file_that_was_a_slice_is_refused_and_never_left_out(tmp_path, name):
    make(tmp_path)
    last = find_dicom(tmp_path)[-1]
    size = last.stat().st_size
    last = last.rename(tmp_path / name)
    for content in (b"", bytes(size), *([b"<html>not found"] if last.suffix == ".dcm" else [])):
        last.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: expected a DICOM file") as caught:
            read_series(tmp_path)
        assert caught.value.file == str(last)


def test_all_bad_files_of_a_series_are_named_at_once(tmp_path):
    make(tmp_path)
    first, second, third, fourth, *_ = find_dicom(tmp_path)
    for path in (first, second):
        edit(path, RescaleSlope=None)
    edit(third, SamplesPerPixel=3)
    with pytest.raises(SafetyError) as caught:
        read_series(tmp_path)
    assert caught.value.what.startswith("3 of 6 files cannot be used: expected RescaleSlope")
    assert f": found none ({first.name}, {second.name}); expected grey" in caught.value.what
    assert caught.value.what.endswith(f"found colours ({third.name})")
    assert fourth.name not in caught.value.what


def test_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a DICOM series: found no image"):
        read_series(tmp_path)
    with pytest.raises(DataError, match="expected a folder"):
        find_dicom(tmp_path / "none")


@pytest.mark.parametrize(
    ("limit", "match"),
    [
        ("io.dicom.recognise.MAX_FILES", "expected at most 5 files: found 6"),
        ("io.dicom.header.MAX_FILE_BYTES", "expected a file of at most 5 bytes"),
        (
            "io.dicom.validation.MAX_SERIES_BYTES",
            "expected a series of at most 5 bytes: found 2880",
        ),
        ("io.dicom.validation.MAX_SIDE", "expected 1 to 5 rows and columns: found 10 x 12"),
    ],
)
def test_limits_are_kept(tmp_path, monkeypatch, limit, match):
    make(tmp_path)
    monkeypatch.setattr(f"ctmr.{limit}", 5)
    with pytest.raises(DataError, match=match):
        read_series(tmp_path)


def test_localizers_are_left_out_with_a_note(tmp_path):
    make(tmp_path)
    path = tmp_path / "scout.dcm"
    shutil.copy(one(tmp_path), path)
    edit(path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="2.25.5")
    series = read_series(tmp_path)
    assert series.notes == ("1 localizer images left out",)
    assert len(series.headers) == SHAPE[2]


def test_burned_in_annotation_is_warned_of(tmp_path, caplog):
    make(tmp_path)
    edit(one(tmp_path), BurnedInAnnotation="YES")
    with caplog.at_level(logging.WARNING):
        read_series(tmp_path)
    assert "names may stand in the pixels" in caplog.text


def test_patient_is_a_hash_of_the_id(tmp_path):
    make(tmp_path, name="Doe^Jane")
    expected = hashlib.sha256(b"Doe^Jane").hexdigest()[:16]
    assert read_series(tmp_path).patient == expected
