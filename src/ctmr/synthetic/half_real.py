"""Half-real pairs: a real CT slice, and an MR rendered from what its HU tell of its tissues."""

import numpy as np
import numpy.typing as npt
import scipy

from ctmr.synthetic.anatomies import CODE, largest_part
from ctmr.synthetic.artefacts import Image, mr_scanner
from ctmr.synthetic.contrasts import draw_contrast, draw_signals
from ctmr.synthetic.planes import smooth
from ctmr.system.rng import stream

Mask = npt.NDArray[np.bool_]

# Between tissues, in HU.
AIR_HU, FAT_HU, BONE_HU, DENSE_HU = -350.0, -25.0, 200.0, 850.0
FLUID_HU, BLOOD_HU, CALCIUM_HU = 18.0, 58.0, 110.0
HIDES_FAT_HU = -60.0
"""A window that begins above this shows fat as it shows air."""
MIN_CAVITY_SHARE = 0.12
"""Of the head: a smaller part of soft tissue is not taken for the brain."""


def rendered_mr(
    hu: Image, pixel_mm: float, *key: int | str, low_hu: float = -1024.0
) -> tuple[Image, Mask]:
    """An MR (H, W) of a random contrast with the anatomy of a real CT slice, white matter about 1, and where its head is.

    Grey and white matter, which a CT hardly tells apart, are divided at random.

    Args:
        hu: The slice in HU (H, W), front at the top.
        pixel_mm: Pixel size.
        key: All randomness is a pure function of it.
        low_hu: Lowest HU that the values can show.
    """
    rng = stream("rendered mr", *key)
    head = _head(hu, max(AIR_HU, low_hu + 1.0))
    tissue = _tissues(rng, hu, head, pixel_mm)
    if low_hu > HIDES_FAT_HU:
        tissue, head = _with_fat(rng, tissue, head, pixel_mm)
    signals = draw_signals(rng, draw_contrast(rng))
    signals[CODE["cortical bone"]] = max(signals[CODE["cortical bone"]], rng.uniform(0, 0.3))
    partial = scipy.ndimage.gaussian_filter(signals[tissue], rng.uniform(0.3, 0.8) / pixel_mm)
    return mr_scanner(rng, partial, pixel_mm, head), head


def _head(hu: Image, above: float) -> Mask:
    """What is denser than air, without the table."""
    dense = scipy.ndimage.binary_opening(hu > above, iterations=2)
    if not dense.any():
        return np.zeros(hu.shape, bool)
    filled: Mask = scipy.ndimage.binary_fill_holes(largest_part(dense))
    return filled


def _tissues(
    rng: np.random.Generator, hu: Image, head: Mask, pixel_mm: float
) -> npt.NDArray[np.uint8]:
    """Tissue of each pixel (H, W) by its HU and by where it lies."""
    shape = (hu.shape[0], hu.shape[1])
    tissue = np.full(shape, CODE["air"], np.uint8)
    depth = scipy.ndimage.distance_transform_edt(head) * pixel_mm
    peak = scipy.ndimage.maximum_filter(hu, 2 * max(1, round(2.5 / pixel_mm)) + 1)
    bone = head & (hu > np.maximum(BONE_HU, peak / 2))  # the rest of its edge is blur of the CT
    bone_depth = scipy.ndimage.distance_transform_edt(bone) * pixel_mm
    tissue[head & (hu <= AIR_HU)] = CODE["sinus air"]
    tissue[head & (hu > AIR_HU) & (hu <= FAT_HU)] = CODE["fat"]
    soft = head & (hu > FAT_HU) & ~bone
    tissue[soft] = CODE["muscle"]

    cavity = _cavity(soft & (hu < CALCIUM_HU), head, pixel_mm)
    mild = scipy.ndimage.gaussian_filter(
        np.where(cavity, hu, 30.0).astype(np.float32), 1.3 / pixel_mm
    )
    inner = scipy.ndimage.distance_transform_edt(cavity) * pixel_mm
    ribbon = inner < rng.uniform(1.5, 4) + smooth(rng, shape, 30)[0]
    folds = smooth(rng, shape, 22)[0] > rng.uniform(0.3, 1.5)
    tissue[cavity] = CODE["white matter"]
    tissue[cavity & (ribbon | folds)] = CODE["grey matter"]
    tissue[cavity & (mild < rng.normal(FLUID_HU, 2))] = CODE["csf"]
    tissue[cavity & (mild > BLOOD_HU)] = CODE["bleed"]
    tissue[cavity & (inner < rng.uniform(0, 0.7))] = CODE["dura"]

    tissue[bone] = CODE["cortical bone"]
    tissue[bone & (hu < DENSE_HU) & (bone_depth > 1.2)] = CODE["diploe"]
    rim = head & (depth < rng.uniform(1.2, 2.6)) & ~bone
    tissue[rim] = CODE["skin"]
    tissue[rim & (depth < rng.uniform(0, 0.9))] = CODE["tendon"]
    near_bone = scipy.ndimage.distance_transform_edt(~bone) * pixel_mm < rng.uniform(0, 1.1)
    tissue[near_bone & ~bone & ~cavity & head & (tissue != CODE["sinus air"])] = CODE["tendon"]
    return tissue


def _cavity(soft: Mask, head: Mask, pixel_mm: float) -> Mask:
    """The inside of the skull: the largest soft part that a disk of 8 mm fits into; empty if it is small."""
    radius = max(1, round(4 / pixel_mm))
    core = scipy.ndimage.distance_transform_edt(soft) > radius
    if not core.any():
        return np.zeros_like(soft)
    near = scipy.ndimage.distance_transform_edt(~largest_part(core)) <= radius + 1
    cavity: Mask = near & soft
    return cavity if cavity.sum() >= MIN_CAVITY_SHARE * head.sum() else np.zeros_like(soft)


def _with_fat(
    rng: np.random.Generator, tissue: npt.NDArray[np.uint8], head: Mask, pixel_mm: float
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """The tissues with fat and skin drawn where the window shows nothing, and the larger head."""
    away = scipy.ndimage.distance_transform_edt(~head) * pixel_mm
    skin = rng.uniform(2, 8) + smooth(rng, (head.shape[0], head.shape[1]), 6)[0]
    closed = scipy.ndimage.binary_fill_holes(head | (away < skin))
    tissue = tissue.copy()
    unseen = closed & (tissue == CODE["air"])
    tissue[unseen] = CODE["fat"]
    tissue[unseen & (away > skin - rng.uniform(1, 2))] = CODE["skin"]
    return tissue, closed
