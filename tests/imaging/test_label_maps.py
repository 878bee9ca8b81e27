"""What is no scan but a map that a program made of one."""

import numpy as np
import pytest
from scipy import ndimage

from ctmr.imaging.image import Image
from ctmr.imaging.label_maps import NotAScan, map_kind, require_scan
from ctmr.imaging.volume import Volume
from ctmr.synthetic.head import synthesise_head

HEAD = synthesise_head(7, shape=(64, 76, 60), spacing_mm=(3.0, 3.0, 3.0))
MR, CT = HEAD.mr.astype(np.float32), HEAD.ct.astype(np.float32)
INSIDE = ndimage.binary_fill_holes(MR > 60)
LEVELS = np.digitize(ndimage.gaussian_filter(MR, 1), [40, 120, 200, 280, 360])

MAPS = {
    "mask of 0 and 1": (INSIDE.astype(float), "mask"),
    "mask of 0 and 255": (INSIDE * 255.0, "mask"),
    "three labels": (LEVELS.clip(0, 2).astype(float), "label map"),
    "labels of FreeSurfer": (np.array([0, 2, 41, 3, 42, 1017])[LEVELS].astype(float), "label map"),
    "labels on a third": (np.where(np.arange(60) < 20, LEVELS, 0).astype(float), "label map"),
    "probability": (ndimage.gaussian_filter(INSIDE.astype(float), 2), "probability map"),
    "probability with traces outside": (
        ndimage.gaussian_filter(INSIDE.astype(float), 2) * 0.9999 + 4e-6,
        "probability map",
    ),
    "probability in percent": (
        ndimage.gaussian_filter(INSIDE.astype(float), 1) * 100,
        "probability map",
    ),
    "probability in 8 bits": (
        np.rint(ndimage.gaussian_filter(INSIDE.astype(float), 2) * 255),
        "probability map",
    ),
}
SCANS = {
    "MR": MR,
    "MR from 0 to 1": MR / MR.max(),
    "MR in 8 bits": np.rint(MR / MR.max() * 255),
    "MR of the brain": np.where(INSIDE, MR, 0),
    "z-scored MR": np.where(INSIDE, (MR - MR.mean()) / MR.std(), 0),
    "CT": np.rint(CT),
    "CT from 0 to 1": np.clip((CT + 1024) / 4095, 0, 1),
    "CT in a window from 0 to 1": np.clip(CT / 80, 0, 1),
    "CT in a window of 8 bits": np.rint(np.clip((CT + 100) / 400, 0, 1) * 255),
    "constant": np.zeros_like(MR),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_told_by_their_values(name):
    array, kind = MAPS[name]
    assert map_kind(array.astype(np.float32)) == kind
    with pytest.raises(NotAScan, match=f"expected a scan: found a {kind}"):
        require_scan(Volume(array.astype(np.float32), HEAD.affine))


@pytest.mark.parametrize("name", SCANS)
def test_scans_are_none(name):
    assert map_kind(SCANS[name].astype(np.float32)) is None
    require_scan(Volume(SCANS[name].astype(np.float32), HEAD.affine))


def test_image_of_black_and_one_grey_is_a_mask_and_others_are_none():
    mask = np.zeros((20, 20), np.float32)
    mask[5:15, 5:15] = 255
    with pytest.raises(NotAScan, match="found a mask"):
        require_scan(Image(mask, "grey", 8))
    require_scan(Image(mask, "HU", 16))
    mask[9, 9] = 100
    require_scan(Image(mask, "grey", 8))
    require_scan(Image(np.full((20, 20), 7, np.float32), "grey", 8))
