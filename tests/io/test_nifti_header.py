"""Headers as they lie in a file, by those of nibabel."""

import nibabel as nib
import numpy as np
import pytest

from ctmr.io.nifti_header import (
    NIFTI_1,
    NIFTI_2,
    header_in,
    new_header,
    qform,
    set_qform,
    set_sform,
    sform,
)

VERSIONS = [(NIFTI_1, nib.Nifti1Header), (NIFTI_2, nib.Nifti2Header)]
versions = pytest.mark.parametrize(("version", "kind"), VERSIONS)


def affines():
    """Straight, oblique, sheared and nearly straight ones, of either hand."""
    rng = np.random.default_rng(3)
    for n in range(40):
        straight = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        oblique = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        linear = (straight, oblique, rng.normal(size=(3, 3)), straight + 0.03 * oblique)[n % 4]
        affine = np.eye(4)
        affine[:3, :3] = linear * rng.uniform(0.3, 5, 3)
        affine[:3, 3] = rng.normal(0, 100, 3)
        yield affine


@versions
def test_header_is_that_of_nibabel_byte_for_byte(version, kind):
    for affine in affines():
        known = kind(endianness="<")
        known.set_data_dtype(np.int16)
        known.set_data_shape((5, 6, 7))
        known["scl_slope"], known["scl_inter"] = 1, 0
        known["vox_offset"] = version.size + 4
        known.set_qform(affine, code=1)
        known.set_sform(affine, code=2)
        header = new_header(version, (5, 6, 7), 4, 16)
        set_qform(header, affine, 1)
        set_sform(header, affine, 2)
        assert header.tobytes() == known.binaryblock


@pytest.mark.parametrize("order", "<>")
@versions
def test_matrices_are_those_of_nibabel(version, kind, order):
    for affine in affines():
        known = kind(endianness=order)
        known.set_qform(affine, code=1)
        known.set_sform(affine, code=2)
        header = header_in(known.binaryblock + b"voxels")
        assert header is not None
        assert np.array_equal(sform(header), known.get_sform())
        assert np.array_equal(qform(header), np.asarray(known.get_qform(), np.float64))


def test_numbers_that_are_no_rotation_make_no_matrix():
    for field, value in (("quatern", (1, 1, 0)), ("pixdim", (1, -1, 1, 1, 1, 1, 1, 1))):
        header = new_header(NIFTI_1, (5, 6, 7), 4, 16)
        header[field] = value
        assert np.isnan(qform(header)).all()


@pytest.mark.parametrize("data", [b"", b"\0" * 600, NIFTI_1.size.to_bytes(4, "little") * 100])
def test_what_has_no_magic_has_no_header(data):
    assert header_in(data) is None
