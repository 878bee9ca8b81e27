"""Axes to RAS+ and back, by the world coordinates of marked voxels, by nibabel and by SimpleITK."""

import itertools
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from ctmr.errors import SafetyError, UsageError
from ctmr.imaging.volume import (
    Forms,
    Volume,
    axial_slices,
    canonical,
    from_axial_slices,
    like,
    pieces,
)

# Every order of the axes, each way round.
ORIENTATIONS = [
    np.eye(3)[:, order] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SHAPE = (5, 8, 3)


def rotation(degrees: float) -> np.ndarray:
    """A turn around an axis that is none of the patient's (Rodrigues' formula)."""
    x, y, z = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(axes: np.ndarray, shape: str = "straight") -> np.ndarray:
    """An affine with axes near these, voxels of 0.5 x 0.75 x 3 mm and an odd origin."""
    linear = axes * (0.5, 0.75, 3.0)
    if shape == "oblique":
        linear = rotation(17) @ linear
    if shape == "sheared":  # a gantry tilt of 20 degrees: slices shifted along J
        linear[:, 2] += np.tan(np.radians(20)) * 3.0 * axes[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (-31.25, 12.5, 7.0)
    return affine


def volume_of(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """Every voxel with a value of its own."""
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine, "ct")


def world(volume: Volume, value: float) -> np.ndarray:
    """Where in mm the voxel of this value lies."""
    (index,) = np.argwhere(volume.array == value)
    return (volume.affine @ [*index, 1])[:3]


every_orientation = pytest.mark.parametrize("axes", ORIENTATIONS)
every_shape = pytest.mark.parametrize("shape", ["straight", "oblique", "sheared"])


@every_shape
@every_orientation
def test_canonical_is_that_of_nibabel(axes, shape):
    volume = volume_of(affine_of(axes, shape))
    found = canonical(volume)
    expected = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    assert np.array_equal(found.array, expected.get_fdata())
    assert np.allclose(found.affine, expected.affine, atol=1e-12)
    assert found.axes == ("R", "A", "S")
    assert found.modality == "ct"
    assert np.shares_memory(found.array, volume.array)


@every_shape
@every_orientation
def test_canonical_leaves_every_voxel_where_it_is_in_the_patient(axes, shape):
    volume = volume_of(affine_of(axes, shape))
    found = canonical(volume)
    for value in (0.0, 1.0, 50.0, volume.array.max()):
        assert np.allclose(world(found, value), world(volume, value), atol=1e-9)


@every_shape
@every_orientation
def test_canonical_axes_run_to_the_right_the_front_and_up(axes, shape):
    found = canonical(volume_of(affine_of(axes, shape)))
    assert (np.diag(found.affine)[:3] > 0).all()
    assert list(np.abs(found.affine[:3, :3]).argmax(axis=0)) == [0, 1, 2]


@every_shape
@every_orientation
def test_like_is_the_inverse_of_canonical(axes, shape):
    volume = volume_of(affine_of(axes, shape))
    back = like(canonical(volume).array, volume)
    assert np.array_equal(back, volume.array)
    assert np.shares_memory(back, volume.array)


@every_orientation
def test_way_through_axial_slices_and_back_is_exact(axes):
    volume = volume_of(affine_of(axes))
    slices = axial_slices(canonical(volume).array)
    assert np.array_equal(like(from_axial_slices(slices), volume), volume.array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 2), (9, 1, 5), (4, 6, 1), (17, 31, 3)])
def test_odd_sizes_and_single_voxels_survive(shape):
    for axes in ORIENTATIONS:
        volume = volume_of(affine_of(axes), shape)
        slices = axial_slices(canonical(volume).array)
        assert np.array_equal(like(from_axial_slices(slices), volume), volume.array)


@every_orientation
def test_slices_show_the_front_at_the_top_and_the_right_at_the_left(axes):
    """By hand: one marked voxel that lies to the right, in front and on top of all others."""
    affine = affine_of(axes)
    array = np.zeros(SHAPE, np.float32)
    indices = np.indices(SHAPE).reshape(3, -1).T
    places = indices @ affine[:3, :3].T
    right_front_top = indices[places.sum(axis=1).argmax()]
    array[tuple(right_front_top)] = 1.0
    slices = axial_slices(canonical(Volume(array, affine)).array)  # (K, rows, columns)
    assert np.shares_memory(slices, array)
    assert np.argwhere(slices).tolist() == [[slices.shape[0] - 1, 0, 0]]


def test_slices_of_a_small_array_by_hand():
    # I = 2 runs to the right, J = 3 to the front, one slice: left column 0 1 2 from back to front, right one 3 4 5.
    array = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    assert axial_slices(array).tolist() == [[[5, 2], [4, 1], [3, 0]]]
    assert from_axial_slices(axial_slices(array)).tolist() == array.tolist()


@every_shape
def test_spacing_is_the_length_of_the_axes(shape):
    volume = volume_of(affine_of(ORIENTATIONS[5], shape))
    expected = nib.affines.voxel_sizes(volume.affine)
    assert np.allclose(volume.spacing_mm, expected)
    assert volume.axes == nib.aff2axcodes(volume.affine)


def test_repr_says_size_spacing_and_axes():
    text = repr(volume_of(affine_of(np.diag([-1, 1, 1]))))
    assert text == "Volume(ct, 5 x 8 x 3, 0.5 x 0.75 x 3 mm, LAS)"


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((2, 2), np.float32), np.eye(4), r"\(I, J, K\) float32: got \(2, 2\)"),
        (np.zeros((2, 2, 2)), np.eye(4), "float32: got .* float64"),
        (np.zeros((2, 2, 2), np.float32), np.eye(3), r"\(4, 4\) and finite"),
        (np.zeros((2, 2, 2), np.float32), np.eye(4) * np.nan, r"\(4, 4\) and finite"),
        (np.zeros((2, 2, 2), np.float32), np.diag([1.0, 1, 0, 1]), "must not be singular"),
    ],
)
def test_volume_that_is_none_is_refused(array, affine, message):
    with pytest.raises(ValueError, match=message):
        Volume(array, affine)


# To and from nibabel and SimpleITK

# Eight orientations of a header: each way round, and two orders of the axes.
HEADERS = [
    np.eye(3)[:, order] * signs
    for order in ((0, 1, 2), (1, 2, 0))
    for signs in ((1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1))
]
eight_orientations = pytest.mark.parametrize("axes", HEADERS)
INDICES = [(0, 0, 0), (4, 0, 0), (0, 7, 0), (0, 0, 2), (4, 7, 2), (1, 2, 1)]


@every_shape
@eight_orientations
def test_nibabel_has_every_voxel_at_its_place_and_gives_the_volume_back(axes, shape):
    volume = volume_of(affine_of(axes, shape))
    image = volume.to_nibabel()
    assert np.array_equal(image.get_fdata(), volume.array)
    assert np.allclose(image.affine, volume.affine, atol=1e-5)  # float32 in the header
    sform, code = image.get_sform(coded=True)
    assert code == 1
    assert np.allclose(sform, volume.affine, atol=1e-5)
    qform, code = image.get_qform(coded=True)
    if shape == "sheared":
        assert code == 0
    else:
        assert code == 1
        assert np.allclose(qform, volume.affine, atol=1e-4)
    assert nib.aff2axcodes(image.affine) == volume.axes
    again = Volume.from_nibabel(image, "ct")
    assert np.array_equal(again.array, volume.array)
    assert np.allclose(again.affine, volume.affine, atol=1e-5)
    assert again.modality == "ct"


@every_shape
@eight_orientations
def test_volume_of_nibabel_lies_where_nibabel_says(axes, shape):
    array = np.arange(120, dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(array, affine_of(axes, shape))
    image = nib.Nifti1Image.from_bytes(image.to_bytes())
    volume = Volume.from_nibabel(image)
    for index in INDICES:
        expected = nib.affines.apply_affine(image.affine, index)
        assert np.allclose(world(volume, array[index]), expected, atol=1e-9)
    assert volume.modality is None
    written = volume.to_nibabel()
    for name in ("get_sform", "get_qform"):
        (matrix, code), (first, kept) = (
            getattr(each, name)(coded=True) for each in (written, image)
        )
        assert code == kept
        assert (matrix is None) == (first is None)
        if first is not None:
            assert np.allclose(matrix, first, atol=1e-4)


def test_both_matrices_of_a_header_come_back_with_their_codes():
    aligned = affine_of(np.eye(3))
    scanner = aligned.copy()
    scanner[:3, 3] += (3, -4, 5)
    volume = Volume(volume_of(aligned).array, aligned, "mr", Forms(scanner, 1, aligned, 4))
    image = volume.to_nibabel()
    assert (image.header["qform_code"], image.header["sform_code"]) == (1, 4)
    again = Volume.from_nibabel(image)
    assert again.forms is not None
    assert np.allclose(again.forms.qform, scanner, atol=1e-5)
    assert np.allclose(again.forms.sform, aligned, atol=1e-5)
    assert (again.forms.qform_code, again.forms.sform_code) == (1, 4)


def test_image_of_another_format_is_taken_by_its_affine():
    affine = affine_of(np.diag([-1, 1, 1]))
    image = nib.MGHImage(volume_of(affine).array, affine)
    volume = Volume.from_nibabel(image, "mr")
    assert np.allclose(volume.affine, affine, atol=1e-5)
    assert volume.forms is None


@pytest.mark.parametrize(
    ("modality", "window"), [("ct", (0, 80)), ("mr", (0, 1000)), (None, (0, 0))]
)
def test_image_of_nibabel_says_what_to_show(modality, window):
    header = Volume(volume_of(np.eye(4)).array, np.eye(4), modality).to_nibabel().header
    assert (header["cal_min"], header["cal_max"]) == window
    assert header.get_xyzt_units()[0] == "mm"


def test_header_that_leaves_left_and_right_open_is_refused():
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine_of(np.eye(3)))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    with pytest.raises(SafetyError, match="found both codes 0"):
        Volume.from_nibabel(image)
    image.set_sform(affine_of(np.eye(3)), 1)
    image.set_qform(affine_of(np.diag([-1, 1, 1])), 1)
    with pytest.raises(SafetyError, match="a qform of LAS and a sform of RAS"):
        Volume.from_nibabel(image)


def test_image_of_nibabel_that_is_no_volume_in_mm_is_refused():
    with pytest.raises(ValueError, match=r"image must have 3 axes: got \(2, 2, 2, 5\)"):
        Volume.from_nibabel(nib.Nifti1Image(np.zeros((2, 2, 2, 5), np.float32), np.eye(4)))
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    image.header.set_xyzt_units("micron")
    with pytest.raises(ValueError, match="image must be in mm: got 'micron'"):
        Volume.from_nibabel(image)


@every_shape
@eight_orientations
def test_simpleitk_has_every_voxel_at_its_place_and_gives_the_volume_back(axes, shape):
    volume = volume_of(affine_of(axes, shape))
    image = volume.to_sitk()
    assert image.GetSize() == SHAPE
    assert np.allclose(image.GetSpacing(), volume.spacing_mm)
    for index in INDICES:
        assert image.GetPixel(index) == volume.array[index]
        right, front, up = nib.affines.apply_affine(volume.affine, index)
        place = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose(place, (-right, -front, up), atol=1e-9)
    again = Volume.from_sitk(image, "ct")
    assert np.array_equal(again.array, volume.array)
    assert np.allclose(again.affine, volume.affine, atol=1e-9)
    assert again.modality == "ct"
    assert again.array.flags.c_contiguous


@eight_orientations
def test_simpleitk_and_nibabel_agree_on_a_file(axes, tmp_path):
    """Two libraries that know nothing of ctmr between the two ways."""
    volume = volume_of(affine_of(axes, "oblique"))
    SimpleITK.WriteImage(volume.to_sitk(), str(tmp_path / "a.nii"))
    image = nib.load(tmp_path / "a.nii")
    assert np.array_equal(image.get_fdata(), volume.array)
    assert np.allclose(image.affine, volume.affine, atol=1e-4)
    nib.save(volume.to_nibabel(), tmp_path / "b.nii")
    other = Volume.from_sitk(SimpleITK.ReadImage(str(tmp_path / "b.nii")))
    assert np.array_equal(other.array, volume.array)
    assert np.allclose(other.affine, volume.affine, atol=1e-4)


def test_images_hold_copies():
    volume = volume_of(np.eye(4))
    image, other = volume.to_nibabel(), volume.to_sitk()
    again = Volume.from_nibabel(image)
    volume.array[0, 0, 0] = -5
    assert image.get_fdata()[0, 0, 0] == other.GetPixel((0, 0, 0)) == again.array[0, 0, 0] == 0


def test_image_of_simpleitk_that_is_no_volume_of_real_numbers_is_refused():
    with pytest.raises(ValueError, match="3 axes and one value a voxel: got 2 axes and 1 values"):
        Volume.from_sitk(SimpleITK.Image((4, 4), SimpleITK.sitkFloat32))
    colour = SimpleITK.Image((4, 4, 4), SimpleITK.sitkVectorUInt8, 3)
    with pytest.raises(ValueError, match="got 3 axes and 3 values"):
        Volume.from_sitk(colour)


def test_missing_simpleitk_is_named_with_what_to_install(monkeypatch):
    image = volume_of(np.eye(4)).to_sitk()
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    for call in (volume_of(np.eye(4)).to_sitk, lambda: Volume.from_sitk(image)):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.fix == "pip install SimpleITK"


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "u2"])
def test_integers_of_a_file_become_float32_when_they_are_asked_for_or_leave_the_program(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    volume = Volume(array, np.eye(4), "mr")
    assert volume.array is array
    for found in (volume.in_float().array, volume.to_nibabel().get_fdata(dtype=np.float32)):
        assert found.dtype == np.float32
        assert np.array_equal(found, array)
    assert volume.to_nibabel().get_data_dtype() == np.float32
    with pytest.raises(ValueError, match="float32"):
        Volume(array.astype("i4"), np.eye(4), "mr")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "i2", ">i2"])
def test_pieces_are_all_values_once(monkeypatch, dtype, order):
    monkeypatch.setattr("ctmr.imaging.volume.PIECE", 64)
    array = np.asarray(np.arange(6 * 7 * 11).reshape(6, 7, 11), dtype, order)[::-1, :, 1:]
    found = [piece.copy() for piece in pieces(array)]
    assert {piece.dtype for piece in found} == {np.dtype(np.float32)}
    assert max(map(len, found)) <= 64
    assert sorted(np.concatenate(found)) == sorted(array.ravel())
