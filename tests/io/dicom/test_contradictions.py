"""Headers that lie credibly: what their pictures deny is said or refused."""

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread, uid

from ctmr.errors import SafetyError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.recognise import find_dicom
from ctmr.io.dicom.series import read_series
from ctmr.io.dicom.writer import phantom_series
from support.dicom_series import affine, edit, edit_all, make, one

SIDE = 40


def head(folder, modality="ct", fluid=0.0, air=-1000.0, shape=(SIDE, SIDE, 6)):
    """A ball of 30 to 60 HU with drops of fluid in it, in air; written, and returned as it is."""
    grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    far = np.hypot(grids[0], grids[1])
    rng = np.random.default_rng(3)
    tissue = rng.integers(30, 60, shape) if modality == "ct" else rng.integers(200, 400, shape)
    array = np.where(far < 0.8, tissue, air).astype(np.float32)
    if modality == "ct":
        array[(far > 0.74) & (far < 0.8)] = 1000  # bone
    array[(far < 0.3) & (rng.random(shape) < 0.5)] = fluid
    volume = Volume(array, affine(), modality)
    phantom_series(folder, volume, name="P1", study="S1")
    return volume


@pytest.mark.parametrize(
    ("modality", "fluid", "value"), [("ct", 0, 0), ("ct", 45, 45), ("mr", 300, 300)]
)
def test_padding_within_the_head_is_kept_with_a_warning(tmp_path, caplog, modality, fluid, value):
    volume = head(tmp_path, modality, fluid, -1000 if modality == "ct" else 5)
    edit_all(tmp_path, PixelPaddingValue=value)
    series = read_series(tmp_path)
    assert np.array_equal(series.volume.array, volume.array)
    said = [line for line in caplog.messages if "PixelPaddingValue (0028,0120)" in line]
    assert len(said) == 1
    assert f"{int((volume.array == value).sum())} pixels" in said[0]
    names = [str(path) for path in find_dicom(tmp_path)]
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(names))
    assert np.array_equal(theirs.T, series.volume.array)


def test_padding_around_the_picture_is_air_though_it_is_a_value_of_fluid(tmp_path, caplog):
    volume = head(tmp_path, fluid=0, air=0)  # skull-stripped: 0 outside and in the fluid
    edit_all(tmp_path, PixelPaddingValue=0)
    found = read_series(tmp_path).volume.array
    grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in volume.array.shape), indexing="ij")
    outside = np.hypot(grids[0], grids[1]) >= 0.8
    assert (found[outside] == -1024).all()
    assert np.array_equal(found[~outside], volume.array[~outside])
    assert "kept as values" in caplog.text


@pytest.mark.parametrize("value", [-2000, -1024])
def test_padding_of_no_tissue_is_air_wherever_it_lies(tmp_path, caplog, value):
    volume = head(tmp_path, fluid=value)
    edit_all(tmp_path, PixelPaddingValue=value)
    found = read_series(tmp_path).volume.array
    assert (found[volume.array == value] == -1024).all()
    assert caplog.text == ""


def test_range_of_padding_that_covers_the_head_is_distrusted(tmp_path, caplog):
    volume = head(tmp_path, air=-950)
    edit_all(tmp_path, PixelPaddingValue=-2000, PixelPaddingRangeLimit=50)
    found = read_series(tmp_path).volume.array
    tissue = volume.array > -900
    assert np.array_equal(found[tissue], volume.array[tissue])
    assert "kept as values" in caplog.text


def unsigned(folder, offset, intercept):
    """Store values that are `offset` higher, without a sign."""

    def change(image):
        pixels = np.frombuffer(image.PixelData, "<i2").astype(np.int32) + offset
        image.PixelData = pixels.astype("<u2").tobytes()
        image.PixelRepresentation, image.RescaleIntercept = 0, intercept

    edit_all(folder, change)


@pytest.mark.parametrize("fluid", [0, 20, 45])
def test_ct_in_hu_plus_1024_is_refused_with_the_option_that_reads_it(tmp_path, fluid):
    volume = head(tmp_path, fluid=fluid, air=-1000)
    unsigned(tmp_path, 1024, 0)
    with pytest.raises(SafetyError, match=r"looks like HU \+ 1024") as caught:
        read_series(tmp_path)
    assert caught.value.fix == "give --ct-values hu+1024"
    found = read_series(tmp_path, vouched=True).volume.array
    assert np.array_equal(found - 1024, volume.array)


def test_ct_whose_intercept_is_true_is_no_shifted_one(tmp_path):
    volume = head(tmp_path)
    unsigned(tmp_path, 1024, -1024)
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array)


@pytest.mark.parametrize("tags", [{"RescaleIntercept": -2048}, {"RescaleSlope": 10}])
def test_slice_set_apart_by_its_rescale_is_named(tmp_path, caplog, tags):
    head(tmp_path)
    edit(find_dicom(tmp_path)[3], **tags)
    read_series(tmp_path)
    assert "'slice_0004.dcm'" in caplog.text
    assert "(1 such)" in caplog.text


def test_slopes_of_an_mr_that_cannot_fit_together_are_said(tmp_path, caplog):
    make(tmp_path, "mr")
    edit_all(tmp_path, RescaleSlope=1, RescaleIntercept=0)
    read_series(tmp_path)
    assert caplog.text == ""
    edit(one(tmp_path), RescaleSlope=1000)
    read_series(tmp_path)
    assert "from 1 to 1e+03" in caplog.text


def test_spacing_between_slices_that_the_positions_deny_is_said(tmp_path, caplog):
    volume = make(tmp_path)
    edit_all(tmp_path, SpacingBetweenSlices=2.5)
    read_series(tmp_path)
    assert caplog.text == ""
    edit_all(tmp_path, SpacingBetweenSlices=5)
    assert np.allclose(read_series(tmp_path).volume.affine, volume.affine, atol=1e-9)
    assert "says 5 mm, but the slices lie 2.5 mm apart" in caplog.text


def test_class_of_another_modality_is_said_and_modality_believed(tmp_path, caplog):
    make(tmp_path)
    edit_all(tmp_path, SOPClassUID=uid.MRImageStorage)
    assert read_series(tmp_path).volume.modality == "ct"
    assert "6 of 6 files is not that of CT" in caplog.text


def test_orientation_that_the_positions_deny_is_refused(tmp_path):
    make(tmp_path)
    for k, path in enumerate(find_dicom(tmp_path)):
        edit(path, ImagePositionPatient=[0, 3 * k, 0])  # beside each other, all said to be axial
    with pytest.raises(SafetyError, match="the header contradicts itself"):
        read_series(tmp_path)


def test_patient_position_and_window_change_nothing(tmp_path, caplog):
    volume = make(tmp_path)
    edit_all(tmp_path, PatientPosition="FFP", WindowCenter=9999, WindowWidth=1)
    assert np.array_equal(read_series(tmp_path).volume.array, volume.array)
    assert caplog.text == ""
    assert dcmread(one(tmp_path)).PatientPosition == "FFP"


def test_values_read_without_their_sign_are_said(tmp_path, caplog):
    head(tmp_path)
    edit_all(tmp_path, PixelRepresentation=0)  # -1000 becomes 64536
    read_series(tmp_path)
    assert "PixelRepresentation (0028,0103) or the bits stored seem to be wrong" in caplog.text


@pytest.mark.parametrize("unit", [{"RescaleType": "US"}, {"RescaleSlope": None}])
def test_padding_of_a_ct_in_an_unknown_unit_becomes_its_lowest_value(tmp_path, unit):
    volume = head(tmp_path, air=-1000)
    edit_all(tmp_path, lambda image: image.add_new("PixelPaddingValue", "SS", -1000), **unit)
    found = read_series(tmp_path, vouched=True).volume.array
    lowest = float(volume.array[volume.array > -1000].min())
    assert found.min() == lowest
    assert (found[volume.array == -1000] == lowest).all()
