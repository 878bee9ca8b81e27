"""DICOM files and series that are refused for what they say."""

import hashlib
import re
import shutil

import numpy as np
import pytest
from pydicom import dcmread, uid

from ctmr.errors import DataError, SafetyError
from ctmr.io.dicom.header import text_of
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from support.dicom_series import affine, edit, edit_all, make, one, turned

# Which images belong together


def test_two_series_are_refused_with_a_table_and_the_option(tmp_path):
    make(tmp_path)
    edit(one(tmp_path), SeriesInstanceUID="2.25.5")
    name = hashlib.sha256(b"2.25.5").hexdigest()[:8]
    with pytest.raises(
        DataError, match=rf"one series: found 2: .*; {name} CT .* 10 x 12 .*--series NUMBER"
    ):
        read_series(tmp_path)


def test_two_studies_in_a_series_are_noted_and_the_first_is_taken(tmp_path):
    make(tmp_path)
    edit(find_dicom(tmp_path)[3], StudyInstanceUID="2.25.5")
    series = read_series(tmp_path)
    assert series.notes == ("2 different StudyInstanceUID (0020,000D): the first is taken",)
    expected = dcmread(one(tmp_path)).StudyInstanceUID
    assert {text_of(header, "StudyInstanceUID") for header in series.headers} == {expected}


@pytest.mark.parametrize(
    ("error", "tags"),
    [
        (SafetyError, {"PatientID": "other"}),
        (SafetyError, {"FrameOfReferenceUID": "2.25.5"}),
        (SafetyError, {"Modality": "MR", "SOPClassUID": uid.MRImageStorage}),
        (DataError, {"PixelSpacing": [3.0, 3.0]}),
        (DataError, {"Rows": 5}),
        (DataError, {"Columns": 6}),
    ],
)
def test_slices_that_do_not_fit_together_are_refused(tmp_path, error, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(
        error, match=rf"expected one {next(iter(tags))} \([0-9A-F]{{4}},.*found 2"
    ) as caught:
        read_series(tmp_path)
    assert re.match(r"move (slice_0001\.dcm|the files of each) into a folder", caught.value.fix)
    one(tmp_path).unlink()  # the fix
    read_series(tmp_path)


def other_pixels(image):
    image.PixelData = bytes(reversed(image.PixelData))


def test_same_image_twice_is_taken_once(tmp_path):
    volume = make(tmp_path)
    shutil.copy(one(tmp_path), tmp_path / "twin.dcm")
    shutil.copy(one(tmp_path), tmp_path / "again.dcm")
    edit(tmp_path / "again.dcm", SOPInstanceUID="2.25.5")
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    assert series.notes == ("2 copies of slices left out",)


def test_another_image_with_the_same_uid_is_refused_naming_both_files(tmp_path):
    make(tmp_path)
    shutil.copy(one(tmp_path), tmp_path / "twin.dcm")
    edit(tmp_path / "twin.dcm", other_pixels)
    with pytest.raises(
        DataError, match=r"twin\.dcm: .*SOPInstanceUID .*'slice_0001\.dcm'"
    ) as caught:
        read_series(tmp_path)
    assert caught.value.fix == "move one of the two files away"
    (tmp_path / "twin.dcm").unlink()
    read_series(tmp_path)


def test_two_images_at_a_position_are_refused_naming_both_files(tmp_path):
    make(tmp_path)
    shutil.copy(one(tmp_path), tmp_path / "twin.dcm")
    edit(tmp_path / "twin.dcm", other_pixels, SOPInstanceUID="2.25.5")
    with pytest.raises(DataError, match=r"twin\.dcm: .*one image at a position.*'slice_0001\.dcm'"):
        read_series(tmp_path)
    with pytest.raises(DataError, match="one image at a position"):
        read_series(tmp_path, irregular=True)


# Geometry


def test_missing_slice_is_refused_with_its_place_unless_asked_for(tmp_path):
    volume = make(tmp_path, shape=(8, 8, 9))
    find_dicom(tmp_path)[6].unlink()
    with pytest.raises(
        SafetyError,
        match=r"found 5\.000 mm instead of 2\.500 mm between slices 6 and 7 of 8, at -9\.625 and -4\.625 mm",
    ):
        read_series(tmp_path)
    series = read_series(tmp_path, irregular=True)
    assert not series.even
    assert series.volume.affine[2, 2] == pytest.approx(2.5 * 8 / 7)
    assert np.array_equal(series.volume.array, np.delete(volume.array, 6, axis=2))


def test_spacing_that_drifts_is_refused(tmp_path):
    # Each gap is within 0.05 mm of the median, and yet the last third is 0.3 mm off.
    make(tmp_path, shape=(4, 4, 30), matrix=affine(spacing=(1, 1, 1)))
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, ImagePositionPatient=[0, 0, k + 0.04 * max(0, k - 15)])
    with pytest.raises(SafetyError, match=r"drift 0\.\d+ mm"):
        read_series(tmp_path)


def test_slice_off_the_line_is_refused(tmp_path):
    make(tmp_path)
    path = find_dicom(tmp_path)[2]
    x, y, z = dcmread(path).ImagePositionPatient
    edit(path, ImagePositionPatient=[x + 0.2, y, z])
    with pytest.raises(
        SafetyError, match=r"slice_0003\.dcm: .*on a line: found one 0\.2 mm off.*--irregular"
    ):
        read_series(tmp_path)
    assert not read_series(tmp_path, irregular=True).even
    edit(path, ImagePositionPatient=[x + 2, y, z])
    with pytest.raises(SafetyError, match="found one 2 mm off") as caught:
        read_series(tmp_path, irregular=True)
    assert "--irregular" not in caught.value.fix


@pytest.mark.parametrize("degrees", [0.1, 2.0])
def test_slice_turned_against_the_others_is_refused(tmp_path, degrees):
    make(tmp_path)
    row, column = turned(0, degrees)[:, 0], turned(0, degrees)[:, 1]
    edit(
        find_dicom(tmp_path)[2],
        ImageOrientationPatient=[float(f"{v:.9f}") for v in (*row, *column)],
    )
    with pytest.raises(SafetyError, match=r"slice_0003\.dcm: .*found another, off by"):
        read_series(tmp_path)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0.1, 1, 0], [2, 0, 0, 0, 1, 0], [0] * 6])
def test_orientation_that_is_not_orthonormal_is_refused(tmp_path, orientation):
    make(tmp_path)
    edit_all(tmp_path, ImageOrientationPatient=orientation)
    with pytest.raises(SafetyError, match=r"orthonormal ImageOrientationPatient \(0020,0037\)"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_missing_geometry_is_refused(tmp_path, keyword):
    make(tmp_path)
    edit(one(tmp_path), **{keyword: None})
    with pytest.raises(SafetyError, match=rf"expected {keyword} \(.*found none") as caught:
        read_series(tmp_path)
    assert "or move this one away" in caught.value.fix
    one(tmp_path).unlink()
    read_series(tmp_path)


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelSpacing": [0, 1]},
        {"PixelSpacing": [-1, 1]},
        {"ImagePositionPatient": [0, 0]},
        {"ImagePositionPatient": [0, 0, 1e300]},
    ],
)
def test_geometry_that_is_none_is_refused(tmp_path, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(
        SafetyError, match="expected finite position, orientation and pixel spacing"
    ):
        read_series(tmp_path)


# Units


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_ct_without_rescale_is_refused(tmp_path, keyword):
    make(tmp_path)
    edit(one(tmp_path), **{keyword: None})
    with pytest.raises(SafetyError, match=r"RescaleSlope .* of a CT: found none") as caught:
        read_series(tmp_path)
    assert caught.value.fix.startswith("give --ct-values hu if")
    read_series(tmp_path, vouched=True)


@pytest.mark.parametrize("slope", ["0", "NaN", "inf", "1e300"])
def test_slope_that_loses_the_pixels_is_refused(tmp_path, slope):
    make(tmp_path)
    edit(one(tmp_path), lambda image: image.add_new("RescaleSlope", "DS", float(slope)))
    with pytest.raises(DataError, match="finite RescaleSlope"):
        read_series(tmp_path)


@pytest.mark.parametrize("kind", ["US", "HU_MOD"])
def test_ct_in_other_units_is_refused(tmp_path, kind):
    make(tmp_path)
    edit(one(tmp_path), RescaleType=kind)
    volume = read_series(tmp_path, vouched=True).volume
    with pytest.raises(SafetyError, match=r"RescaleType .* HU of a CT: found another unit"):
        read_series(tmp_path)
    edit(one(tmp_path), RescaleType="HU")
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array)


# Kinds of images


@pytest.mark.parametrize("tags", [{"NumberOfFrames": 3}, {"NumberOfFrames": 10**9}])
def test_multi_frame_is_refused_with_what_to_do(tmp_path, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(DataError, match=r"multi-frame object.*dcm2niix"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "PT"},
        {"Modality": "OT"},
        {"Modality": "RTDOSE"},
    ],
)
def test_slice_of_another_modality_in_a_series_is_refused(tmp_path, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(DataError, match="expected a CT or MR image by Modality"):
        read_series(tmp_path)
    one(tmp_path).unlink()  # the fix
    read_series(tmp_path)


@pytest.mark.parametrize(
    "tags", [{"SamplesPerPixel": 3}, {"PhotometricInterpretation": "PALETTE COLOR"}]
)
def test_colours_are_refused(tmp_path, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(DataError, match="expected grey pixels"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "tags", [{"BitsAllocated": 32}, {"BitsStored": 17}, {"BitsStored": 0}, {"HighBit": 11}]
)
def test_odd_bit_depths_are_refused(tmp_path, tags):
    make(tmp_path)
    edit(one(tmp_path), **tags)
    with pytest.raises(DataError, match="8 or 16 bits allocated"):
        read_series(tmp_path)


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "PixelRepresentation"])
def test_missing_layout_is_refused(tmp_path, keyword):
    make(tmp_path)
    edit(one(tmp_path), **{keyword: None})
    with pytest.raises(DataError, match=rf"expected {keyword} \(0028,.*found none"):
        read_series(tmp_path)


@pytest.mark.parametrize("value", ["../../../etc/x", "1." * 40 + "1", "1..2"])
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_invalid_uid_is_refused(tmp_path, keyword, value):
    make(tmp_path)

    def change(image):
        image[keyword]._value = uid.UID(value, validation_mode=0)

    edit(one(tmp_path), change)
    with pytest.raises(DataError, match=rf"expected a valid {keyword}") as caught:
        read_series(tmp_path)
    assert value not in str(caught.value)


def test_pixels_that_the_file_cannot_hold_are_refused_before_they_are_read(tmp_path):
    make(tmp_path)
    edit_all(tmp_path, Rows=4000, Columns=4000)
    with pytest.raises(DataError, match="expected 32000000 bytes of pixels: found a file of"):
        read_series(tmp_path)


@pytest.mark.parametrize("degrees", [(12, 7), (33, -21), (61, 40)])
def test_orientation_rounded_to_two_decimals_is_made_orthonormal_with_a_note(tmp_path, degrees):
    volume = make(tmp_path, "mr", affine(turned(*degrees)))
    exact = read_series(tmp_path)
    for path in find_dicom(tmp_path):
        rounded = [round(float(v), 2) for v in dcmread(path).ImageOrientationPatient]
        edit(path, ImageOrientationPatient=rounded)
    series = read_series(tmp_path)
    assert series.notes == ("ImageOrientationPatient (0020,0037) is rounded: made orthonormal",)
    assert np.array_equal(series.volume.array, volume.array)
    sides = series.volume.affine[:3, :2] / series.volume.spacing_mm[:2]
    assert np.allclose(sides.T @ sides, np.eye(2), atol=1e-6)
    corner = [*(np.array(volume.array.shape) - 1), 1]
    away = (series.volume.affine - exact.volume.affine) @ corner
    assert np.linalg.norm(away) < 0.01 * np.linalg.norm(volume.affine[:3, :3] @ corner[:3])
