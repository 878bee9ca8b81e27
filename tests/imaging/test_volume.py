"""Axes to RAS+ and back, by the world coordinates of marked voxels and by nibabel."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from ctmr.imaging.volume import Volume, axial_slices, canonical, from_axial_slices, like

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
    assert found.array.flags.c_contiguous


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
    assert back.flags.c_contiguous


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
    assert slices.flags.c_contiguous
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
