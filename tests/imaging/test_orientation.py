"""Orientations, by those of nibabel."""

import nibabel as nib
import numpy as np

from ctmr.imaging.orientation import orientation_of


def test_orientation_of_any_affine_is_that_of_nibabel():
    rng = np.random.default_rng(2)
    for n in range(300):
        affine = np.eye(4)
        straight = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        affine[:3, :3] = (straight + rng.normal(0, 0.4 * (n % 3), (3, 3))) * rng.uniform(0.3, 5, 3)
        known = nib.io_orientation(affine)
        found = orientation_of(affine)
        assert [*found.order] == [*known[:, 0]]
        assert [*found.signs] == [*known[:, 1]]
        assert found.codes == nib.aff2axcodes(affine)
        array = np.arange(60).reshape(3, 4, 5)
        turned = found.upright(array)
        assert np.array_equal(turned, nib.apply_orientation(array, known))
        assert np.array_equal(found.back(turned), array)
        back = nib.orientations.inv_ornt_aff(known, array.shape)
        assert np.array_equal(found.from_upright(array.shape), back)
